"""Settings that several systems share: names, types, units, ranges and defaults; ``conf/`` holds values only.

One dataclass per choice of a group. What one system alone has stands in ``systems/<name>/schema.py``. No heavy import here:
``train.py --help`` reads these files. Ranges and cross-checks stand in ``__post_init__`` and raise ``ValueError`` in the house
pattern: the key and its value, what is allowed, what to do.
"""

from microlatent.schemas.checks import MISSING, NORMALISATIONS, at_least, distinct, one_of, within
from microlatent.schemas.command import LoggerConfig, Settings, TaskConfig, TrainConfig, TrainerConfig
from microlatent.schemas.latents import ClusterConfig, EmbedConfig, ProcessConfig
from microlatent.schemas.model import AEConfig, KikuchiCNNConfig, StainNextConfig, StainUNetConfig, VAEConfig, VQVAEConfig
from microlatent.schemas.review import CompareConfig, ReportConfig
