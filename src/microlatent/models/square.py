"""The size of patches for networks that know square ones alone."""

from __future__ import annotations


def side_px(shape: tuple[int, int], name: str) -> int:
    """Return the side of a square patch of ``shape`` rows and columns for the model called ``name``.

    Raises
    ------
    ValueError
        The patch is not square.
    """
    rows, columns = shape
    if rows != columns:
        raise ValueError(
            f"patches have {rows} x {columns} px, but model={name} is for square ones. Cut them square when assembling, or use "
            "model=kikuchi_cnn, which takes any size."
        )
    return rows
