"""Statistics of all pairs of points, from sorted points: n log n instead of n squared.

A kernel takes ``x`` (n,) of one dimension, its sorting ``order``, and a block of targets (b, n), such as surrogates; points whose
target is NaN do not count. Kernels are compiled, hold no lock and know no threads, so that threads may run several at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def paired(x: NDArray, order: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Return x sorted and y in its order, without the points whose y is NaN."""
    xs, ys, num = np.empty(len(x)), np.empty(len(x)), 0
    for at in order:
        if not np.isnan(y[at]):
            xs[num], ys[num] = x[at], y[at]
            num += 1
    return xs[:num], ys[:num]


# ------------------------------------------------------------------------------------------- distance correlation


@njit(cache=True, nogil=True)
def distance_correlations(x: NDArray, order: NDArray, targets: NDArray) -> NDArray:
    """Return distance correlation and bias-corrected squared distance correlation (b, 2); 0 where one of the two is constant.

    Source: Szekely, Rizzo & Bakirov 2007, Ann. Stat. 35 (V-statistic); Szekely & Rizzo 2014, Ann. Stat. 42 (U-centred);
    Huo & Szekely 2016, Technometrics 58 (sums by sorting).
    """
    out = np.full((len(targets), 2), np.nan)
    for row in range(len(targets)):
        xs, ys = paired(x, order, targets[row])
        n = len(xs)
        if n < 4:
            continue
        xs, ys = xs - xs.mean(), ys - ys.mean()  # or large values would cancel
        products, by_y = distance_products(xs, ys)
        a = distances_to_all(xs)
        b = np.empty(n)
        b[by_y] = distances_to_all(ys[by_y])
        v, u = np.empty(3), np.empty(3)
        sums = (
            (products, (a * b).sum(), a.sum() * b.sum()),
            (2 * n * (xs**2).sum(), (a**2).sum(), a.sum() ** 2),
            (2 * n * (ys**2).sum(), (b**2).sum(), b.sum() ** 2),
        )
        for number in range(3):
            pair, rows, total = sums[number]
            v[number] = pair / n**2 - 2 * rows / n**3 + total / n**4
            u[number] = (pair - 2 * rows / (n - 2) + total / ((n - 1) * (n - 2))) / (n * (n - 3))
        power = v[1] * v[2]
        out[row, 0] = np.sqrt(max(v[0], 0.0) / np.sqrt(power)) if v[1] > 0 and v[2] > 0 else 0.0
        out[row, 1] = u[0] / np.sqrt(u[1] * u[2]) if u[1] > 0 and u[2] > 0 else 0.0
    return out


@njit(cache=True, nogil=True)
def distances_to_all(x: NDArray) -> NDArray:
    """Return the sum of each point's distances to all others (n,), of sorted points."""
    n, out, before, total = len(x), np.empty(len(x)), 0.0, x.sum()
    for i in range(n):
        out[i] = (2 * i - n) * x[i] + total - 2 * before
        before += x[i]
    return out


@njit(cache=True, nogil=True)
def distance_products(x: NDArray, y: NDArray) -> tuple[float, NDArray]:
    """Return the sum over all pairs of |x_i - x_j| |y_i - y_j|, of points sorted by x, and the order that sorts y.

    Sorting y by merging meets every pair once. Where y rises too, a pair's product has no absolute values, so the sum is twice
    that of rising pairs less that of all pairs, and the sums over all points merged before are enough.
    """
    n = len(x)
    order, merged, rising = np.arange(n), np.empty(n, np.int64), 0.0
    width = 1
    while width < n:
        for start in range(0, n, 2 * width):
            middle, end = min(start + width, n), min(start + 2 * width, n)
            left, right = start, middle
            num, sum_x, sum_y, sum_xy = 0, 0.0, 0.0, 0.0
            for to in range(start, end):
                if left < middle and (right >= end or y[order[left]] <= y[order[right]]):
                    at = order[left]
                    left += 1
                    num, sum_x, sum_y, sum_xy = num + 1, sum_x + x[at], sum_y + y[at], sum_xy + x[at] * y[at]
                else:
                    at = order[right]
                    right += 1
                    rising += num * x[at] * y[at] - x[at] * sum_y - y[at] * sum_x + sum_xy
                merged[to] = at
        order, merged = merged, order
        width *= 2
    every = n * (x * y).sum() - x.sum() * y.sum()
    return 2 * (2 * rising - every), order


# ---------------------------------------------------------------------------------------------------- concordance


@njit(cache=True, nogil=True)
def concordances(x: NDArray, order: NDArray, targets: NDArray) -> NDArray:
    """Return Kendall's tau-b (b,); NaN where x or the target is constant.

    Source: Kendall 1945, Biometrika 33; Knight 1966, J. Am. Stat. Assoc. 61 (by merging).
    """
    out = np.full(len(targets), np.nan)
    for row in range(len(targets)):
        xs, ys = paired(x, order, targets[row])
        n = len(xs)
        pairs, x_tied, both_tied, start = n * (n - 1) / 2, 0.0, 0.0, 0
        for end in range(1, n + 1):
            if end == n or xs[end] != xs[start]:
                if end - start > 1:  # tied in x: sorted by y, so that they do not count as discordant
                    ys[start:end] = np.sort(ys[start:end])
                    x_tied += (end - start) * (end - start - 1) / 2
                    both_tied += tied_pairs(ys[start:end])
                start = end
        discordant = inversions(ys)  # sorts ys
        y_tied = tied_pairs(ys)
        if x_tied < pairs and y_tied < pairs:
            score = pairs - x_tied - y_tied + both_tied - 2 * discordant
            out[row] = score / np.sqrt(pairs - x_tied) / np.sqrt(pairs - y_tied)
    return out


@njit(cache=True, nogil=True)
def tied_pairs(values: NDArray) -> float:
    """Return how many pairs of sorted values are equal."""
    pairs, run = 0.0, 0
    for i in range(1, len(values)):
        run = run + 1 if values[i] == values[i - 1] else 0
        pairs += run
    return pairs


@njit(cache=True, nogil=True)
def inversions(values: NDArray) -> float:
    """Sort values in place by merging, and return how many pairs stood the wrong way round."""
    n, spare, wrong, width = len(values), np.empty(len(values)), 0.0, 1
    while width < n:
        for start in range(0, n, 2 * width):
            middle, end = min(start + width, n), min(start + 2 * width, n)
            left, right = start, middle
            for to in range(start, end):
                if left < middle and (right >= end or values[left] <= values[right]):
                    spare[to] = values[left]
                    left += 1
                else:
                    spare[to] = values[right]
                    right += 1
                    wrong += middle - left
        values[:] = spare
        width *= 2
    return wrong


# --------------------------------------------------------------------------------------------- mutual information


@njit(cache=True, nogil=True)
def informations(x: NDArray, order: NDArray, targets: NDArray, k: int, digamma: NDArray) -> NDArray:
    """Return the mutual information (b,) in nats by the k nearest neighbours, not below 0; NaN with k points or fewer.

    Parameters
    ----------
    digamma
        Its values at 0 to n.

    Source
    ------
    Kraskov, Stoegbauer & Grassberger 2004, Phys. Rev. E 69, 066138, eq. 8.
    """
    out = np.full(len(targets), np.nan)
    for row in range(len(targets)):
        xs, ys = paired(x, order, targets[row])
        n = len(xs)
        if n <= k:
            continue
        by_y = np.argsort(ys)
        y_sorted, rank = ys[by_y], np.empty(n, np.int64)
        rank[by_y] = np.arange(n)
        radii, total = neighbour_distances(xs, ys, by_y, k), 0.0
        for i in range(n):
            total += digamma[within(xs, i, radii[i])] + digamma[within(y_sorted, rank[i], radii[i])]
        out[row] = max(0.0, digamma[n] + digamma[k] - total / n)
    return out


@njit(cache=True, nogil=True)
def neighbour_distances(x: NDArray, y: NDArray, by_y: NDArray, k: int) -> NDArray:
    """Return each point's distance (n,) to its k-th nearest other, the larger of the distances along x and y; x is sorted.

    Points are dealt to strips of as many points along x, each strip sorted by y; a strip is about as wide as k neighbours reach.
    """
    n = len(x)
    size = int(np.sqrt(k * n)) + 1
    strip, place, filled = np.empty(n, np.int64), np.empty(n, np.int64), np.arange(0, n, size)
    for i in by_y:
        place[i] = filled[i // size]
        strip[place[i]] = i
        filled[i // size] += 1
    out, nearest = np.empty(n), np.empty(k)
    for i in range(n):
        nearest[:] = np.inf
        own = i // size
        start, end = own * size, min(own * size + size, n)
        low, high = max(start, place[i] - k), min(end, place[i] + k + 1)
        for at in range(low, high):  # a few both ways first, so that the k-th is near when one way is followed
            if strip[at] != i:
                insert(nearest, max(abs(x[strip[at]] - x[i]), abs(y[strip[at]] - y[i])))
        follow(nearest, x, y, strip, i, start, low, high, end)
        for step in (-1, 1):
            other = own + step
            while 0 <= other * size < n:
                start, end = other * size, min(other * size + size, n)
                if abs(x[start if step > 0 else end - 1] - x[i]) >= nearest[k - 1]:
                    break
                low, high = start, end
                while low < high:
                    middle = (low + high) // 2
                    if y[strip[middle]] < y[i]:
                        low = middle + 1
                    else:
                        high = middle
                follow(nearest, x, y, strip, i, start, low, low, end)
                other += step
        out[i] = nearest[k - 1]
    return out


@njit(cache=True, nogil=True)
def follow(nearest: NDArray, x: NDArray, y: NDArray, strip: NDArray, i: int, start: int, low: int, high: int, end: int) -> None:
    """Look at the points of a strip below and above places that were seen, while they are nearer along y than the k-th."""
    for at in range(low - 1, start - 1, -1):
        along = y[i] - y[strip[at]]
        if along >= nearest[-1]:
            break
        insert(nearest, max(along, abs(x[strip[at]] - x[i])))
    for at in range(high, end):
        along = y[strip[at]] - y[i]
        if along >= nearest[-1]:
            break
        insert(nearest, max(along, abs(x[strip[at]] - x[i])))


@njit(cache=True, nogil=True)
def insert(nearest: NDArray, distance: float) -> None:
    """Put a distance in its place among the least, sorted, if it is one of them."""
    place = len(nearest) - 1
    if distance < nearest[place]:
        while place > 0 and nearest[place - 1] > distance:
            nearest[place] = nearest[place - 1]
            place -= 1
        nearest[place] = distance


@njit(cache=True, nogil=True)
def within(values: NDArray, at: int, radius: float) -> int:
    """Return how many sorted values, the one itself included, are nearer than a radius to that at a place."""
    low, high = 0, at
    while low < high:
        middle = (low + high) // 2
        if values[at] - values[middle] < radius:
            high = middle
        else:
            low = middle + 1
    first, low, high = low, at, len(values) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if values[middle] - values[at] < radius:
            low = middle
        else:
            high = middle - 1
    return max(1, low - first + 1)


# ----------------------------------------------------------------------------------------------------- bandwidth


@njit(cache=True, nogil=True)
def median_distance(x: NDArray) -> float:
    """Return the median of the distances that are not zero between all pairs of sorted values; 0 where all are equal."""
    n = len(x)
    zero = int(tied_pairs(x))
    num = n * (n - 1) // 2 - zero
    if num == 0:
        return 0.0
    low = ranked_distance(x, zero + (num + 1) // 2)
    return low if num % 2 else (low + ranked_distance(x, zero + num // 2 + 1)) / 2


@njit(cache=True, nogil=True)
def ranked_distance(x: NDArray, rank: int) -> float:
    """Return the distance of sorted values that ``rank`` pairs do not exceed, by bisection."""
    low, high = 0.0, x[-1] - x[0]
    for _ in range(64):
        middle = (low + high) / 2
        count, j = 0, 0
        for i in range(len(x)):
            while x[i] - x[j] > middle:
                j += 1
            count += i - j
        if count >= rank:
            high = middle
        else:
            low = middle
    found, j = 0.0, 0
    for i in range(len(x)):
        while x[i] - x[j] > high:
            j += 1
        found = max(found, x[i] - x[j])
    return found
