"""How much of the truth a table of tracks holds."""

import numpy as np
import pandas as pd


def score_links(found: pd.DataFrame, true: pd.DataFrame) -> tuple[float, float]:
    """Compare two tables of tracks by their links, which join two consecutive cells of a track.

    Returns
    -------
    recall, precision
        Share of true links that were found, and of found links that are true; NaN where there are none.
    """
    a, b = _links(found), _links(true)
    both = len(a & b)
    return both / len(b) if b else np.nan, both / len(a) if a else np.nan


def _links(tracks: pd.DataFrame) -> set[tuple[int, int, int, int]]:
    rows = tracks.sort_values(["trajectory", "frame"])[["trajectory", "frame", "cell_id"]].to_numpy(np.int64)
    same = rows[1:, 0] == rows[:-1, 0]
    return set(map(tuple, np.hstack([rows[:-1, 1:], rows[1:, 1:]])[same].tolist()))
