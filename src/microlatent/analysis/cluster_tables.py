"""Tables that say what clusters are: their size, what they hold, whose they are, who lies in them.

``code`` (N,) is the place of each patch's cluster in the list of ``names``; noise, where there is some, is the last name.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microlatent.analysis.clustering import Clustering
from microlatent.analysis.stability import Stability

# Columns that say who a patch is, as far as a table has them.
IDENTITY = ("part", "group", "subject", "image", "row_px", "col_px", "well", "site", "frame", "true_digit")


def clusters(obs: pd.DataFrame, code: NDArray, names: list[str], widths: NDArray, stable: Stability) -> pd.DataFrame:
    """Return size, share over all and over each part, silhouette and stability of each cluster."""
    size = np.bincount(code, minlength=len(names))
    table = pd.DataFrame({"cluster": names, "size": size, "share": size / len(code)})
    parts = obs["part"].to_numpy(str) if "part" in obs else np.full(len(obs), "")
    for part in [name for name in ("train", "val", "test") if (parts == name).any()]:
        table[f"share_{part}"] = np.bincount(code[parts == part], minlength=len(names)) / (parts == part).sum()
    known = np.isfinite(stable.jaccard).any(0)
    jaccard = np.full(len(known), np.nan)
    jaccard[known] = np.nanmean(stable.jaccard[:, known], 0)
    gap = len(names) - len(widths)
    table["silhouette"], table["jaccard_stability"] = (np.append(part, [np.nan] * gap) for part in (widths, jaccard))
    return table


def marker_means(means: NDArray, code: NDArray, names: list[str], channels: list[str]) -> pd.DataFrame:
    """Return for each cluster and marker the mean intensity, counts, and how far it is from that of all patches."""
    centre, std = means.mean(0), means.std(0)
    std = np.where(std > 0, std, np.nan)
    records = [
        {"cluster": name, "marker": channel, "mean_counts": level, "z": (level - centre[at]) / std[at]}
        for number, name in enumerate(names)
        for at, (channel, level) in enumerate(zip(channels, means[code == number].mean(0), strict=True))
    ]
    return pd.DataFrame(records)


def assignments(obs: pd.DataFrame, z: NDArray, found: Clustering, code: NDArray, names: list[str]) -> pd.DataFrame:
    """Return one row per patch: who it is, its cluster, how surely, and how far from the cluster's centre."""
    columns = [name for name in IDENTITY if name in obs]
    table = obs[columns].reset_index(drop=True)
    table.insert(0, "patch", obs.index.to_numpy())
    table["cluster"], table["confidence"] = np.array(names)[code], found.confidence
    table["distance"] = np.nan
    for number, centre in enumerate(found.centres):
        rows = np.flatnonzero(code == number)
        table.loc[rows, "distance"] = np.linalg.norm(z[rows] - centre, axis=1)
    return table


def exemplars(obs: pd.DataFrame, z: NDArray, found: Clustering, chosen: list[NDArray], names: list[str]) -> pd.DataFrame:
    """Return which patches the exemplars' figures show."""
    records = [
        {"cluster": names[number], "place": place + 1, "patch": obs.index[row]}
        | {"distance": np.linalg.norm(z[row] - found.centres[number])}
        for number, rows in enumerate(chosen)
        for place, row in enumerate(rows)
    ]
    return pd.DataFrame(records, columns=["cluster", "place", "patch", "distance"])


def composition(values: NDArray, by: str, code: NDArray, names: list[str]) -> pd.DataFrame:
    """Return the share of each cluster in each subject (well, digit)."""
    groups, at = np.unique(values, return_inverse=True)
    counts = np.zeros((len(groups), len(names)), int)
    np.add.at(counts, (at, code), 1)
    table = pd.DataFrame(counts / counts.sum(1, keepdims=True), columns=names)
    table.insert(0, by, groups)
    table.insert(1, "num_patches", counts.sum(1))
    return table
