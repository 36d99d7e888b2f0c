"""Training and validation parts that never share a group: a trajectory, a site, a well, a subject."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from microlatent.files import write_csv


class Split:
    """Which part each group belongs to; a file in the run, its hash in the checkpoint."""

    def __init__(self, by: str, groups: pd.DataFrame) -> None:
        self.by, self.groups = by, groups  # columns group, part, num_patches

    @classmethod
    def draw(cls, by: str, group_of_row: np.ndarray, val_share: float, seed: int) -> Split:
        """Draw whole groups for validation until they hold ``val_share`` of the rows.

        The draw depends on the seed and on the names of the groups, not on their order in any file.

        Raises
        ------
        ValueError
            There are too few groups to hold one out.
        """
        names, counts = np.unique(group_of_row, return_counts=True)
        if val_share > 0 and len(names) < 2:
            raise ValueError(
                f"data.split_by={by} finds a single group ({names[0]}), so none can be held out for validation. "
                "Use a finer split (data.split_by=trajectory), more data, or data.val_share=0."
            )
        order = np.random.default_rng([seed, 1]).permutation(len(names))
        taken = np.cumsum(counts[order]) - counts[order] < val_share * counts.sum()
        num_val = min(int(taken.sum()), len(names) - 1)
        part = np.full(len(names), "train", dtype=object)
        part[order[:num_val]] = "val"
        return cls(by, pd.DataFrame({"group": names, "part": part, "num_patches": counts}))

    @classmethod
    def read(cls, path: Path, by: str) -> Split:
        """Read a run's split.csv."""
        return cls(by, pd.read_csv(path, dtype={"group": str}, keep_default_na=False))

    def write(self, path: Path) -> None:
        """Write split.csv: group, part, num_patches."""
        write_csv(self.groups, path)

    def parts(self, group_of_row: np.ndarray) -> np.ndarray:
        """Part of every row; rows of groups that the split does not know (new data) get the empty string."""
        known = dict(zip(self.groups["group"].astype(str), self.groups["part"], strict=True))
        return np.array([known.get(str(group), "") for group in group_of_row], dtype=object)

    @property
    def hash(self) -> str:
        """Digest of which group is in which part."""
        text = "\n".join(f"{group}\t{part}" for group, part in zip(self.groups["group"], self.groups["part"], strict=True))
        return hashlib.blake2b(f"{self.by}\n{text}".encode(), digest_size=16).hexdigest()
