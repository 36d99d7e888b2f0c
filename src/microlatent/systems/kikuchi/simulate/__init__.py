"""Specimens with known truth, one per system."""
