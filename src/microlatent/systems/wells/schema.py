"""Settings of single-cell time lapses: ``data=wells`` and its tasks."""

from __future__ import annotations

from dataclasses import dataclass

from microlatent.schemas.checks import MISSING, NORMALISATIONS, at_least, distinct, one_of, within


@dataclass(kw_only=True)
class WellsConfig:
    """Single-cell time lapses by well (``systems/wells/source.py``)."""

    name: str = MISSING
    root: str | None = None  # folder of raw files, or "demo" for the simulated specimen
    store: str | None = None  # folder of assembled stores; default outputs/stores/wells-<name of root>
    wells: list[str] | None = None  # default: every well found
    sites: list[str] | None = None  # default: every site of those wells
    channels: list[str] | None = None  # by name, in the order the model sees them; default: all of the store
    channel_names: list[str] | None = None  # names of the raw files' image channels, in their order
    pixel_um: float | None = None  # size of a raw pixel; from the files where they say it
    frame_min: float | None = None  # minutes between frames
    normalise: str = "dataset"  # dataset (z-score, training groups), patch (each patch alone), gauss, bern, none
    split_by: str = "trajectory"  # trajectory, site, well
    val_share: float = 0.15  # share of the patches, in whole groups, that choose the best checkpoint
    test_share: float = 0.0  # share of the patches, in whole groups, that only the final numbers see
    order: str = "tracks"  # tracks (whole tracks, reshuffled each epoch), reference (its fixed order), random
    augment: bool = True  # random flips and quarter turns in training
    bad_patches: str = "skip"  # NaN or constant patches: skip (with a count) or refuse

    def __post_init__(self) -> None:
        for key in ("wells", "sites", "channels", "channel_names"):
            distinct(f"data.{key}", getattr(self, key))
        one_of("data.normalise", self.normalise, NORMALISATIONS)
        one_of("data.split_by", self.split_by, ("trajectory", "site", "well"))
        one_of("data.order", self.order, ("tracks", "reference", "random"))
        one_of("data.bad_patches", self.bad_patches, ("skip", "refuse"))
        within("data.val_share", self.val_share, 0.0, 0.9)
        within("data.test_share", self.test_share, 0.0, 0.9)
        at_least("data.pixel_um", self.pixel_um, 0, strictly=True)
        at_least("data.frame_min", self.frame_min, 0, strictly=True)


@dataclass(kw_only=True)
class PatchConfig:
    """Cut single-cell patches and tracks out of images and instance masks (``systems/wells/patch.py``)."""

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
class AssembleWellsConfig:
    """Raw files of a well to one store (``systems/wells/assemble.py``)."""

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
class MatchConfig:
    """Match latents to trajectories over time (``systems/wells/match.py``)."""

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
