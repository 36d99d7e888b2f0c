"""Settings of handwritten digits: ``data=mnist`` and its task."""

from __future__ import annotations

from dataclasses import dataclass

from microlatent.schemas.checks import MISSING, NORMALISATIONS, one_of, within


@dataclass(kw_only=True)
class MnistConfig:
    """Handwritten digits in idx files (``systems/mnist/source.py``)."""

    name: str = MISSING
    root: str | None = None  # folder with the idx files of images and labels, plain or gzip
    store: str | None = None  # folder of the assembled store; default outputs/stores/mnist-<name of root>
    channels: list[str] | None = None  # the one there is: intensity
    normalise: str | None = None  # gauss (0..100), bern (1 above the mean), dataset (z-score), patch, none; default: the model's
    split_by: str = "image"  # image: every digit is on its own
    val_share: float = 0.1  # share of the images that choose the best checkpoint
    test_share: float = 0.1  # share of the images that only the final numbers see
    augment: bool = False  # random flips and quarter turns in training: a turned 6 is no 6

    def __post_init__(self) -> None:
        if self.normalise is not None:
            one_of("data.normalise", self.normalise, NORMALISATIONS)
        one_of("data.split_by", self.split_by, ("image",))
        within("data.val_share", self.val_share, 0.0, 0.9)
        within("data.test_share", self.test_share, 0.0, 0.9)


@dataclass(kw_only=True)
class AssembleMnistConfig:
    """Idx files of digits to one store (``systems/mnist/assemble.py``)."""

    name: str = MISSING
    overwrite: bool = False  # replace a store that was made from another root
