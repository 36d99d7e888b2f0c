"""Figures of the analyses: arrays in, a file out. How they look is decided in ``microlatent.figures``."""
