"""Settings of the tasks that make and read latents of any data: ``task=process``, ``task=embed``, ``task=cluster``."""

from __future__ import annotations

from dataclasses import dataclass, field

from microlatent.schemas.checks import MISSING, NORMALISATIONS, at_least, distinct, one_of, within


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
