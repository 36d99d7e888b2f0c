"""What ``task=cluster`` found on scans."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from microlatent.analysis.clustering import NOISE, Clustering
from microlatent.drawing.clusters import NOISE_NAME


class ScanClusters(NamedTuple):
    """The clusters of the n points of a field; their numbers, from 0, are those of files and figures."""

    found: Clustering  # of the known points
    labels: np.ndarray  # (n,) cluster, NOISE for noise and for what is missing
    known: np.ndarray  # (n,) bool: it was clustered
    silhouette: float
    silhouettes: np.ndarray  # (K,)
    stable: pd.DataFrame  # adjusted Rand index of every refit
    jaccard: np.ndarray  # (B, K) of each cluster in every refit to resampled blocks
    shown: np.ndarray  # (n,) the latent that figure and table show
    shown_label: str
    hue: np.ndarray  # (K,) degrees
    chroma: np.ndarray  # (K,)

    def categories(self) -> pd.Categorical:
        """Return the clusters as words: their numbers, noise, and nothing where a point was not clustered."""
        names = [str(number) for number in range(self.found.num)]
        noise = self.known & (self.labels == NOISE)
        codes = np.where(noise, len(names), self.labels)
        return pd.Categorical.from_codes(np.where(self.known, codes, -1), names + [NOISE_NAME] * bool(noise.any()))
