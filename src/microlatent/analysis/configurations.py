"""What tells runs apart: the settings that differ, and a short name for each combination.

A configuration is a combination of settings without the seed: runs of one configuration are repeats of one experiment. Settings
are flat dictionaries, ``{"model.latent_dim": 16, ...}``, as ``config.flat`` makes them from a run's ``config.yaml``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]

LEADS = ("model.name", "data.name")  # choices from which other settings follow
# Where a run is, how fast, and what it leaves beside its numbers. The stores' content is told by their fingerprints.
ASIDE = (
    *("seed", "name", "run", "resume", "rerun", "check", "plugins", "outputs", "data.root", "data.store", "trainer.name"),
    *("trainer.device", "trainer.threads", "trainer.allocator", "trainer.resident", "trainer.checkpoint_every"),
    *("trainer.num_reconstructions", "trainer.likelihood_samples", "trainer.figure_every"),
)
DECIMALS = 4  # significant, of a number in a name


def varied(runs: Sequence[Settings]) -> list[str]:
    """Return the settings that differ between runs which have them; choices lead, the seed and ``logger.*`` are left out."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.items():
            if key not in ASIDE and not key.startswith("logger."):
                values.setdefault(key, set()).add(repr(value))
    found = [key for key in values if len(values[key]) > 1]
    return sorted(found, key=lambda key: LEADS.index(key) if key in LEADS else len(LEADS))


def naming(runs: Sequence[Settings], typed: Collection[str] = ()) -> list[str]:
    """Return the settings by which runs are named: those that differ, without those that merely follow from a choice.

    A setting follows from a choice of its own group (``model.width`` from ``model.name``) if it is the same in all runs of that
    choice and nobody typed it; ``data.normalise`` is what the model wants unless it is typed.

    Parameters
    ----------
    typed
        Settings that were typed for any of the runs, for example by a sweep.
    """
    keys = varied(runs)
    leads = [key for key in keys if key in LEADS]

    def follows(key: str) -> bool:
        lead = "model.name" if key == "data.normalise" else f"{key.partition('.')[0]}.name"
        if key in typed or lead not in leads:
            return False
        pairs = {(run[lead], repr(run[key])) for run in runs if key in run}
        return len(pairs) == len({choice for choice, _ in pairs})

    return leads + [key for key in keys if key not in leads and not follows(key)]


def names(runs: Sequence[Settings], keys: Sequence[str]) -> list[str]:
    """Return each run's configuration in a few words, such as ``vae_gauss latent_dim=16``; equal names are equal settings."""
    leaves = [key.rpartition(".")[2] for key in keys]
    short = {key: leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(keys, leaves, strict=True)}

    def name(run: Settings, exact: bool) -> str:
        given = [(key, _written(run[key], exact)) for key in keys if key in run]
        return " ".join(value if key in LEADS else f"{short[key]}={value}" for key, value in given) or str(
            run.get("model.name", "all")
        )

    found = [name(run, False) for run in runs]
    different = {tuple(repr(run.get(key)) for key in keys) for run in runs}
    return found if len(set(found)) == len(different) else [name(run, True) for run in runs]


def _written(value: Any, exact: bool) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float) and not exact:
        return f"{value:.{DECIMALS}g}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(item, exact) for item in value) + "]"
    return str(value)


def in_order(runs: Sequence[Settings], keys: Sequence[str]) -> list[int]:
    """Return the runs' numbers sorted by setting after setting: numbers by size, words as they first appear."""
    words = {key: list(dict.fromkeys(str(run[key]) for run in runs if key in run)) for key in keys}

    def place(run: Settings) -> list[tuple]:
        values = [(key, run.get(key)) for key in keys]
        return [
            (0, value) if isinstance(value, int | float) else (1, words[key].index(str(value)) if key in run else -1)
            for key, value in values
        ]

    return sorted(range(len(runs)), key=lambda number: place(runs[number]))
