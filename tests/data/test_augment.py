"""Flips and quarter turns."""

import numpy as np
import pytest
import torch

from microlatent.data.augment import dihedral, draw


def test_given_draws_give_the_references_patches(golden_folder):
    golden = np.load(golden_folder / "golden_preprocess.npz")
    turned = dihedral(torch.from_numpy(golden["aug_in"]), torch.from_numpy(golden["aug_draws_seed42"]))
    assert np.array_equal(turned.numpy(), golden["aug_out_seed42"])


def test_draws_follow_the_references_distribution():
    patch = torch.arange(9.0).view(1, 1, 3, 3)
    turned = dihedral(patch.expand(12_000, -1, -1, -1), draw(12_000, torch.Generator().manual_seed(0)))
    _, counts = turned.flatten(1).unique(dim=0, return_counts=True)
    shares = np.sort(counts.numpy() / 12_000)
    assert np.allclose(shares, [1 / 12] * 4 + [1 / 6] * 4, atol=0.015)


def test_equal_seeds_give_equal_draws():
    assert torch.equal(draw(20, torch.Generator().manual_seed(3)), draw(20, torch.Generator().manual_seed(3)))


def test_augmentation_moves_pixels_and_changes_none():
    x = torch.randn(6, 2, 8, 8)
    turned = dihedral(x, draw(6, torch.Generator().manual_seed(1)))
    assert torch.equal(turned.flatten(2).sort(-1).values, x.flatten(2).sort(-1).values)


def test_oblong_patches_are_refused_with_their_size():
    with pytest.raises(ValueError, match=r"4 x 6 pixels.*data\.augment"):
        dihedral(torch.zeros(1, 1, 4, 6), torch.zeros(1, 2, dtype=torch.long))
