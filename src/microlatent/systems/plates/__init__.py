"""Plates: virtual staining, from label-free stacks of multi-well plates to predicted fluorescence."""
