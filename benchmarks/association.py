"""Associations of latents and a map: the definitions as they stand (all pairs of points in matrices), written anew, and ours.

``python -m benchmarks.association`` prints JSON: seconds of one dimension by metric and number of points, whether the answers are
equal, seconds of all metrics with their nulls for 512 dimensions of 70 x 70 points, and the peak of memory of 64 dimensions of
495 x 266 points. ``python -m benchmarks.association scan <rows> <columns> <dims> <surrogates> <max points>`` runs one of these.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import alternate, in_process, peak_mb

METRICS = ("pearson", "spearman", "kendall", "mi", "dcorr", "hsic", "pp_spatial")
LARGEST_CUBE = 1300  # points above which three products of n x n matrices take minutes: the time is then scaled by n^3


def naive(metric: str, x: NDArray, y: NDArray) -> float:
    """Return a metric of two values (n,) by its definition."""
    from scipy import stats
    from sklearn.feature_selection import mutual_info_regression

    if metric in ("pearson", "spearman", "kendall"):
        return getattr(stats, {"pearson": "pearsonr", "spearman": "spearmanr", "kendall": "kendalltau"}[metric])(x, y)[0]
    if metric == "mi":
        return float(mutual_info_regression(x[:, None], y, n_neighbors=7, random_state=0)[0])
    if metric == "pp_spatial":
        side = int(np.sqrt(len(x)))
        design = np.column_stack([np.ones(len(x)), np.arange(len(x)) % side, np.arange(len(x)) // side])
        rest = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in (x, y)]
        return stats.pearsonr(*rest)[0]
    a, b = (np.abs(values[:, None] - values) for values in (x, y))
    if metric == "dcorr":
        a, b = (d - d.mean(0) - d.mean(1)[:, None] + d.mean() for d in (a, b))
        return float(np.sqrt(max((a * b).mean(), 0) / np.sqrt((a * a).mean() * (b * b).mean())))
    k, m = (np.exp(-(d**2) / (2 * np.median(d[d > 0]) ** 2)) for d in (a, b))
    centre = np.eye(len(x)) - 1 / len(x)
    return float(np.trace(k @ centre @ m @ centre) / (len(x) - 1) ** 2)


def ours(metric: str, x: NDArray, y: NDArray) -> NDArray:
    """Return a metric of every dimension (n, D)."""
    from microlatent.analysis import association, dependence

    if metric in association.LINEAR:
        places, side = np.arange(len(y)), int(np.sqrt(len(y)))
        left, right = (association.linear_form(metric, part, places % side, places // side, 1) for part in (x, y[:, None]))
        return dependence.pearson(left, right[:, 0])
    return dependence.hsic(x, y)[0] if metric == "hsic" else dependence.Paired(metric, y).scores(x)


def naive_of_each(metric: str, x: NDArray, y: NDArray) -> NDArray:
    """Return a metric of every dimension (n, D) by its definition."""
    return np.array([naive(metric, column, y) for column in x.T])


def ratios(num_dims: int, sides: tuple[int, ...], rounds: int) -> dict:
    """Return seconds of one dimension of both ways in turn, and their greatest difference."""
    rng, found = np.random.default_rng(0), {}
    for side in sides:
        y = rng.normal(size=side**2)
        x = rng.normal(size=(side**2, num_dims)) + np.linspace(0, 1.5, num_dims) * y[:, None]
        for metric in METRICS:
            num = min(side**2, LARGEST_CUBE if metric == "hsic" else side**2)
            few = x[:num, : 1 if metric in ("dcorr", "hsic") else 8]
            difference = float(np.abs(naive_of_each(metric, few, y[:num]) - ours(metric, few, y[:num])).max())
            ways = {"naive": partial(naive_of_each, metric, few, y[:num]), "ours": partial(ours, metric, x, y)}
            seconds = alternate(ways, rounds)
            scale = (side**2 / num) ** 3 / few.shape[1]
            found.setdefault(metric, {})[str(side**2)] = {
                "difference": difference,
                "extrapolated": num < side**2,
                "naive_s": [second * scale for second in seconds["naive"]],
                "ours_s": [second / num_dims for second in seconds["ours"]],
            }
    return found


def scan(rows: int, columns: int, dims: int, surrogates: int, max_points: int | None) -> dict[str, float]:
    """Return seconds and peak memory of all metrics with their nulls for the ten highest dimensions, on smooth maps."""
    from scipy.ndimage import gaussian_filter

    from microlatent.analysis.association import Null, associate

    rng = np.random.default_rng(0)
    latents = np.empty((rows * columns, dims), np.float32)
    for dim in range(dims):
        latents[:, dim] = gaussian_filter(rng.normal(size=(rows, columns)), 3).ravel()
    noise = gaussian_filter(rng.normal(size=(rows, columns)), 3).ravel()
    target = np.rint(128 + 30 * (latents[:, 0] + noise) / np.std(latents[:, 0] + noise))
    y, x = (axis.ravel() for axis in np.indices((rows, columns)))
    associate(latents[:100, :1], target[:100], x[:100], y[:100], list(METRICS), Null(num=19))  # compiles
    seconds, began = {}, time.process_time()
    for metric in METRICS:
        started = time.perf_counter()
        associate(latents, target, x, y, [metric], Null(num=surrogates), max_points=max_points)
        seconds[metric] = time.perf_counter() - started
    return {"seconds": seconds, "cpu_s": time.process_time() - began, "total_s": sum(seconds.values()), "peak_mb": peak_mb()}


def main() -> None:
    """Measure one scan if it is named, else all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="scan <rows> <columns> <dims> <surrogates> <max points, 0: all>")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what:
        *numbers, most = map(int, arguments.what[1:])
        print(json.dumps(scan(*numbers, most or None)))
        return
    cases = {
        "70 x 70, 512 dimensions, 999 surrogates": ("70", "70", "512", "999", "0"),
        "495 x 266, 64 dimensions, 999 surrogates, 5000 points of the costly": ("495", "266", "64", "999", "5000"),
    }
    scans = {name: in_process("benchmarks.association", "scan", *case) for name, case in cases.items()}
    print(json.dumps({"ratios": ratios(16, (20, 70), arguments.rounds), "scans": scans}))


if __name__ == "__main__":
    main()
