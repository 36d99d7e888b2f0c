"""Settings of the tasks: ``task=<name>``."""

from __future__ import annotations

from dataclasses import dataclass, field

from microlatent.schemas.checks import MISSING, at_least, distinct, one_of, within
from microlatent.schemas.data import NORMALISATIONS


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
class AssembleWellsConfig:
    """Raw files of a well to one store (``tasks/assemble_wells.py``)."""

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
class AssemblePartitionsConfig:
    """Images of a subject, cut into square partitions, to one store (``tasks/assemble_partitions.py``)."""

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
class AssembleMnistConfig:
    """Idx files of digits to one store (``tasks/assemble_mnist.py``)."""

    name: str = MISSING
    overwrite: bool = False  # replace a store that was made from another root


@dataclass(kw_only=True)
class ProcessConfig:
    """Encode a store with a trained run (``tasks/process.py``)."""

    name: str = MISSING
    checkpoint: str = "best"  # best, last, or a file
    norm: str = "eval"  # eval (running statistics) or instance (each patch's own, as the reference in effect did)
    normalise: str | None = None  # default: as in training; or dataset, patch, gauss, bern, none
    batch_size: int = 256  # patches encoded at a time
    reference_files: bool = False  # also <well>_latent_space.pkl and <well>_latent_space_after.pkl

    def __post_init__(self) -> None:
        one_of("task.norm", self.norm, ("eval", "instance"))
        if self.normalise is not None:
            one_of("task.normalise", self.normalise, NORMALISATIONS)
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


@dataclass(kw_only=True)
class ReconstructConfig:
    """Whole images through a trained model, stitched from overlapping partitions (``tasks/reconstruct.py``)."""

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
    """Latents drawn at their places, beside markers (``tasks/maps.py``)."""

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
class ClusterConfig:
    """Clusters of latents, where they lie, and what they hold (``tasks/cluster.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad
    method: str = "gmm"  # gmm (number of clusters by BIC), kmeans, hdbscan
    num_clusters: int | None = None  # gmm, kmeans: default by BIC from 1, by silhouette from 2
    max_clusters: int = 12  # the most that are tried
    min_cluster_size: int | None = None  # hdbscan: default 1 % of the patches, at least 5
    components: float = 0.8  # of the PCA before clustering; below 1: explained share of variance, else their number
    max_components: int = 20  # at most
    images: list[str] | None = None  # images drawn, <subject>/<image>; default: all
    num_exemplars: int = 8  # patches drawn per cluster

    def __post_init__(self) -> None:
        distinct("task.images", self.images)
        one_of("task.method", self.method, ("gmm", "kmeans", "hdbscan"))
        at_least("task.num_clusters", self.num_clusters, 1)
        at_least("task.max_clusters", self.max_clusters, 1)
        at_least("task.min_cluster_size", self.min_cluster_size, 2)
        at_least("task.components", self.components, 0, strictly=True)
        for key in ("max_components", "num_exemplars"):
            at_least(f"task.{key}", getattr(self, key), 1)
        if self.method == "hdbscan" and self.num_clusters is not None:
            raise ValueError("task.num_clusters has no effect on task.method=hdbscan. Use task.min_cluster_size.")
        if self.method != "hdbscan" and self.min_cluster_size is not None:
            raise ValueError(f"task.min_cluster_size has no effect on task.method={self.method}. Use task.num_clusters.")


@dataclass(kw_only=True)
class OutcomeConfig:
    """Outcomes of subjects predicted from latents, and the images that go with each (``tasks/outcome.py``)."""

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
