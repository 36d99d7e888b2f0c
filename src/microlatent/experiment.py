"""Bring data and model together: for a new run, for one that goes on, or as a trained run left them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from microlatent import checkpoint, config, contract
from microlatent.contract import Source
from microlatent.data.folders import resolved
from microlatent.data.split import PARTS, Split
from microlatent.device import set_layout
from microlatent.provenance import collect_provenance
from microlatent.schemas import Settings

logger = logging.getLogger(__name__)


def open_data(settings: Settings) -> Source:
    """Open the source for a new run: its split drawn from the seed, its normalisation fitted to the training part."""
    source: Source = config.choice("data", settings.data.name).load()(settings)
    source.prepare(settings.data, settings.seed)
    return source


def refuse_changed_data(saved: dict[str, Any], source: Source) -> None:
    """Refuse to continue a run on other data than it began with.

    Raises
    ------
    ValueError
        The stores, the channels or the split differ from what the checkpoint says.
    """
    assert source.split is not None
    known = saved["birth"]["data"]
    now = {"fingerprints": source.fingerprints, "split_hash": source.split.hash, "channels": source.channels}
    for what, value in (now | {"target_channels": source.target_channels}).items():
        if known.get(what) != value:
            raise ValueError(
                f"The data changed since this run began: its {what.replace('_', ' ')} was {known.get(what)}, now it is {value}. "
                "Restore the stores it was trained on, or start a new run."
            )


def build_model(settings: Settings, source: Source) -> nn.Module:
    """Build the chosen model for the channels and the shape of the data.

    Raises
    ------
    ValueError
        It predicts a target, but the data have none.
    """
    made = config.choice("model", settings.model.name).load()
    if source.target_channels is None and not contract.lacking(made, ["predict"], vars(settings.model)):
        raise ValueError(
            f"model={settings.model.name} predicts a target from its input, but data={settings.data.name} has none. Choose data "
            "with targets, or a model whose target is its input."
        )
    return _built(settings.model, source.channels, source.shape, source.target_channels)


def _built(model: Any, channels: list[str], shape: tuple[int, ...], target_channels: list[str] | None) -> nn.Module:
    made = config.choice("model", model.name).load()
    targets = [] if contract.lacking(made, ["predict"]) else [len(target_channels or ())]
    return made(model, len(channels), shape, *targets)


def run_provenance(settings: Settings, source: Source) -> dict[str, Any]:
    """Collect the provenance of a run's checkpoints."""
    assert source.split is not None
    assert source.normaliser is not None
    data = {
        "fingerprints": source.fingerprints,
        "channels": source.channels,
        "shape_px": list(source.shape),
        "target_channels": source.target_channels,
        "pixel_um": source.pixel_um,
        "z_um": source.z_um,
        "normaliser": source.normaliser.state(),
        "split_by": source.split.by,
        "split_hash": source.split.hash,
    }
    return collect_provenance(config.plain(settings), data=data, parent=settings.init_from or settings.rerun)


class Trained(NamedTuple):
    """A model as a run left it, and how its input was made."""

    model: nn.Module  # in evaluation mode
    normaliser: Any  # of the class that its kind of data is registered with
    channels: list[str]
    shape: tuple[int, ...]  # of the samples that it was trained on
    provenance: dict[str, Any]  # of the checkpoint, with its path and epoch


def load_model(run: Path, which: str, device: torch.device) -> Trained:
    """Load a run's model; ``which`` is best, last, or a checkpoint file."""
    path = run / "checkpoints" / f"{which}.ckpt" if which in ("best", "last") else Path(which)
    saved = checkpoint.load(path, device)
    provenance = saved["birth"]
    trained = provenance["data"]
    model_config = config.build("model", provenance["config"]["model"])
    shape = tuple(trained.get("shape_px") or [trained["patch_px"]] * 2)  # older checkpoints know square patches alone
    model = _built(model_config, trained["channels"], shape, trained.get("target_channels"))
    checkpoint.load_state(model.to(device), saved["model"], path)
    provenance = provenance | {"checkpoint": str(path), "epoch": saved["position"]["epoch"]}
    normaliser = config.load(config.choice("data", provenance["config"]["data"]["name"]).normaliser)(**trained["normaliser"])
    return Trained(model.eval(), normaliser, trained["channels"], shape, provenance)


def load_split(run: Path, trained: dict[str, Any]) -> Split:
    """Read which groups a run held out, as its checkpoint's ``birth["data"]`` knows it.

    Raises
    ------
    ValueError
        The file was changed after training.
    """
    split = Split.read(run / "split.csv", trained["split_by"])
    if split.hash != trained["split_hash"]:
        raise ValueError(
            f"{run / 'split.csv'} was changed after training: its hash is {split.hash}, not {trained['split_hash']}. Restore it."
        )
    return split


def refuse_other_groups(settings: Settings, provenance: dict[str, Any]) -> None:
    """Refuse settings under which groups of a run's names would be other patches than those that it held out.

    Raises
    ------
    ValueError
        Such a setting is not what it was in training.
    """
    was = provenance["config"]["data"]
    for key in ("split_by", "block_points", "gap_points"):
        if was["name"] == settings.data.name and key in was and was[key] != getattr(settings.data, key):
            raise ValueError(
                f"data.{key}={getattr(settings.data, key)}, but {provenance['checkpoint']} was trained with "
                f"data.{key}={was[key]}, which says what was held out. Leave data.{key} out."
            )


def load_trained(settings: Settings, device: torch.device) -> tuple[Source, Trained]:
    """Load the model of ``run`` and open the data as it knows them: channels by name, its statistics, its split.

    Raises
    ------
    ValueError
        A channel that the model was trained on is absent, it takes samples of another shape alone, or a store is no longer what
        it was.
    """
    run, task = Path(str(settings.run)), settings.task
    trained = load_model(run, task.checkpoint, device)
    path, known = trained.provenance["checkpoint"], trained.provenance["data"]
    key = getattr(settings.data, "CHANNELS", "channels")  # the schema says which setting names what the model sees
    if (asked := getattr(settings.data, key)) not in (None, trained.channels):
        raise ValueError(
            f"{path} was trained on channels {trained.channels}, but data.{key} asks for {asked}. "
            f"Leave data.{key} out: channels are matched by name."
        )
    data = replace(settings.data, **{key: list(trained.channels)})
    source: Source = config.choice("data", data.name).load()(replace(settings, data=data))
    settings.data = resolved(replace(settings, data=data)).data  # what the task writes says where its data were
    if source.shape != trained.shape and contract.has_fixed_shape(trained.model):
        there, here = (" x ".join(map(str, shape)) for shape in (trained.shape, source.shape))
        raise ValueError(
            f"{path} was trained on patches of {there} px, but the stores have {here} px. Assemble with patches of {there} px."
        )
    source.normaliser = replace(trained.normaliser, mode=task.normalise or trained.normaliser.mode)
    changed = [name for name, digest in source.fingerprints.items() if known["fingerprints"].get(name, digest) != digest]
    store = settings.data.store
    if changed and store == trained.provenance["config"]["data"].get("store"):
        where = store or f"data={data.name}"
        raise ValueError(
            f"{', '.join(changed)} in {where} changed after the run was trained: another fingerprint. Assemble the raw files "
            "again as they were, or train again. To encode it as new data, move it and name its folder: data.store."
        )
    if changed:
        logger.warning("%s changed since the run was trained: their patches are encoded as new data.", ", ".join(changed))
    refuse_other_groups(settings, trained.provenance)
    source.use_split(load_split(run, known))
    # Groups of the same name in other stores are other patches: the model has seen none of them.
    is_own = source.rows_used_by(trained.provenance)
    source.rows |= {part: source.rows[part][is_own[source.rows[part]]] for part in PARTS}
    set_layout(trained.model, settings.trainer.channels_last)
    return source, trained
