"""What an objective returns, and loss terms that several models share."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Losses(NamedTuple):
    """Named loss terms of one batch."""

    terms: dict[str, Tensor]  # scalars, means per patch; "total" is the one to minimise
    tallies: dict[str, Tensor]  # counts that add up over the batches of an epoch
