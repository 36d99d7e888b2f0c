"""Settings of the systems' data: ``data=<name>``."""

from __future__ import annotations

from dataclasses import dataclass, field

from microlatent.schemas.checks import MISSING, at_least, distinct, one_of, within

NORMALISATIONS = ("dataset", "patch", "zero_one", "minus_one_one", "gauss", "bern", "none")


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
class PartitionsConfig:
    """Multiplexed tissue images of subjects (``data/partitions.py``)."""

    name: str = MISSING
    root: str | None = None  # folder of raw images, or "demo" for the simulated tissue
    store: str | None = None  # folder of assembled stores; default outputs/stores/partitions-<name of root>
    images: str = "{subject}/{image}.*"  # below data.root; {subject} {image} {channel} are read, * is anything
    subjects: list[str] | None = None  # default: every subject found
    channels: list[str] | None = None  # markers by name, in the order the model sees them; default: all
    drop_channels: list[str] = field(default_factory=list)  # markers to leave out by name, such as a composite page
    channel_names: list[str] | None = None  # names of the pages, in their order, where the files do not say
    pixel_um: float | None = None  # size of a pixel; from the files where they say it
    normalise: str | None = None  # gauss (0..100), bern (1 above the mean), dataset (z-score), patch, none; default: the model's
    arcsinh_cofactor: float | None = None  # first arcsinh(x / cofactor), for skewed markers; 5 is usual for mass cytometry
    clip_percentile: float | None = None  # first cut at this percentile of the training pixels of each marker, such as 99.9
    split_by: str = "subject"  # subject, image, partition (leaks: neighbours share pixels and tissue)
    val_share: float = 0.15  # share of the partitions, in whole groups, that choose the best checkpoint
    test_share: float = 0.0  # share of the partitions, in whole groups, that only the final numbers see
    augment: bool = True  # random flips and quarter turns in training

    def __post_init__(self) -> None:
        for key in ("subjects", "channels", "channel_names"):
            distinct(f"data.{key}", getattr(self, key))
        distinct("data.drop_channels", self.drop_channels or None)
        if self.normalise is not None:
            one_of("data.normalise", self.normalise, NORMALISATIONS)
        one_of("data.split_by", self.split_by, ("subject", "image", "partition"))
        within("data.val_share", self.val_share, 0.0, 0.9)
        within("data.test_share", self.test_share, 0.0, 0.9)
        at_least("data.pixel_um", self.pixel_um, 0, strictly=True)
        at_least("data.arcsinh_cofactor", self.arcsinh_cofactor, 0, strictly=True)
        within("data.clip_percentile", self.clip_percentile, 50.0, 100.0)
        both = sorted(set(self.channels or []) & set(self.drop_channels))
        if both:
            raise ValueError(f"data.channels and data.drop_channels both name {both}. Take them out of one of the two.")


@dataclass(kw_only=True)
class MnistConfig:
    """Handwritten digits in idx files (``data/mnist.py``)."""

    name: str = MISSING
    root: str | None = None  # folder with the idx files of images and labels, plain or gzip
    store: str | None = None  # folder of the assembled store; default outputs/stores/mnist-<name of root>
    channels: list[str] | None = None  # the one there is: intensity
    normalise: str | None = None  # gauss (0..100), bern (1 above the mean), dataset (z-score), patch, none; default: the model's
    split_by: str = "image"  # image: every digit is on its own
    val_share: float = 0.1  # share of the images that choose the best checkpoint
    test_share: float = 0.1  # share of the images that only the final numbers see
    augment: bool = False  # random flips and quarter turns in training: a turned 6 is no 6

    def __post_init__(self) -> None:
        if self.normalise is not None:
            one_of("data.normalise", self.normalise, NORMALISATIONS)
        one_of("data.split_by", self.split_by, ("image",))
        within("data.val_share", self.val_share, 0.0, 0.9)
        within("data.test_share", self.test_share, 0.0, 0.9)


@dataclass(kw_only=True)
class KikuchiConfig:
    """EBSD scans of Kikuchi patterns (``data/kikuchi.py``)."""

    name: str = MISSING
    root: str | None = None  # a scan's file, a folder of scans or of pattern images; "demo" or "demo_real" simulate one
    store: str | None = None  # folder of assembled stores; default outputs/stores/kikuchi-<name of root>
    scans: list[str] | None = None  # by name; default: every scan found
    patterns: str = "processed"  # processed or unprocessed, where a file (H5OINA) holds both
    maps: list[str] = field(default_factory=list)  # files whose columns join the points by x and y: .csv .ctf .cpr .ang
    keep: str | None = None  # run of task=bandcontrast, or a CSV or NPY of x, y: only these points are used
    channels: list[str] | None = None  # the one there is: pattern
    normalise: str | None = None  # patch (z-score of each pattern), minus_one_one, zero_one, dataset, none; default: the model's
    split_by: str = "block"  # block (squares of the map) or scan
    block_points: int = 8  # side of a block, scan points
    gap_points: int = 1  # training points nearer than this to a held-out block are in no part
    val_share: float = 0.15  # share of the points, in whole groups, that choose the best checkpoint
    test_share: float = 0.0  # share of the points, in whole groups, that only the final numbers see

    def __post_init__(self) -> None:
        distinct("data.scans", self.scans)
        distinct("data.maps", self.maps or None)
        one_of("data.patterns", self.patterns, ("processed", "unprocessed"))
        if self.normalise is not None:
            one_of("data.normalise", self.normalise, NORMALISATIONS)
        one_of("data.split_by", self.split_by, ("block", "scan"))
        at_least("data.block_points", self.block_points, 2)
        at_least("data.gap_points", self.gap_points, 0)
        within("data.val_share", self.val_share, 0.0, 0.9)
        within("data.test_share", self.test_share, 0.0, 0.9)
