"""Settings of EBSD scans of Kikuchi patterns: ``data=kikuchi`` and its tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from microlatent.schemas.checks import MISSING, NORMALISATIONS, at_least, distinct, one_of, within


@dataclass(kw_only=True)
class KikuchiConfig:
    """EBSD scans of Kikuchi patterns (``systems/kikuchi/source.py``)."""

    FILES: ClassVar = ("maps", "keep")  # settings that name files besides the raw ones and the stores

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


@dataclass(kw_only=True)
class AssembleKikuchiConfig:
    """Patterns of a scan, background removed, to one store (``systems/kikuchi/assemble.py``)."""

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
    """Histogram and maps of the patterns' quality, and which points to keep (``systems/kikuchi/bandcontrast.py``)."""

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
    """Latents over the scan, reconstructions and traversals (``systems/kikuchi/maps.py``)."""

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
    """Latents ranked by their association with maps of the same points (``systems/kikuchi/associate.py``)."""

    name: str = MISSING
    latents: str | None = None  # default: the run's process/latents.h5ad
    targets: list[str] | None = None  # columns; default: band contrast or what stands for it, and every element
    metrics: list[str] = field(default_factory=lambda: list(METRICS))  # pearson spearman kendall mi dcorr hsic pp_spatial
    dims: list[int] | None = None  # latent dimensions from 0; default: all
    roi_xrange: list[int] | None = None  # map columns [first, end), half-open
    roi_yrange: list[int] | None = None  # map rows [first, end), half-open
    # shift and phase test that maps are not independent, for which sharing grain boundaries is enough, above all for mi, hsic and
    # dcorr; grains tests what goes with the latents beyond sharing grains.
    null: str = "shift"  # surrogates: shift (toroidal), phase (of smooth maps), grains (means of grains dealt anew)
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
    features: str | None = None  # reference features by the prefix of their columns, PCA or cNMF: their clusters are a target
    max_clusters: int = 12  # of the Gaussian mixtures of features and latents, from 1
    criterion: str = "bic"  # of the mixtures: bic or aic
    agreement: str = "ari"  # of clusters: ari or nmi

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
    """Clusters of latents and band contrast over the scan (``systems/kikuchi/cluster.py``)."""

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
