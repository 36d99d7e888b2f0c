"""Orchestration and files of each command, one file per task."""
