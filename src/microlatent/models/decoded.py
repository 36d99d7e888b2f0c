"""What a decoder says of the pixels of a patch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Decoded(NamedTuple):
    """The likelihood of the pixels given the latents; float32."""

    x_hat: Tensor  # (B, C, Y, X) expected value: normalised units, or a probability
    std: Tensor | None = None  # standard deviation, (B, C, Y, X) or (B, 1, 1, 1); None: 1, or there is none
    logits: Tensor | None = None  # (B, C, Y, X) log-odds of x_hat, where the decoder knows them
