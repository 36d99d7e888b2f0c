"""A whole image from overlapping squares, blended where they overlap."""

from __future__ import annotations

import numpy as np


def window(size: int) -> np.ndarray:
    """Return the weight (size, size) float32 of a square's pixels: highest in its middle, small at its edge, never zero."""
    along = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return np.outer(along, along).astype(np.float32)


class Mosaic:
    """Squares laid over each other, and their weighted mean: equal values stay what they are, whatever the overlap."""

    def __init__(self, num_channels: int, shape_px: tuple[int, int], size: int) -> None:
        self.total = np.zeros((num_channels, *shape_px), np.float32)
        self.weight = np.zeros(shape_px, np.float32)
        self.window, self.size = window(size), size

    def add(self, corners: np.ndarray, squares: np.ndarray) -> None:
        """Lay squares (n, C, size, size) down with their upper left corners (n, 2)."""
        weighted = squares * self.window
        for (row, col), square in zip(corners, weighted, strict=True):
            self.total[:, row : row + self.size, col : col + self.size] += square
            self.weight[row : row + self.size, col : col + self.size] += self.window

    def blend(self) -> np.ndarray:
        """Return the image (C, Y, X) float32; the mosaic is used up by that.

        Raises
        ------
        ValueError
            A pixel is under no square.
        """
        if not self.weight.all():
            raise ValueError(f"{int((self.weight == 0).sum())} pixels of the image are under no square.")
        self.total /= self.weight
        return self.total
