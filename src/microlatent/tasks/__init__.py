"""Orchestration and files of each command, one file per task, and what the tasks of all kinds of data say of themselves."""

from microlatent import schemas
from microlatent.config import register

register("task", "assemble", schemas.TaskConfig, None, "infer", by_data=True, needs=("root",), title="Assembly", order=20)
register("task", "train", schemas.TrainConfig, "microlatent.training", "train", needs=("data",), title="Training", order=30)
register(
    "task",
    "process",
    schemas.ProcessConfig,
    f"{__name__}.process",
    "infer",
    needs=("run",),
    wants=("encode",),
    title="Latents",
    order=40,
)
register(
    "task",
    "embed",
    schemas.EmbedConfig,
    f"{__name__}.embed",
    "analyze",
    wants=("encode",),
    title="Embedding and probes",
    order=60,
    section=f"{__name__}.sections:embedding",
)
register("task", "maps", schemas.TaskConfig, None, "analyze", by_data=True, wants=("encode",), title="Latent maps", order=70)
register(
    "task",
    "cluster",
    schemas.ClusterConfig,
    f"{__name__}.cluster",
    "analyze",
    by_data=True,
    wants=("encode",),
    title="Clusters",
    order=80,
    section=f"{__name__}.sections:clusters",
)
register(
    "task",
    "compare",
    schemas.CompareConfig,
    f"{__name__}.compare",
    "analyze",
    data=(),
    needs=("runs",),
    title="Comparison",
    order=110,
    section=f"{__name__}.sections:comparison",
)
register(
    "task", "report", schemas.ReportConfig, f"{__name__}.report", "analyze", data=(), needs=("run",), title="Report", order=120
)
