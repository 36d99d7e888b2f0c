"""Names, types, units, ranges and defaults of every setting; ``conf/`` holds values only.

One dataclass per choice of a group. No heavy import here: ``train.py --help`` reads this file. Ranges and cross-checks
stand in ``__post_init__`` and raise ``ValueError`` in the house pattern: the key and its value, what is allowed, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MISSING = "???"


def at_least(key: str, value: float | None, low: float, *, strictly: bool = False) -> None:
    """Refuse a number below ``low`` (or equal to it, if ``strictly``); None passes."""
    if value is not None and not (low <= value < float("inf") and (value > low or not strictly)):
        raise ValueError(f"{key} is {value}, but must be {'above' if strictly else 'at least'} {low}.")


def within(key: str, value: float | None, low: float, high: float) -> None:
    """Refuse a number outside the closed range; None passes."""
    if value is not None and not low <= value <= high:
        raise ValueError(f"{key} is {value}, but must lie between {low} and {high}.")


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not in the list, naming the nearest one."""
    if value not in allowed:
        from difflib import get_close_matches

        near = get_close_matches(value, allowed, n=1, cutoff=0.5)
        hint = f" Did you mean {key}={near[0]}?" if near else ""
        raise ValueError(f"{key} is {value!r}, but must be one of {', '.join(allowed)}.{hint}")


# ---------------------------------------------------------------------------------------------------------- model


@dataclass(kw_only=True)
class VQVAEConfig:
    """Vector-quantised autoencoder of single-cell patches (``models/vqvae.py``)."""

    name: str = MISSING
    latent_dim: int = 16  # feature maps at the latent grid; the code's width
    num_residual_hiddens: int = 32  # feature maps inside a residual layer
    num_residual_layers: int = 2  # in the encoder's residual block
    num_codes: int = 64  # entries of the codebook
    commitment_weight: float = 0.25  # beta of van den Oord et al. 2017, eq. 3
    weight_recon: float = 1.0  # of the mean squared error, in total
    weight_commitment: float = 1.0  # of the quantiser's loss
    weight_matching: float = 0.005  # of the matching loss over pairs of patches
    matching: str = "mean"  # mean (current generation: hinge, mean over pairs), sum (paper generation), none
    matching_adjacent: float = 1.1  # weight of pairs in adjacent frames (code 2) and of a patch with itself
    matching_track: float = 0.1  # weight of other pairs of a track (code 1)
    matching_unrelated: float = -0.5  # weight of unrelated pairs (code 0); mean generation only
    matching_margin: float = 0.5  # mean generation: unrelated pairs further apart cost nothing
    channel_var: list[float] | None = None  # divides the squared error per channel; default 1 for each
    masked_loss: bool = False  # weight of pixels outside the cell's enlarged mask: 0.25
    revive_dead_codes: bool = False  # replace codes unused for an epoch by encoder outputs

    def __post_init__(self) -> None:
        for key in ("latent_dim", "num_residual_hiddens", "num_codes"):
            at_least(f"model.{key}", getattr(self, key), 1)
        if self.latent_dim % 4:
            raise ValueError(
                f"model.latent_dim is {self.latent_dim}, but the decoder quarters it, so it must divide by 4. "
                f"Try {max(4, self.latent_dim // 4 * 4)}."
            )
        at_least("model.num_residual_layers", self.num_residual_layers, 0)
        for key in ("commitment_weight", "weight_recon", "weight_commitment", "weight_matching", "matching_margin"):
            at_least(f"model.{key}", getattr(self, key), 0)
        one_of("model.matching", self.matching, ("mean", "sum", "none"))


# ----------------------------------------------------------------------------------------------------------- data


@dataclass(kw_only=True)
class WellsConfig:
    """Single-cell time lapses by well (``data/wells.py``)."""

    name: str = MISSING
    root: str | None = None  # folder of raw files, or "demo" for the simulated specimen
    store: str | None = None  # folder of assembled stores; default outputs/stores/wells-<name of root>
    wells: list[str] | None = None  # default: every well found
    sites: list[str] | None = None  # default: every site of those wells
    channels: list[str] | None = None  # by name, in the order the model sees them; default: all of the store
    channel_names: list[str] | None = None  # names of the raw files' image channels, in their order
    pixel_um: float | None = None  # size of a raw pixel; from the files where they say it
    frame_min: float | None = None  # minutes between frames
    normalise: str = "dataset"  # dataset (z-score, training groups), patch (each patch alone), none
    split_by: str = "trajectory"  # trajectory, site, well
    val_share: float = 0.15  # share of groups held out for validation
    order: str = "tracks"  # tracks (whole tracks, reshuffled each epoch), reference (its fixed order), random
    augment: bool = True  # random flips and quarter turns in training
    bad_patches: str = "skip"  # NaN or constant patches: skip (with a count) or refuse

    def __post_init__(self) -> None:
        one_of("data.normalise", self.normalise, ("dataset", "patch", "none"))
        one_of("data.split_by", self.split_by, ("trajectory", "site", "well"))
        one_of("data.order", self.order, ("tracks", "reference", "random"))
        one_of("data.bad_patches", self.bad_patches, ("skip", "refuse"))
        within("data.val_share", self.val_share, 0.0, 0.9)
        at_least("data.pixel_um", self.pixel_um, 0, strictly=True)
        at_least("data.frame_min", self.frame_min, 0, strictly=True)


# ----------------------------------------------------------------------------------------------------------- task


@dataclass(kw_only=True)
class TrainConfig:
    """Fit a model (``training.py``)."""

    name: str = MISSING


@dataclass(kw_only=True)
class PatchConfig:
    """Cut single-cell patches and tracks out of images and instance masks (``tasks/patch.py``)."""

    name: str = MISSING
    images: str = "images/{well}-{site}_t{frame}.tif"  # below data.root; {well} {site} {frame} {channel} are read, * is anything
    masks: str = "masks/{well}-{site}_t{frame}.tif"  # instance masks: 0 is background, each other value a cell
    mask_frame_offset: int | None = None  # image frame minus mask frame, where their numbers do not begin alike
    out: str | None = None  # folder of the patches; default outputs/patches/<name of data.root>
    well: str = "A1"  # where the path does not say
    site: str = "Site_0"  # where the path does not say
    tracks: str = "auto"  # auto, ids (mask values are track ids), link (assignment tracker), or a CSV file (frames as the masks')
    window_px: int = 256  # side of the square cut around a cell's centre
    boundary: str = "pad"  # pad, or skip cells whose window leaves the image
    min_area_px: int = 1  # smaller labels are not cells
    dilate_cell_px: int = 10  # the enlarged mask: disc radius below this
    dilate_neighbour_px: int = 5  # disc radius by which neighbours are widened before they are filled
    max_step_px: float = 100.0  # tracker: a link is never longer
    max_gap_frames: int = 2  # tracker: frames a cell may be missing
    min_track_frames: int = 3  # shorter tracks are dropped (the reference keeps those above 10)
    reference_files: bool = False  # also stacks_<t>.pkl and cell_traj.pkl

    def __post_init__(self) -> None:
        one_of("task.boundary", self.boundary, ("pad", "skip"))
        if not self.tracks.endswith(".csv"):
            one_of("task.tracks", self.tracks, ("auto", "ids", "link", "<file>.csv"))
        for key in ("dilate_cell_px", "dilate_neighbour_px", "min_area_px"):
            at_least(f"task.{key}", getattr(self, key), 0)
        at_least("task.window_px", self.window_px, 8)
        if self.window_px % 2:
            raise ValueError(f"task.window_px is {self.window_px}, but must be even. Try {self.window_px + 1}.")
        at_least("task.max_step_px", self.max_step_px, 0, strictly=True)
        within("task.max_gap_frames", self.max_gap_frames, 0, 2)
        at_least("task.min_track_frames", self.min_track_frames, 1)


@dataclass(kw_only=True)
class AssembleConfig:
    """Raw files of a well to one store (``tasks/assemble.py``)."""

    name: str = MISSING
    patch_type: str = "masked_mat"  # masked_mat (neighbours filled with background) or mat
    patch_px: int = 128  # patches are resampled to this side
    dtype: str = "auto"  # auto (camera dtype where nothing became fractional, else float32), uint16, float32
    masks: bool = False  # also store the enlarged cell masks
    overwrite: bool = False  # replace a store that was made from another root
    reference_files: bool = False  # also the four pickles of the reference

    def __post_init__(self) -> None:
        one_of("task.patch_type", self.patch_type, ("masked_mat", "mat"))
        one_of("task.dtype", self.dtype, ("auto", "uint16", "float32"))
        at_least("task.patch_px", self.patch_px, 8)


@dataclass(kw_only=True)
class ProcessConfig:
    """Encode a store with a trained run (``tasks/process.py``)."""

    name: str = MISSING
    checkpoint: str = "best"  # best, last, or a file
    norm: str = "eval"  # eval (running statistics) or instance (each patch's own, as the reference in effect did)
    normalise: str | None = None  # default: as in training; or dataset, patch, none
    batch_size: int = 256  # patches encoded at a time
    reference_files: bool = False  # also <well>_latent_space.pkl and <well>_latent_space_after.pkl

    def __post_init__(self) -> None:
        one_of("task.norm", self.norm, ("eval", "instance"))
        if self.normalise is not None:
            one_of("task.normalise", self.normalise, ("dataset", "patch", "none"))
        at_least("task.batch_size", self.batch_size, 1)


@dataclass(kw_only=True)
class MatchConfig:
    """Match latents to trajectories over time (``tasks/match.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad; or the reference's <well>_latent_space.pkl
    min_found: float = 0.95  # keep a trajectory if more than this share of its frames has a patch
    num_examples: int = 6  # trajectories numbered in the map and drawn as film strips
    reference_files: bool = False  # also <well>_trajectories.pkl

    def __post_init__(self) -> None:
        within("task.min_found", self.min_found, 0.0, 1.0)
        if self.min_found == 1:
            raise ValueError("task.min_found is 1, but more than this share must be found, so it must be below 1. Try 0.999.")
        at_least("task.num_examples", self.num_examples, 1)


@dataclass(kw_only=True)
class EmbedConfig:
    """PCA and UMAP of latents, exemplars along the components, linear probes (``tasks/embed.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad; or the reference's <well>_latent_space.pkl
    pca: str | None = None  # pca.npz of an earlier embed, applied instead of fitting one
    components: float = 0.5  # below 1: explained share of variance; else number of components
    umap: bool = True  # also UMAP of the principal components
    umap_neighbours: int = 15  # larger shows coarser structure
    umap_min_dist: float = 0.1  # smaller packs alike patches closer
    colour_by: list[str] = field(default_factory=list)  # columns of the table; default: well, frame, and the probes
    probes: list[str] = field(default_factory=list)  # numeric columns read out linearly; default: the planted true_* columns
    probe_components: int = 16  # width to which latents and pixels are both reduced
    num_exemplars: int = 8  # patches per quantile
    quantiles: int = 5  # groups of patches along a component
    max_components_shown: int = 4  # in the exemplars figure

    def __post_init__(self) -> None:
        at_least("task.components", self.components, 0, strictly=True)
        if self.components > 1 and self.components != int(self.components):
            raise ValueError(
                f"task.components is {self.components}, but must be a share below 1 or a whole number of components. "
                f"Try {int(self.components)}."
            )
        at_least("task.umap_neighbours", self.umap_neighbours, 2)
        within("task.umap_min_dist", self.umap_min_dist, 0.0, 1.0)
        at_least("task.quantiles", self.quantiles, 2)
        for key in ("num_exemplars", "max_components_shown", "probe_components"):
            at_least(f"task.{key}", getattr(self, key), 1)


# -------------------------------------------------------------------------------------------------------- trainer


@dataclass(kw_only=True)
class TrainerConfig:
    """The loop (``training.py``)."""

    name: str = MISSING
    device: str = "cpu"  # cpu, cuda, cuda:<index>, auto
    threads: int | None = None  # CPU threads; default: the cores this process may use
    allocator: bool = True  # keep large temporaries mapped (Linux, glibc); see microlatent/allocator.py
    epochs: int = 50  # passes over the training patches; 0 keeps the weights of init_from as a run
    batch_size: int = 64  # patches per optimiser step, over all processes
    accumulate: int = 1  # pieces a batch is cut into to save memory
    lr: float = 1e-3  # learning rate of Adam
    lr_schedule: str = "constant"  # constant or cosine (to zero at the last epoch)
    warmup_steps: int = 0  # the learning rate rises linearly over these
    weight_decay: float = 0.0  # above 0: AdamW
    clip_norm: float | None = None  # gradients' total norm
    precision: str = "fp32"  # fp32 or bf16 (autocast)
    channels_last: bool = False  # memory layout handed to the model; the vqvae models choose their own on CPU
    compile: bool = False  # torch.compile: half a minute at start, worth it on a GPU or for long runs
    resident: bool = True  # keep the store in device memory where it fits (GPU)
    monitor: str = "total"  # validation term whose lowest value is the best checkpoint: total, recon ...
    patience: int | None = None  # stop after this many epochs without improvement of the monitored term
    checkpoint_every: int | None = None  # epochs between kept checkpoints; best and last are always kept
    max_batches: int | None = None  # batches per epoch at most (smoke)
    num_reconstructions: int = 8  # held-out patches drawn beside their reconstructions; 0 draws none

    def __post_init__(self) -> None:
        one_of("trainer.precision", self.precision, ("fp32", "bf16"))
        one_of("trainer.lr_schedule", self.lr_schedule, ("constant", "cosine"))
        at_least("trainer.epochs", self.epochs, 0)
        for key in ("batch_size", "accumulate"):
            at_least(f"trainer.{key}", getattr(self, key), 1)
        at_least("trainer.lr", self.lr, 0, strictly=True)
        for key in ("threads", "patience", "checkpoint_every", "max_batches"):
            at_least(f"trainer.{key}", getattr(self, key), 1)
        at_least("trainer.num_reconstructions", self.num_reconstructions, 0)
        at_least("trainer.clip_norm", self.clip_norm, 0, strictly=True)
        at_least("trainer.weight_decay", self.weight_decay, 0)
        at_least("trainer.warmup_steps", self.warmup_steps, 0)


# --------------------------------------------------------------------------------------------------------- logger


@dataclass(kw_only=True)
class LoggerConfig:
    """Where metrics go beside the run's own CSV files (``tracking.py``)."""

    name: str = MISSING  # wandb or csv
    mode: str = "offline"  # offline or online
    project: str = "microlatent"  # of W&B
    entity: str | None = None  # user or team of W&B
    group: str | None = None  # default: the sweep's or the experiment's name
    tags: list[str] = field(default_factory=list)  # added to the choices of the groups
    timeout_s: float = 15.0  # online: seconds until it falls back to offline

    def __post_init__(self) -> None:
        one_of("logger.mode", self.mode, ("offline", "online"))
        at_least("logger.timeout_s", self.timeout_s, 0, strictly=True)


# ------------------------------------------------------------------------------------------------------- top level


@dataclass(kw_only=True)
class Settings:
    """One composed command. Each group holds an instance of one of the dataclasses above or of a plugin's."""

    name: str | None = None  # the experiment's folder under outputs/; default: <data>-<model or task>
    seed: int = 0  # of the split, the weights, the order and the augmentation
    run: str | None = None  # a trained run to use: its folder, latest, best
    resume: str | None = None  # continue an interrupted training run: its folder or latest
    rerun: str | None = None  # repeat a run from its folder alone
    init_from: str | None = None  # weights alone: a checkpoint or the reference's model.pt
    check: bool = False  # rehearse: open everything, write nothing
    plugins: list[str] = field(default_factory=list)  # modules that register models or data of your own
    outputs: str = "outputs"  # folder of all runs and stores
    model: Any = None
    data: Any = None
    task: Any = None
    trainer: Any = None
    logger: Any = None
