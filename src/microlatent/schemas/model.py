"""Settings of the models: ``model=<name>``."""

from __future__ import annotations

from dataclasses import dataclass

from microlatent.schemas.checks import MISSING, at_least, one_of, within


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


@dataclass(kw_only=True)
class AEConfig:
    """Autoencoder of image partitions (``models/autoencoder.py``)."""

    name: str = MISSING
    family: str = "ae"  # ae or vae: the first half of the model's name, and a folder of partitions_all
    likelihood: str = "gauss"  # bern or gauss: the second half, and what data.normalise becomes where it is not given
    arch: str = "compact"  # compact; or 1 or 2, as the partitions reference built them
    latent_dim: int | None = None  # default: 64 for compact, 1000 for 1 and 2
    width: int | None = None  # compact: feature maps of the first stage, later ones have more; default 24
    dropout: float = 0.0  # share of the features that each training step leaves out

    def __post_init__(self) -> None:
        one_of("model.arch", self.arch, ("compact", "1", "2"))
        if self.latent_dim is None:
            self.latent_dim = 64 if self.arch == "compact" else 1000
        at_least("model.latent_dim", self.latent_dim, 1)
        if self.width is not None and self.arch != "compact":
            raise ValueError(
                f"model.width={self.width} has no effect on model.arch={self.arch}, whose layers are given. Leave it out."
            )
        if self.arch == "compact":
            self.width = 24 if self.width is None else self.width
        at_least("model.width", self.width, 4)
        within("model.dropout", self.dropout, 0.0, 0.9)
        made_of = f"{self.family}_{self.likelihood}"
        if self.name != made_of:
            raise ValueError(
                f"model.family={self.family} and model.likelihood={self.likelihood} contradict model={self.name}. Leave them out "
                f"and choose model={made_of}."
            )

    @property
    def normalise(self) -> str:
        """What ``data.normalise`` is unless the user says otherwise."""
        return self.likelihood

    def refuse_normalisation(self, mode: str) -> None:
        """Refuse a normalisation whose values this likelihood cannot describe."""
        if (mode == "bern") != (self.likelihood == "bern"):
            raise ValueError(
                f"data.normalise={mode} does not fit model={self.name}: a Bernoulli likelihood describes zeros and ones, and "
                f"only it does. Set data.normalise={self.likelihood}, or choose "
                f"model={self.family}_{'bern' if mode == 'bern' else 'gauss'}."
            )
        if self.arch != "compact" and mode not in ("bern", "gauss"):
            raise ValueError(
                f"data.normalise={mode} has negative values, but the output of model.arch={self.arch} is never negative. "
                "Use data.normalise=gauss or model.arch=compact."
            )


@dataclass(kw_only=True)
class VAEConfig(AEConfig):
    """Variational autoencoder of image partitions (``models/autoencoder.py``)."""

    family: str = "vae"  # ae or vae: the first half of the model's name, and a folder of partitions_all
    beta: float = 1.0  # weight of the KL divergence; 1 is the evidence lower bound
    kl_warmup_steps: int = 0  # beta rises linearly over these
    full_var: bool = False  # gauss: a standard deviation for every pixel instead of one for the partition

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("model.beta", self.beta, 0)
        at_least("model.kl_warmup_steps", self.kl_warmup_steps, 0)
        if self.full_var and self.likelihood == "bern":
            raise ValueError(
                "model.full_var=true has no effect on a Bernoulli likelihood. Leave it out, or choose model=vae_gauss."
            )


@dataclass(kw_only=True)
class KikuchiCNNConfig:
    """Variational autoencoder of Kikuchi patterns of any size (``models/kikuchi_cnn.py``)."""

    name: str = MISSING
    latent_dim: int = 16  # dimensions of the latent vector
    num_down: int | None = None  # stride-2 convolutions, each halves the pattern; default: 5, or as many as it allows
    width: int = 32  # feature maps of the first convolution, doubled at each step
    max_width: int = 512  # at most
    upsample: str = "nearest"  # nearest or bilinear, in the decoder
    head: str | None = None  # tanh, sigmoid, linear; default: by data.normalise (minus_one_one, zero_one, any other)
    beta: float = 1.0  # weight of the KL divergence
    kl_warmup_steps: int = 200  # beta rises linearly over these
    free_bits: float = 0.0  # nats of each dimension's KL divergence that cost nothing (Kingma et al. 2016)
    loss_reduction: str = "sum"  # sum (0.5 SSE + beta KL per pattern) or mean_mean (the reference's, collapses at beta 1)

    def __post_init__(self) -> None:
        at_least("model.latent_dim", self.latent_dim, 1)
        for key in ("num_down", "width", "max_width"):
            at_least(f"model.{key}", getattr(self, key), 1)
        one_of("model.upsample", self.upsample, ("nearest", "bilinear"))
        if self.head is not None:
            one_of("model.head", self.head, tuple(HEADS.values()))
        for key in ("beta", "kl_warmup_steps", "free_bits"):
            at_least(f"model.{key}", getattr(self, key), 0)
        one_of("model.loss_reduction", self.loss_reduction, ("sum", "mean_mean"))
        if self.free_bits and self.loss_reduction == "mean_mean":
            raise ValueError("model.free_bits has no effect on model.loss_reduction=mean_mean. Leave one of the two out.")

    @property
    def normalise(self) -> str:
        """What ``data.normalise`` is unless the user says otherwise."""
        return next((mode for mode, head in HEADS.items() if head == self.head), "patch")

    def refuse_normalisation(self, mode: str) -> None:
        """Set the head by the normalisation where it is not given; refuse one that cannot reach the patterns' values."""
        fits = HEADS.get(mode, "linear")
        self.head = self.head or fits
        if self.head not in (fits, "linear"):
            raise ValueError(
                f"model.head={self.head} does not reach the values of data.normalise={mode}. Leave model.head out (it becomes "
                f"{fits}), or set data.normalise={self.normalise}."
            )


HEADS = {"minus_one_one": "tanh", "zero_one": "sigmoid", "patch": "linear"}  # what ends the decoder, by normalisation


@dataclass(kw_only=True)
class StainConfig:
    """What the models of virtual staining share (``models/staining.py``)."""

    name: str = MISSING
    dims: str = "2"  # 2: a plane to a plane; 2.5: a stack to its middle plane; 3: a stack to a stack
    planes: int | None = None  # Z planes of the input; default: 1 for dims=2, else 5
    width: int = 16  # feature maps at full resolution, doubled at each halving
    depth: int = 3  # halvings of rows and columns
    norm: str = "batch"  # batch (fast; wants batches of 8 or more) or layer (over the channels of each pixel)
    loss: str = "mse"  # mse or l1_msssim
    weight_mse: float = 1.0  # of the mean squared error in total (loss=mse)
    weight_l1: float = 0.5  # of the mean absolute error in total (loss=l1_msssim)
    weight_msssim: float = 0.5  # of 1 - MS-SSIM in total (loss=l1_msssim)
    msssim_scales: int = 5  # of MS-SSIM, at most 5; five take crops of 176 px or more, three of 44
    weight_foreground: float = 0.0  # of the squared error in the foreground alone, in total
    objective: str = "translate"  # translate: learn the target; masked: fill hidden squares of the input, without a target
    mask_ratio: float = 0.5  # masked: share of the squares that is hidden
    mask_px: int = 16  # masked: side of the squares
    freeze: str | None = None  # encoder: what init_from gives it stays as it is

    def __post_init__(self) -> None:
        one_of("model.dims", self.dims, ("2", "2.5", "3"))
        if self.planes is None:
            self.planes = 1 if self.dims == "2" else 5
        if (self.dims == "2") != (self.planes == 1) or (self.dims == "2.5" and self.planes % 2 == 0):
            fits = {
                "2": "is of one plane",
                "2.5": "needs an odd number from 3 on, for there to be a middle",
                "3": "needs 2 or more",
            }
            raise ValueError(
                f"model.planes is {self.planes}, but model.dims={self.dims} {fits[self.dims]}. Change one of the two."
            )
        for key in ("planes", "width", "depth", "mask_px"):
            at_least(f"model.{key}", getattr(self, key), 1)
        for key in ("weight_mse", "weight_l1", "weight_msssim", "weight_foreground"):
            at_least(f"model.{key}", getattr(self, key), 0)
        one_of("model.norm", self.norm, ("batch", "layer"))
        one_of("model.loss", self.loss, ("mse", "l1_msssim"))
        within("model.msssim_scales", self.msssim_scales, 1, 5)
        one_of("model.objective", self.objective, ("translate", "masked"))
        within("model.mask_ratio", self.mask_ratio, 0.05, 0.95)
        if self.freeze is not None:
            one_of("model.freeze", self.freeze, ("encoder",))
        if self.freeze and self.objective == "masked":
            raise ValueError(
                f"model.freeze={self.freeze} keeps what model.objective=masked is to train. Leave one of the two out."
            )

    @property
    def predicts_all_planes(self) -> bool:
        """Whether the output has the planes of the input, or one alone."""
        return self.dims == "3"


@dataclass(kw_only=True)
class StainUNetConfig(StainConfig):
    """U-Net for virtual staining (``models/stain_unet.py``)."""


@dataclass(kw_only=True)
class StainNextConfig(StainConfig):
    """ConvNeXt with a folded stem for virtual staining (``models/stain_next.py``)."""

    dims: str = "3"  # 2: a plane to a plane; 2.5: a stack to its middle plane; 3: a stack to a stack
    width: int = 32  # feature maps after the stem, doubled at each halving
    depth: int = 1  # halvings of rows and columns after the stem; each doubles the receptive field
    stem_px: int = 4  # side of the squares of pixels that the stem makes one of
    norm: str = "layer"  # batch (fast; wants batches of 8 or more) or layer (over the channels of each pixel)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("model.stem_px", self.stem_px, 1)
