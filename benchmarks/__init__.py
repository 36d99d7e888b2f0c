"""Measurements against the references' methods; run by ``make bench``."""
