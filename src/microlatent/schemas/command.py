"""Settings of a command as a whole, of its loop and of its log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from microlatent.schemas.checks import MISSING, at_least, one_of


@dataclass(kw_only=True)
class TaskConfig:
    """What every task has; some have more for one kind of data than for another."""

    name: str = MISSING


@dataclass(kw_only=True)
class TrainConfig(TaskConfig):
    """Fit a model (``training.py``)."""


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
    monitor: str = "total"  # validation metric whose best value is the best checkpoint: total, recon, explained_variance ...
    patience: int | None = None  # stop after this many epochs without improvement of the monitored metric
    checkpoint_every: int | None = None  # epochs between kept checkpoints; best and last are always kept
    max_batches: int | None = None  # batches per epoch at most (smoke)
    num_reconstructions: int = 8  # held-out patches drawn beside their reconstructions; 0 draws none
    likelihood_samples: int = 0  # importance samples per test patch for its log-likelihood (vae models); 0 leaves it out
    figure_every: int | None = None  # epochs between figures of one held-out patch; default: only the best epoch's at the end

    def __post_init__(self) -> None:
        one_of("trainer.precision", self.precision, ("fp32", "bf16"))
        one_of("trainer.lr_schedule", self.lr_schedule, ("constant", "cosine"))
        at_least("trainer.epochs", self.epochs, 0)
        for key in ("batch_size", "accumulate"):
            at_least(f"trainer.{key}", getattr(self, key), 1)
        at_least("trainer.lr", self.lr, 0, strictly=True)
        for key in ("threads", "patience", "checkpoint_every", "max_batches", "figure_every"):
            at_least(f"trainer.{key}", getattr(self, key), 1)
        for key in ("num_reconstructions", "likelihood_samples"):
            at_least(f"trainer.{key}", getattr(self, key), 0)
        at_least("trainer.clip_norm", self.clip_norm, 0, strictly=True)
        at_least("trainer.weight_decay", self.weight_decay, 0)
        at_least("trainer.warmup_steps", self.warmup_steps, 0)


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


@dataclass(kw_only=True)
class Settings:
    """One composed command. Each group holds an instance of one of the dataclasses above or of a plugin's."""

    name: str | None = None  # the experiment's folder under outputs/; default: <data>-<model or task>
    seed: int = 0  # of the split, the weights, the order and the augmentation
    run: str | None = None  # a trained run to use: its folder, latest, best
    resume: str | None = None  # continue an interrupted training run: its folder or latest
    rerun: str | None = None  # repeat a run from its folder alone
    init_from: str | None = None  # weights alone: a checkpoint or the reference's model.pt
    check: bool = False  # open the data, estimate, write nothing
    plugins: list[str] = field(default_factory=list)  # modules that register models or data of your own
    outputs: str = "outputs"  # folder of all runs and stores
    model: Any = None
    data: Any = None
    task: Any = None
    trainer: Any = None
    logger: Any = None
