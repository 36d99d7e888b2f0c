"""Predict the outcome of subjects from what their latents (or markers) are like: honest small-sample classification.

A subject is a row of numbers in a few blocks (``subjects.py``). A logistic regression (``logistic.py``) whose
regularisation is chosen inside each training fold predicts subjects it has not seen. Everything that looks at the outcome is
repeated for every permutation of the outcomes over subjects, which is what the p-value is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from microlatent.analysis.statistics import exceeding, interval, p_value, resampled
from microlatent.systems.partitions import logistic

FEWEST = 5  # subjects of each outcome: of 4 and 4 there are 70 assignments, and a fold would learn from 3 of an outcome
STRENGTHS = 10.0 ** np.array([0.5, -0.5, -1.5, -2.5])  # of the penalty, per subject; the features' kernel has a mean of 1
MAX_DIRECTIONS = 40  # of a training fold's features; all there are for up to 40 subjects
LOO_FOLDS = 25  # of folds=loo, two left out at a time, 300 models: a fold is one subject of up to 25, several of more
REPEATS = 10  # of drawing a number of folds
MAX_UNDEFINED = 0.05  # of the resamples of subjects, for percentiles of the others to be reported
Z95 = 1.959964


class Prediction(NamedTuple):
    """How well held-out subjects are told apart, and what chance does in the very same procedure."""

    scores: NDArray  # (S,) log odds of the second outcome, by models that have not seen the subject; NaN if never compared
    auc: float
    auc_lo: float
    auc_hi: float
    balanced_accuracy: float
    balanced_accuracy_lo: float
    balanced_accuracy_hi: float
    p_permutation: float
    pairs_compared: float  # share of the pairs of subjects of different outcomes that were ever held out together
    auc_permuted: NDArray  # (P,)
    auc_drawn: NDArray  # (B,) of resampled subjects, NaN without a compared pair; equal seeds resample alike


# ------------------------------------------------------------------------------------------------------- prediction


def predict(
    blocks: dict[str, NDArray],
    outcome: NDArray,
    folds: str = "loo",
    num_permutations: int = 999,
    num_bootstraps: int = 1000,
    seed: int = 0,
) -> Prediction:
    """Predict a binary outcome (S,) of subjects from blocks of features (S, F) each, on subjects held out.

    Parameters
    ----------
    blocks
        Each feature is standardised in the training fold, and each block weighs the same, however many features it has.
    folds
        ``loo`` leaves out two subjects at a time, in all combinations. Of more than 25 subjects it leaves out two of 25 folds at
        a time, again in all combinations (300 models): every two subjects are still compared, however rare an outcome is. A
        number is that of folds, drawn 10 times, of at least two subjects each. Which subjects are left out together does not
        depend on the outcome, and is the same for every permutation, so that the outcomes are exchangeable and the p-value is
        exact. Every two subjects weigh the same in the AUC, however often they were left out together.

    Raises
    ------
    ValueError
        Where nothing can be compared, so that there is no AUC and no p-value, or there are fewer than two subjects in a fold.

    Notes
    -----
    Only subjects that the same model has not seen are compared. To pool the scores of different models, as is common with
    leaving one subject out, is biased: an atypical subject leaves a training set that looks clearer, so that it is mistaken
    with a larger score than others are recognised with. On 24 subjects without any effect the pooled AUC has a mean of 0.4,
    this one of 0.5. The interval is over subjects, with the models as they are.
    """
    labels = np.asarray(outcome, int)
    rng = np.random.default_rng([seed, len(labels)])
    held_out = draw_held_out(len(labels), folds, rng)
    every = np.stack([labels, *(rng.permutation(labels) for _ in range(num_permutations))])
    together = np.zeros((len(labels), len(labels)))  # how often two subjects are left out by the same model
    for held in held_out:
        together[np.ix_(held, held)] += 1
    wins, trials = np.zeros((2, len(every)))
    pair_wins, pair_trials = np.zeros((2, len(labels), len(labels)))
    total, times = np.zeros((2, len(labels)))
    for held in held_out:
        scores, truth = held_out_scores(blocks, every, held), every[:, held]
        for at, one in enumerate(held[:-1]):
            others = held[at + 1 :]
            gap = (scores[:, at, None] - scores[:, at + 1 :]) * (truth[:, at, None] - truth[:, at + 1 :])
            opposed = (truth[:, at, None] != truth[:, at + 1 :]) & np.isfinite(gap)
            won, tried = np.where(opposed, (np.sign(gap) + 1) / 2, 0) / together[one, others], opposed / together[one, others]
            wins, trials = wins + won.sum(1), trials + tried.sum(1)
            pair_wins[one, others] += won[0]
            pair_trials[one, others] += tried[0]
        known = np.isfinite(scores[0])
        total[held[known]] += scores[0, known]
        times[held[known]] += 1
    refuse_nothing(trials, labels, folds)
    found = wins / trials
    # Each pair by the subject of outcome 1 (rows) and of outcome 0.
    table = [(part + part.T)[np.ix_(labels == 1, labels == 0)] for part in (pair_wins, pair_trials)]
    draws = bootstrap_auc(*table, num_bootstraps, seed)
    low, high = auc_interval(*table, draws)
    scores = np.divide(total, times, out=np.full(len(labels), np.nan), where=times > 0)
    accuracy = balanced_accuracy(scores[times > 0], labels[times > 0])
    p = float(p_value(*exceeding(found[None, 1:], found[:1]), found[:1])[0])
    compared = float((table[1] > 0).mean())
    return Prediction(scores, float(found[0]), low, high, *accuracy, p, compared, found[1:], draws)


def refuse_nothing(trials: NDArray, labels: NDArray, folds: str) -> None:
    """Raise if the outcomes of the subjects, or a permutation of them, left nothing to compare."""
    if (trials == 0).any():
        first, second = np.bincount(labels, minlength=2)
        whose = "the subjects" if trials[0] == 0 else f"{(trials == 0).sum()} of {len(trials) - 1} permutations of the subjects"
        raise ValueError(
            f"For {whose} nothing could be compared: of {first} of one outcome and {second} of the other, no two of different "
            f"outcomes were left out together with both outcomes among the others, so there is no AUC and no p-value "
            f"(task.folds={folds}). At least {FEWEST} subjects of each outcome are needed; task.folds=loo compares all pairs."
        )


def count_folds(num: int, folds: str) -> int:
    """Return the number of folds of that many subjects; refuse one that leaves a subject with none to be compared with."""
    if folds == "loo":
        return min(num, LOO_FOLDS)
    if not 2 <= int(folds) <= num // 2:
        allowed = f"from 2 to {num // 2}, or loo" if num >= 4 else "loo"
        raise ValueError(
            f"task.folds is {folds}, but there are {num} subjects with an outcome, and only subjects of the same fold are "
            f"compared, so a fold needs two of them. Choose task.folds {allowed}."
        )
    return int(folds)


def describe_folds(num: int, folds: str) -> str:
    """Say which of that many subjects are held out together."""
    count = count_folds(num, folds)
    if count == num:
        return "two subjects held out at a time, all pairs"
    sizes = "-".join(str(size) for size in sorted({num // count, -(-num // count)}))
    how = "two held out at a time, all pairs" if folds == "loo" else f"drawn {REPEATS} times"
    return f"{count} folds of {sizes} subjects, {how}"


def draw_held_out(num: int, folds: str, rng: np.random.Generator) -> list[NDArray]:
    """Return the sets of subjects that are left out together, whatever their outcome."""
    count = count_folds(num, folds)
    if folds != "loo":
        return [np.sort(part) for _ in range(REPEATS) for part in np.array_split(rng.permutation(num), count)]
    order = np.arange(num) if count == num else rng.permutation(num)
    return [np.sort(np.concatenate(pair)) for pair in combinations(np.array_split(order, count), 2)]


def held_out_scores(blocks: dict[str, NDArray], outcomes: NDArray, held: NDArray) -> NDArray:
    """Return log odds (P, H) of the subjects left out, for each row of outcomes (P, S), from a model of the other subjects.

    NaN where nothing can be compared or learned: all subjects left out, or all others, have the same outcome.
    """
    train = np.setdiff1d(np.arange(outcomes.shape[1]), held)
    scores, lowest = np.full((len(outcomes), len(held)), np.nan), np.full(len(outcomes), np.inf)
    useful = np.flatnonzero(np.logical_and.reduce([np.ptp(outcomes[:, part], axis=1) > 0 for part in (train, held)]))
    for names in choices(blocks):
        z_train, z_held = project([blocks[name] for name in names], train, held)
        each = max(1, int(3e7 / (z_train.shape[1] + 1) ** 2 / 8))
        for rows in (useful[start : start + each] for start in range(0, len(useful), each)):
            labels = outcomes[np.ix_(rows, train)]
            weights, left_out = logistic.fit(z_train, labels, STRENGTHS * len(train))
            loss = logistic.deviance(left_out, labels)
            best, found = loss.argmin(1), loss.min(1)
            chosen = weights[np.arange(len(rows)), best]
            better = found < lowest[rows]
            scores[rows[better]] = (chosen[:, :-1] @ z_held.T + chosen[:, -1:])[better]
            lowest[rows[better]] = found[better]
    return scores


def choices(blocks: dict[str, NDArray]) -> list[tuple[str, ...]]:
    """Return the sets of blocks of which each training fold takes the one that predicts best inside it: all, or one alone."""
    return [tuple(blocks)] + ([(name,) for name in blocks] if len(blocks) > 1 else [])


def project(blocks: Sequence[NDArray], train: NDArray, held: NDArray) -> tuple[NDArray, NDArray]:
    """Standardise features by the training subjects, and turn them to the training subjects' principal directions.

    With fewer subjects than features this loses nothing: a ridge penalty leaves weights in the span of the training features.
    """
    parts = []
    for block in blocks:
        centre, spread = block[train].mean(0), block[train].std(0)
        varies = spread > 1e-9 * np.maximum(1.0, np.abs(centre))
        scaled = (block[:, varies] - centre[varies]) / spread[varies]
        parts.append(scaled / np.sqrt(max(1, varies.sum()) * len(blocks)))
    features = np.concatenate(parts, axis=1)
    values, vectors = np.linalg.eigh(features[train] @ features[train].T)
    kept = np.flatnonzero(values > 1e-9 * max(values[-1], 1e-300))[-MAX_DIRECTIONS:]
    directions = features[train].T @ vectors[:, kept] / np.sqrt(values[kept])
    return features[train] @ directions, features[held] @ directions


# -------------------------------------------------------------------------------------------------------- measures


def bootstrap_auc(wins: NDArray, trials: NDArray, num: int, seed: int = 0) -> NDArray:
    """Return the AUC (num,) of subjects resampled within each outcome; equal seeds resample the same, for paired differences.

    ``wins`` and ``trials`` (n1, n0): how often the subject of outcome 1 scored above that of outcome 0, of how many times. NaN
    where no pair of the resampled subjects was tried.
    """
    rng = np.random.default_rng([seed, 1])
    first, second = (resampled(rng, size, num) for size in wins.shape)
    won, tried = (((first @ part) * second).sum(1) for part in (wins, trials))
    return np.divide(won, tried, out=np.full(num, np.nan), where=tried > 0)


def auc_interval(wins: NDArray, trials: NDArray, draws: NDArray) -> tuple[float, float]:
    """Return the 95 % interval of the AUC over subjects.

    The percentile bootstrap; but where no pair is out of order, or every pair is, resampling cannot say how sure that is, nor
    can it where many resamples have no pair that was tried. Then the score interval of Newcombe (2006, method 5) is taken,
    with its term of single pairs for those that were tried.
    """
    found = wins.sum() / trials.sum()
    low, high = interval(draws, most_undefined=MAX_UNDEFINED)
    if 0 < found < 1 and np.isfinite(low):
        return low, high
    half, tried = sum(wins.shape) / 2 - 1, (trials > 0).sum()

    def lower(auc: float) -> float:
        def excess(value: float) -> float:
            terms = 1 / tried + half * ((1 - value) / (2 - value) + value / (1 + value)) / wins.size
            return auc - value - Z95 * np.sqrt(value * (1 - value) * terms)

        return float(brentq(excess, 0.0, auc - 1e-9)) if auc > 1e-6 else 0.0

    return lower(found), 1 - lower(1 - found)


def balanced_accuracy(scores: NDArray, labels: NDArray) -> tuple[float, float, float]:
    """Return the mean of both outcomes' shares of correct predictions, and its 95 % interval.

    The interval joins the Wilson intervals of both shares (MOVER, Zou & Donner 2008), so it does not vanish at 0 or 1.
    """
    shares, below, above = [], 0.0, 0.0
    for value in (0, 1):
        own = scores[labels == value]
        share, n = float((np.where(own == 0, 0.5, (own > 0) == value)).mean()), len(own)
        middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
        shares.append(share)
        below += (share - (middle - half)) ** 2
        above += (middle + half - share) ** 2
    mean = sum(shares) / 2
    return mean, max(0.0, mean - np.sqrt(below) / 2), min(1.0, mean + np.sqrt(above) / 2)
