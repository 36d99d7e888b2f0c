"""Settings of virtual staining: ``data=plates`` and its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from microlatent.schemas.checks import MISSING, at_least, distinct, one_of, within

LEVELS = ("field", "time", "dataset", "none")
VERSIONS = ("0.5", "0.4")


@dataclass(kw_only=True)
class PlatesConfig:
    """Plates for virtual staining (``systems/plates/source.py``)."""

    name: str = MISSING
    root: Any = None  # project folder, OME-Zarr plate, well, field or image, a list of them, or "demo"
    store: str | None = None  # folder of statistics and staged pixels; default outputs/stores/plates-<name of root>
    source_channels: list[str] | None = None  # label-free channels, by name, in the order the model sees them
    target_channels: list[str] | None = None  # channels to be predicted, by name
    channel_names: list[str] | None = None  # of images whose metadata name none, in their order
    planes: int | None = None  # Z planes of a window, an odd number where its middle is the target; default: the model's
    all_planes: bool | None = None  # the target is the whole window, not its middle plane; default: the model's
    crop_px: int = 64  # side of the crops that are trained on
    crops: int = 64  # crops of a field in an epoch
    foreground: float = 0.5  # share of the crops that are drawn where a target is likely foreground; the others anywhere
    normalise: str = "field"  # of the source, median and IQR: field (each field), time (each of its time points), dataset, none
    statistics: str = "measured"  # measured, or attributes: the source's median and IQR from VisCy's attribute "normalization"
    split_by: str | None = None  # plate, well, fov; default: well where three or more are trained on, else fov
    val_share: float = 0.15  # share of the training fields, in whole groups, that choose the best checkpoint
    test_share: float = 0.0  # the same for the final numbers; a project folder has its own in datasets/test
    jitter: float = 1.18  # training multiplies the source's contrast by a factor between 1/jitter and jitter
    augment: bool = True  # random flips and quarter turns in training, of source and target alike
    pixel_um: float | None = None  # size of a pixel; from the metadata where they say it
    z_um: float | None = None  # distance of planes; from the metadata where they say it

    CHANNELS: ClassVar[str] = "source_channels"  # the setting that names what a model sees

    def __post_init__(self) -> None:
        if isinstance(self.root, list | tuple):
            self.root = [str(one) for one in self.root]
            distinct("data.root", self.root)
        elif self.root is not None:
            self.root = str(self.root)
        for key in ("source_channels", "target_channels", "channel_names"):
            distinct(f"data.{key}", getattr(self, key))
        at_least("data.planes", self.planes, 1)
        if self.planes and self.planes % 2 == 0 and not self.all_planes:
            raise ValueError(f"data.planes is {self.planes}, but must be odd: a window has a middle. Try {self.planes - 1}.")
        at_least("data.crop_px", self.crop_px, 8)
        at_least("data.crops", self.crops, 1)
        within("data.foreground", self.foreground, 0.0, 1.0)
        one_of("data.normalise", self.normalise, LEVELS)
        one_of("data.statistics", self.statistics, ("measured", "attributes"))
        if self.split_by is not None:
            one_of("data.split_by", self.split_by, ("plate", "well", "fov"))
        within("data.val_share", self.val_share, 0.0, 0.9)
        within("data.test_share", self.test_share, 0.0, 0.9)
        within("data.jitter", self.jitter, 1.0, 10.0)
        at_least("data.pixel_um", self.pixel_um, 0, strictly=True)
        at_least("data.z_um", self.z_um, 0, strictly=True)

    def settle(self, model: Any) -> None:
        """Take from the model's schema how many planes it sees, and whether it predicts all of them.

        Raises
        ------
        ValueError
            A number of planes was typed that the model does not take.
        """
        wanted = getattr(model, "planes", None)
        if self.planes is not None and wanted is not None and self.planes != wanted:
            raise ValueError(
                f"data.planes is {self.planes}, but model={model.name} takes {wanted}. Leave data.planes out, or set "
                f"model.planes={self.planes}."
            )
        self.planes = self.planes or wanted or 1
        if self.all_planes is None:
            self.all_planes = bool(getattr(model, "predicts_all_planes", False))
        self.__post_init__()


@dataclass(kw_only=True)
class PreprocessConfig:
    """Statistics and foreground of every field, beside the data (``systems/plates/preprocess.py``)."""

    name: str = MISSING
    channels: list[str] | None = None  # to be measured; default: all
    write_attributes: bool = False  # also write VisCy's attribute "normalization" into the plates of data.root
    overwrite: bool = False  # with task.write_attributes: replace such attributes that are there

    def __post_init__(self) -> None:
        distinct("task.channels", self.channels)
        if self.overwrite and not self.write_attributes:
            raise ValueError("task.overwrite has no effect without task.write_attributes=true. Give both, or neither.")


@dataclass(kw_only=True)
class AssemblePlatesConfig:
    """TIFF and other images to one OME-Zarr plate (``systems/plates/assemble.py``)."""

    name: str = MISSING
    images: str = "{well}_{site}_{channel}.tif"  # below data.root; {well} {row} {column} {site} {frame} {z} {channel} are read
    well: str = "A1"  # where the path does not say
    site: str = "000"  # where the path does not say
    pages: str = "z"  # what the pages of a file are that does not say it: z, t or c
    out: str | None = None  # the plate; default outputs/plates/<name of data.root>.zarr
    version: str = "0.5"  # of NGFF: 0.5 (zarr 3) or 0.4 (zarr 2)
    overwrite: bool = False  # replace a plate that is there

    def __post_init__(self) -> None:
        one_of("task.pages", self.pages, ("z", "t", "c"))
        one_of("task.version", self.version, VERSIONS)


@dataclass(kw_only=True)
class PredictConfig:
    """A plate through a trained model, to ``<run>/prediction.zarr`` (``systems/plates/predict.py``)."""

    name: str = MISSING
    checkpoint: str = "best"  # best, last, or a checkpoint file
    wells: list[str] | None = None  # of the plate, such as A/1; the prediction lists these alone. Default: all
    fields: list[str] | None = None  # this command's share of them, such as A/1/000; others are left to other commands
    units: str = "counts"  # counts (the camera's units and type) or normalised (float32, as the model gives them)
    tile_px: int | None = None  # side of a tile without its halo; default: 512, or 1024 where the halo is large
    halo_px: int | None = None  # around each tile; default: half of the model's receptive field. Below that, seams show
    z_step: int | None = None  # planes between overlapping windows of a model that predicts all planes; default: half of them
    batch_size: int = 1  # windows of planes through the network at a time
    tta: str = "none"  # mean or median of the prediction of 8 mirrored and turned copies; none: of the image alone
    rescale: bool = False  # resample to the pixel size that the model was trained on, and back
    workers: int = 1  # processes that share the plate, and the threads
    version: str = "0.5"  # of NGFF: 0.5 (zarr 3) or 0.4 (zarr 2)

    def __post_init__(self) -> None:
        distinct("task.wells", self.wells)
        distinct("task.fields", self.fields)
        one_of("task.units", self.units, ("counts", "normalised"))
        one_of("task.tta", self.tta, ("none", "mean", "median"))
        one_of("task.version", self.version, VERSIONS)
        at_least("task.tile_px", self.tile_px, 16)
        at_least("task.halo_px", self.halo_px, 0)
        for key in ("z_step", "batch_size", "workers"):
            at_least(f"task.{key}", getattr(self, key), 1)
