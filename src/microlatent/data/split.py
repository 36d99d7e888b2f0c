"""Training, validation and test parts that never share a group: a trajectory, a site, a well, a subject."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from microlatent.files import write_csv

PARTS = ("train", "val", "test")


class Split:
    """Which part each group belongs to; a file in the run, its hash in the checkpoint."""

    def __init__(self, by: str, groups: pd.DataFrame) -> None:
        self.by, self.groups = by, groups  # columns group, part, num_patches

    @classmethod
    def draw(cls, by: str, group_of_row: np.ndarray, val_share: float, test_share: float, seed: int) -> Split:
        """Draw whole groups for validation, then for the test, until each part holds its share of the rows.

        The draw depends on the seed and on the names of the groups, not on their order in any file.

        Raises
        ------
        ValueError
            There are too few groups to hold some out.
        """
        names, counts = np.unique(group_of_row, return_counts=True)
        shares = {"val": val_share, "test": test_share}
        wanted = [part for part, share in shares.items() if share > 0]
        if len(names) <= len(wanted):
            raise ValueError(
                f"data.split_by={by} finds {len(names)} group(s) ({', '.join(map(str, names))}), so none can be held out for "
                f"{' and '.join(wanted)}. Use a finer data.split_by, more data, or "
                + " and ".join(f"data.{part}_share=0" for part in wanted)
                + "."
            )
        order = np.random.default_rng([seed, 1]).permutation(len(names))
        part, start = np.full(len(names), "train", dtype=object), 0
        for place, name in enumerate(wanted):
            left = counts[order[start:]]
            taken = int((np.cumsum(left) - left < shares[name] * counts.sum()).sum())
            end = min(start + taken, len(names) - len(wanted) + place)  # a group is left for every part that follows
            part[order[start:end]] = name
            start = end
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
