"""Which patches belong together: relations and labels of trajectories, and the sub-matrix a batch needs.

Source: DynaMorph's relation files. Code 2: the patch itself, or the same trajectory in adjacent frames. Code 1: the same
trajectory otherwise. Absent (0): different trajectories, or nothing is known.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SAME_TRACK, ADJACENT = 1, 2


def relate(trajectories: list[tuple[np.ndarray, np.ndarray]], num_rows: int) -> np.ndarray:
    """List all related pairs.

    Parameters
    ----------
    trajectories
        For each, the frames (k,) in increasing order and the rows (k,) of its patches; missing patches are left out.
    num_rows
        Rows of the store.

    Returns
    -------
    (M, 3) int32 of (row, row, code): first the diagonal, then trajectory by trajectory the pairs of adjacent frames, then the
    others, which is the order of the reference's dictionary. A pair that two trajectories name has the larger code.
    """
    diagonal = np.arange(num_rows, dtype=np.int32)
    parts = [np.column_stack([diagonal, diagonal, np.full(num_rows, ADJACENT, np.int32)])]
    for frames, rows in trajectories:
        if len(rows) < 2:
            continue
        near = np.flatnonzero(np.diff(frames) == 1)
        pairs = np.column_stack([rows[near], rows[near + 1], rows[near + 1], rows[near]]).reshape(-1, 2)
        first, second = np.divmod(np.arange(len(rows) ** 2), len(rows))
        other = (first != second) & (np.abs(frames[first] - frames[second]) != 1)
        rest = np.column_stack([rows[first[other]], rows[second[other]]])
        codes = np.repeat([ADJACENT, SAME_TRACK], [len(pairs), len(rest)])
        parts.append(np.column_stack([np.concatenate([pairs, rest]), codes]).astype(np.int32))
    relations = np.concatenate(parts)
    key = relations[:, 0].astype(np.int64) * num_rows + relations[:, 1]
    if len(np.unique(key)) == len(key):
        return relations
    # A patch in two trajectories: keep each pair where it first stands, with its larger code.
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    largest = np.zeros(len(first), np.int32)
    np.maximum.at(largest, inverse, relations[:, 2])
    relations[first, 2] = largest
    return relations[np.sort(first)]


def label(trajectories: list[tuple[np.ndarray, np.ndarray]], num_rows: int) -> np.ndarray:
    """Return the running trajectory number of every row (later trajectories win); orphans follow, each its own, in row order."""
    labels = np.full(num_rows, -1, np.int32)
    for number, (_, rows) in enumerate(trajectories):
        labels[rows] = number
    orphans = labels < 0
    labels[orphans] = len(trajectories) + np.arange(orphans.sum())
    return labels


class RelationTable:
    """Relations of many rows, indexed so that a batch's sub-matrix costs microseconds and never a dense whole."""

    def __init__(self, relations: np.ndarray, num_rows: int) -> None:
        order = np.argsort(relations[:, 0], kind="stable")
        self.columns = relations[order, 1].astype(np.int64)
        self.codes = relations[order, 2].astype(np.int8)
        self.starts = np.searchsorted(relations[order, 0], np.arange(num_rows + 1))
        self.place = np.full(num_rows, -1, np.int64)  # scratch: where a row stands in the batch

    def among(self, rows: np.ndarray) -> np.ndarray:
        """Return codes (B, B) int8 between the given distinct rows."""
        self.place[rows] = np.arange(len(rows))
        starts, counts = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(counts)
        entries = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
        second = self.place[self.columns[entries]]
        inside = second >= 0
        matrix = np.zeros((len(rows), len(rows)), np.int8)
        matrix[np.repeat(np.arange(len(rows)), counts)[inside], second[inside]] = self.codes[entries[inside]]
        self.place[rows] = -1
        return matrix

    def connected_components(self) -> np.ndarray:
        """Return a number per row, equal for rows that any chain of relations joins: what a split must not tear."""
        num = len(self.starts) - 1
        rows = np.repeat(np.arange(num), np.diff(self.starts))
        graph = coo_array((np.ones(len(rows), np.int8), (rows, self.columns)), shape=(num, num))
        return connected_components(graph, directed=False)[1]

    def adjacent(self, row: int) -> np.ndarray:
        """Rows in adjacent frames of the same trajectory, the row itself among them, in increasing order."""
        here = slice(self.starts[row], self.starts[row + 1])
        return np.sort(self.columns[here][self.codes[here] == ADJACENT])


def reference_order(table: RelationTable, num_rows: int, seed: int = 123) -> np.ndarray:
    """Return DynaMorph's order of training: random starts, each followed by its whole chain of adjacent frames."""
    random = np.random.RandomState(seed)  # the reference's legacy generator, or the order would differ
    pool = np.arange(num_rows)
    waiting = np.ones(num_rows, bool)
    order: list[int] = []
    while len(pool):
        queue = [int(random.choice(pool))]
        waiting[queue[0]] = False
        for row in queue:  # grows while it is read: breadth first
            new = [int(other) for other in table.adjacent(row) if waiting[other]]
            waiting[new] = False
            queue += new
        order += queue
        pool = pool[waiting[pool]]
    return np.array(order)
