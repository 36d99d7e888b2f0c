"""Compose, run, compare and reproduce representation-learning experiments on microscopy."""
