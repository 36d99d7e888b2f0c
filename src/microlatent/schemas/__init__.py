"""Names, types, units, ranges and defaults of every setting; ``conf/`` holds values only.

One dataclass per choice of a group. No heavy import here: ``train.py --help`` reads these files. Ranges and cross-checks
stand in ``__post_init__`` and raise ``ValueError`` in the house pattern: the key and its value, what is allowed, what to do.
"""

from microlatent.schemas.checks import MISSING, at_least, one_of, within
from microlatent.schemas.command import LoggerConfig, Settings, TrainerConfig
from microlatent.schemas.data import KikuchiConfig, MnistConfig, PartitionsConfig, WellsConfig
from microlatent.schemas.kikuchi import (
    AssembleKikuchiConfig,
    AssociateConfig,
    BandContrastConfig,
    ClusterKikuchiConfig,
    MapsKikuchiConfig,
)
from microlatent.schemas.model import AEConfig, KikuchiCNNConfig, VAEConfig, VQVAEConfig
from microlatent.schemas.review import CompareConfig, ReportConfig
from microlatent.schemas.task import (
    AssembleMnistConfig,
    AssemblePartitionsConfig,
    AssembleWellsConfig,
    ClusterConfig,
    EmbedConfig,
    MapsConfig,
    MatchConfig,
    OutcomeConfig,
    PatchConfig,
    ProcessConfig,
    ReconstructConfig,
    TrainConfig,
)

__all__ = [
    "MISSING",
    "AEConfig",
    "AssembleKikuchiConfig",
    "AssembleMnistConfig",
    "AssemblePartitionsConfig",
    "AssembleWellsConfig",
    "AssociateConfig",
    "BandContrastConfig",
    "ClusterConfig",
    "ClusterKikuchiConfig",
    "CompareConfig",
    "EmbedConfig",
    "KikuchiCNNConfig",
    "KikuchiConfig",
    "LoggerConfig",
    "MapsConfig",
    "MapsKikuchiConfig",
    "MatchConfig",
    "MnistConfig",
    "OutcomeConfig",
    "PartitionsConfig",
    "PatchConfig",
    "ProcessConfig",
    "ReconstructConfig",
    "ReportConfig",
    "Settings",
    "TrainConfig",
    "TrainerConfig",
    "VAEConfig",
    "VQVAEConfig",
    "WellsConfig",
    "at_least",
    "one_of",
    "within",
]
