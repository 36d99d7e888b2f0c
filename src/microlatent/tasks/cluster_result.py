"""What ``task=cluster`` starts from, and what it found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from microlatent.analysis.agreement import agreement_with
from microlatent.analysis.clustering import NOISE, Clustering
from microlatent.analysis.components import PCA
from microlatent.analysis.stability import Stability
from microlatent.data.latents import Latents, Patches
from microlatent.data.sections import Section
from microlatent.drawing.clusters import NOISE_NAME


class ClusterInput(NamedTuple):
    """Latents, and the patches that they are of."""

    latents: Latents
    patches: Patches
    train: np.ndarray  # rows that components and clusters are fitted to
    shown: list[Section]  # images to draw; none where rows have no places
    images: np.ndarray | None  # (N,) number of each row's image


class ClusterResult(NamedTuple):
    """The clusters of all N patches."""

    pca: PCA
    z: np.ndarray  # (N, D) components
    found: Clustering
    stable: Stability
    means: np.ndarray  # (N, C) of each marker, counts
    by_means: np.ndarray  # (N,) clusters of these means alone, a baseline
    exemplars: list[np.ndarray]  # rows of each cluster

    @property
    def names(self) -> list[str]:
        """Return the clusters' names, from 1; noise, where there is some, is the last."""
        return [str(number + 1) for number in range(self.found.num)] + [NOISE_NAME] * bool((self.found.labels == NOISE).any())

    @property
    def code(self) -> np.ndarray:
        """Return the place (N,) of each patch's cluster among the names."""
        return np.where(self.found.labels == NOISE, self.found.num, self.found.labels)

    @property
    def ari_markers(self) -> float:
        """Return the adjusted Rand index with the clusters of marker means alone; NaN of fewer than two clusters."""
        return agreement_with(self.found.labels, self.by_means)["ari"] if self.found.num > 1 else np.nan
