"""Settings of multiplexed tissue: ``data=partitions`` and its tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from microlatent.schemas.checks import MISSING, NORMALISATIONS, at_least, distinct, one_of, within


@dataclass(kw_only=True)
class PartitionsConfig:
    """Multiplexed tissue images of subjects (``systems/partitions/source.py``)."""

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
class AssemblePartitionsConfig:
    """Images of a subject, cut into square partitions, to one store (``systems/partitions/assemble.py``)."""

    name: str = MISSING
    size: int = 64  # side of a partition, px
    overlap: int = 0  # px that neighbouring partitions share: they begin size - overlap apart
    remainder: str = "shift"  # shift (the last row and column move inwards, so all is covered) or drop (as the reference)
    min_foreground: float = 0.0  # leave out partitions with a smaller share of foreground pixels; 0 keeps all
    foreground_counts: float | None = None  # above it, a pixel's mean over the channels is foreground; default: Otsu, per image
    overwrite: bool = False  # replace a store that was made from another root
    reference_files: bool = False  # also data_partition_<i>.npy and a manifest of which image each is

    def __post_init__(self) -> None:
        one_of("task.remainder", self.remainder, ("shift", "drop"))
        at_least("task.size", self.size, 8)
        at_least("task.overlap", self.overlap, 0)
        if self.overlap >= self.size:
            raise ValueError(f"task.overlap is {self.overlap}, but must be below task.size={self.size}. Try {self.size // 4}.")
        within("task.min_foreground", self.min_foreground, 0.0, 1.0)
        if self.foreground_counts is not None and not self.min_foreground:
            raise ValueError("task.foreground_counts has no effect while task.min_foreground is 0. Give both, or neither.")


@dataclass(kw_only=True)
class ReconstructConfig:
    """Whole images through a trained model, stitched from overlapping partitions (``systems/partitions/reconstruct.py``)."""

    name: str = MISSING
    checkpoint: str = "best"  # best, last, or a file
    images: list[str] | None = None  # <subject>/<image>; default: all
    overlap: int | None = None  # px that neighbouring partitions share, blended there; default: a quarter of a partition
    batch_size: int = 64  # partitions reconstructed at a time
    threshold: float = 0.5  # bern: probabilities above are 1 in the thresholded map

    def __post_init__(self) -> None:
        distinct("task.images", self.images)
        at_least("task.overlap", self.overlap, 0)
        at_least("task.batch_size", self.batch_size, 1)
        within("task.threshold", self.threshold, 0.0, 1.0)


@dataclass(kw_only=True)
class MapsConfig:
    """Latents drawn at their places, beside markers (``systems/partitions/maps.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad
    dims: list[int] | None = None  # latent dimensions from 0; default: those that vary most
    num_dims: int = 6  # how many, where task.dims does not say
    markers: list[str] | None = None  # default: all channels
    images: list[str] | None = None  # <subject>/<image>; default: all

    def __post_init__(self) -> None:
        distinct("task.markers", self.markers)
        distinct("task.images", self.images)
        at_least("task.num_dims", self.num_dims, 1)


@dataclass(kw_only=True)
class OutcomeConfig:
    """Outcomes of subjects predicted from latents, and the images that go with each (``systems/partitions/outcome.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad
    outcomes: str | None = None  # CSV with the columns subject, outcome; data.root=demo has its own
    checkpoint: str = "best"  # whose decoder draws the images: best, last, or a file
    folds: str = "loo"  # loo (one subject of each outcome; in 25ths above 25 subjects) or a number of folds of whole subjects
    num_clusters: int = 16  # of the composition that summarises a subject
    num_permutations: int = 999  # of the outcomes over subjects
    num_bootstraps: int = 1000  # of the subjects, for intervals
    num_steps: int = 7  # images on the path from one outcome to the other
    num_samples: int = 6  # images drawn from each outcome, and real partitions nearest to each

    def __post_init__(self) -> None:
        if self.folds != "loo" and not (self.folds.isdigit() and int(self.folds) >= 2):
            raise ValueError(f"task.folds is {self.folds!r}, but must be loo or a number of folds from 2.")
        at_least("task.num_clusters", self.num_clusters, 1)
        for key in ("num_permutations", "num_bootstraps"):
            at_least(f"task.{key}", getattr(self, key), 19)
        at_least("task.num_steps", self.num_steps, 2)
        at_least("task.num_samples", self.num_samples, 1)
