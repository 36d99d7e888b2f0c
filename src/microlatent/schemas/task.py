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


@dataclass(kw_only=True)
class AssembleKikuchiConfig:
    """Patterns of a scan, background removed, to one store (``tasks/assemble_kikuchi.py``)."""

    name: str = MISSING
    crop: list[int] | None = None  # top, bottom, left, right in px, half-open; comes first
    static_background: str = "auto"  # subtract, divide, none; auto: subtract where the file has one and did not yet
    dynamic_background: str = "subtract"  # subtract or divide each pattern's own blur, or none
    dynamic_std_px: float | None = None  # of that blur; default an eighth of the pattern's width
    average: str = "none"  # with neighbouring points: none, circle (3 x 3 without corners), gauss (3 x 3, std 1 point)
    bin: int = 1  # mean of bin x bin pixels
    mask: str = "none"  # circle: pixels outside the inscribed circle become the mean inside
    bad_patterns: str = "skip"  # NaN or constant patterns: skip (with a count) or refuse
    overwrite: bool = False  # replace a store that was made from another root

    def __post_init__(self) -> None:
        if self.crop is not None and (len(self.crop) != 4 or self.crop[0] >= self.crop[1] or self.crop[2] >= self.crop[3]):
            raise ValueError(
                f"task.crop is {self.crop}, but must be [top, bottom, left, right] with top < bottom and left < right."
            )
        one_of("task.static_background", self.static_background, ("auto", "subtract", "divide", "none"))
        one_of("task.dynamic_background", self.dynamic_background, ("subtract", "divide", "none"))
        at_least("task.dynamic_std_px", self.dynamic_std_px, 0, strictly=True)
        one_of("task.average", self.average, ("none", "circle", "gauss"))
        at_least("task.bin", self.bin, 1)
        one_of("task.mask", self.mask, ("none", "circle"))
        one_of("task.bad_patterns", self.bad_patterns, ("skip", "refuse"))


def roi(key: str, limits: list[int] | None) -> None:
    """Refuse a range of map columns or rows that is not two increasing numbers."""
    if limits is not None and (len(limits) != 2 or limits[0] >= limits[1]):
        raise ValueError(f"{key} is {limits}, but must be [first, end]: two increasing numbers, the second not included.")


@dataclass(kw_only=True)
class BandContrastConfig:
    """Histogram and maps of the patterns' quality, and which points to keep (``tasks/bandcontrast.py``)."""

    name: str = MISSING
    quantity: str | None = None  # column; default: the vendor's (bandcontrast, iq, radon_quality), else image_quality
    roi_xrange: list[int] | None = None  # map columns [first, end), half-open
    roi_yrange: list[int] | None = None  # map rows [first, end), half-open
    threshold: str = "otsu"  # a number, otsu, or none
    quantile: float | None = None  # instead of a threshold: this share of the points in the region is left out
    keep_below: bool = False  # keep points below the threshold instead of those at or above it

    def __post_init__(self) -> None:
        roi("task.roi_xrange", self.roi_xrange)
        roi("task.roi_yrange", self.roi_yrange)
        within("task.quantile", self.quantile, 0.0, 1.0)
        if self.threshold not in ("otsu", "none"):
            try:
                float(self.threshold)
            except ValueError:
                raise ValueError(f"task.threshold is {self.threshold!r}, but must be a number, otsu or none.") from None
        if self.quantile is not None and self.threshold != "otsu":
            raise ValueError(f"task.threshold={self.threshold} has no effect beside task.quantile={self.quantile:g}. Give one.")
        if self.keep_below and self.threshold == "none" and self.quantile is None:
            raise ValueError("task.keep_below has no effect on task.threshold=none. Give a threshold or a quantile.")


@dataclass(kw_only=True)
class MapsKikuchiConfig:
    """Latents over the scan, reconstructions and traversals (``tasks/maps_kikuchi.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad
    checkpoint: str | None = None  # whose decoder draws patterns: best, last, or a file; default: that of the latents
    dims: list[int] | None = None  # latent dimensions from 0, a map each; default: all
    roi_xrange: list[int] | None = None  # map columns [first, end), half-open
    roi_yrange: list[int] | None = None  # map rows [first, end), half-open
    cmap: str = "viridis"  # colours of the latent maps, a name of matplotlib
    bad_color: str = "white"  # of points without a latent: black, white, or any name of a colour
    robust: float = 1.0  # per cent of the values cut off at either end of the colours
    neighbours: int = 8  # of a point, in the kernel latent spread: 4 or 8
    pixels: list[list[int]] | None = None  # points [x, y] whose reconstruction is drawn; default: spread over the errors
    num_pixels: int = 6  # how many, where task.pixels does not say
    traverse: list[int] | None = None  # latent dimensions decoded along; default: those that vary most
    num_traverse: int = 6  # how many, where task.traverse does not say
    batch_size: int = 256  # patterns reconstructed at a time

    def __post_init__(self) -> None:
        distinct("task.dims", self.dims)
        distinct("task.traverse", self.traverse)
        roi("task.roi_xrange", self.roi_xrange)
        roi("task.roi_yrange", self.roi_yrange)
        within("task.robust", self.robust, 0.0, 25.0)
        one_of("task.neighbours", self.neighbours, (4, 8))
        for key in ("num_pixels", "num_traverse", "batch_size"):
            at_least(f"task.{key}", getattr(self, key), 1)
        for pixel in self.pixels or []:
            if len(pixel) != 2:
                raise ValueError(f"task.pixels holds {pixel}, but every point is [x, y]: map column and map row.")


METRICS = ("pearson", "spearman", "kendall", "mi", "dcorr", "hsic", "pp_spatial")


@dataclass(kw_only=True)
class AssociateConfig:
    """Latents ranked by their association with maps of the same points (``tasks/associate.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad
    targets: list[str] | None = None  # columns; default: band contrast or what stands for it, and every element
    metrics: list[str] = field(default_factory=lambda: list(METRICS))  # pearson spearman kendall mi dcorr hsic pp_spatial
    dims: list[int] | None = None  # latent dimensions from 0; default: all
    roi_xrange: list[int] | None = None  # map columns [first, end), half-open
    roi_yrange: list[int] | None = None  # map rows [first, end), half-open
    # Surrogates of the target. shift (toroidal) and phase (randomised Fourier phases; of smooth maps only) test that maps are not
    # independent, for which sharing grain boundaries is enough, above all for mi, hsic and dcorr. grains (means of grains dealt
    # anew) tests what goes with the latents beyond sharing grains.
    null: str = "shift"
    grains: str | None = None  # of null=grains: column of labels: true_grain, cluster_label, a grain number of data.maps
    num_surrogates: int = 999  # of the target, for every null that is not all shifts at once
    num_ranked: int = 10  # candidates of each costly metric (kendall, mi, dcorr) that get a null
    num_top: int = 3  # dimensions drawn and saved per metric
    trend_degree: int = 1  # pp_spatial: degree of the polynomial in x and y that is removed, 1 to 3
    mi_neighbours: int = 7  # of the Kraskov estimator
    max_points: int | None = None  # the costly metrics see at most so many points, evenly drawn; default all
    synth_mode: str | None = None  # synthetic element map: sum (weighted) or rgb
    synth_elements: list[str] | None = None  # elements by name; sum: default all; rgb: one to three
    synth_weights: list[float] | None = None  # sum: a weight for each element; default 1 / their number
    features: str | None = None  # columns of a reference partition by prefix: PCA or cNMF
    max_clusters: int = 12  # of the Gaussian mixtures of features and latents, from 1
    criterion: str = "bic"  # of the mixtures: bic or aic
    agreement: str = "ari"  # of partitions: ari or nmi

    def __post_init__(self) -> None:
        if self.targets != [] or (self.synth_mode is None and self.features is None):  # else these are the only targets
            distinct("task.targets", self.targets)
        distinct("task.metrics", self.metrics)
        distinct("task.dims", self.dims)
        distinct("task.synth_elements", self.synth_elements)
        for metric in self.metrics:
            one_of("task.metrics", metric, METRICS)
        if not self.metrics:
            raise ValueError(f"task.metrics is [], but needs at least one of {', '.join(METRICS)}.")
        roi("task.roi_xrange", self.roi_xrange)
        roi("task.roi_yrange", self.roi_yrange)
        one_of("task.null", self.null, ("shift", "phase", "grains"))
        if self.null == "grains" and self.grains is None:
            raise ValueError("task.null=grains needs the column of grains: set task.grains, such as task.grains=true_grain.")
        if self.null != "grains" and self.grains is not None:
            raise ValueError(f"task.grains={self.grains} has no effect on task.null={self.null}. Leave it out, or set grains.")
        if 0 in (self.synth_weights or []):
            raise ValueError(f"task.synth_weights is {self.synth_weights}: a weight of 0 takes no part. Leave its element out.")
        at_least("task.num_surrogates", self.num_surrogates, 19)
        for key in ("num_ranked", "num_top", "mi_neighbours", "max_clusters"):
            at_least(f"task.{key}", getattr(self, key), 1)
        at_least("task.max_points", self.max_points, 100)
        within("task.trend_degree", self.trend_degree, 1, 3)
        if self.synth_mode is not None:
            one_of("task.synth_mode", self.synth_mode, ("sum", "rgb"))
        if self.features is not None:
            one_of("task.features", self.features, ("PCA", "cNMF"))
        one_of("task.criterion", self.criterion, ("bic", "aic"))
        one_of("task.agreement", self.agreement, ("ari", "nmi"))


USED_BY = {  # settings of task=cluster of scans that not every method knows
    "num_clusters": ("gmm", "kmeans"),
    "max_clusters": ("gmm",),
    "criterion": ("gmm",),
    "eps": ("dbscan",),
    "min_samples": ("dbscan", "hdbscan"),
    "min_cluster_size": ("hdbscan",),
}


@dataclass(kw_only=True)
class ClusterKikuchiConfig:
    """Clusters of latents and band contrast over the scan (``tasks/cluster_kikuchi.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad
    dims: list[int] | None = None  # latent dimensions from 0; default: all whose variance is above 0.01
    use_bandcontrast: bool | None = None  # cluster on band contrast too; default: where one dimension is named
    coords_csv: str | None = None  # instead of a run: full-field x, y and, if there, bandcontrast
    latent_roi: str | None = None  # with coords_csv: latents of the region, NPY or CSV, in the order of its rows
    bandcontrast: str | None = None  # with coords_csv: band contrast, NPY or CSV, of the region or of the full field
    method: str = "gmm"  # gmm, kmeans, dbscan, hdbscan
    num_clusters: int | None = None  # gmm: default from 1 by task.criterion; kmeans: default 3
    max_clusters: int = 8  # the most that gmm tries
    criterion: str = "bic"  # of gmm: bic or aic
    eps: float | None = None  # dbscan: radius; default the 0.98 quantile of the 8th neighbour's distance
    min_samples: int | None = None  # dbscan: default 10; hdbscan: default as min_cluster_size
    min_cluster_size: int = 20  # hdbscan
    standardize: bool = True  # scale every feature to unit variance; false as the reference: band contrast decides alone
    roi_xrange: list[int] | None = None  # map columns [first, end), half-open
    roi_yrange: list[int] | None = None  # map rows [first, end), half-open
    num_refits: int = 20  # other seeds, and as many bootstraps of blocks, for the stability of the clusters
    tag: str | None = None  # in the files' names; default made from the method and its parameters

    def __post_init__(self) -> None:
        distinct("task.dims", self.dims)
        one_of("task.method", self.method, ("gmm", "kmeans", "dbscan", "hdbscan"))
        one_of("task.criterion", self.criterion, ("bic", "aic"))
        at_least("task.num_clusters", self.num_clusters, 1)
        at_least("task.max_clusters", self.max_clusters, 1)
        at_least("task.eps", self.eps, 0, strictly=True)
        at_least("task.min_samples", self.min_samples, 1)
        at_least("task.min_cluster_size", self.min_cluster_size, 2)
        at_least("task.num_refits", self.num_refits, 0)
        roi("task.roi_xrange", self.roi_xrange)
        roi("task.roi_yrange", self.roi_yrange)
        for key, methods in USED_BY.items():
            if self.method not in methods and getattr(self, key) != getattr(type(self), key):  # the class holds the defaults
                raise ValueError(
                    f"task.{key} is {getattr(self, key)}, but has no effect on task.method={self.method}, only on "
                    f"{' and '.join(methods)}. Leave it out."
                )
        if self.num_clusters is not None and self.max_clusters != type(self).max_clusters:
            raise ValueError(
                f"task.max_clusters is {self.max_clusters}, but has no effect with task.num_clusters={self.num_clusters}. Give "
                "one of the two."
            )
        if (self.coords_csv is None) != (self.latent_roi is None):
            raise ValueError("task.coords_csv and task.latent_roi go together: give both, or name a run.")
        if self.bandcontrast is not None and self.coords_csv is None:
            raise ValueError("task.bandcontrast is read beside task.coords_csv and task.latent_roi. Give those, or leave it out.")
