"""Orchestration and files of each command, one file per task, and what the tasks of all kinds of data say of themselves."""

from microlatent import schemas
from microlatent.config import register

register("task", "assemble", schemas.TaskConfig, None, "infer", by_data=True, needs=("root",), title="Assembly", order=20)
register("task", "train", schemas.TrainConfig, "microlatent.training", "train", needs=("data",), title="Training", order=30)
register(
    "task",
    "process",
    schemas.ProcessConfig,
    "microlatent.tasks.process",
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
    "microlatent.tasks.embed",
    "analyze",
    wants=("encode",),
    title="Embedding and probes",
    order=60,
    section="microlatent.tasks.sections:embedding",
)
register(
    "task",
    "maps",
    schemas.TaskConfig,
    None,
    "analyze",
    by_data=True,
    wants=("encode",),
    title="Latent maps",
    order=70,
)
register(
    "task",
    "cluster",
    schemas.ClusterConfig,
    "microlatent.tasks.cluster",
    "analyze",
    by_data=True,
    wants=("encode",),
    title="Clusters",
    order=80,
    section="microlatent.tasks.sections:clusters",
)
register(
    "task",
    "compare",
    schemas.CompareConfig,
    "microlatent.tasks.compare",
    "analyze",
    data=(),
    needs=("runs",),
    title="Comparison",
    order=110,
    section="microlatent.tasks.sections:comparison",
)
register(
    "task",
    "report",
    schemas.ReportConfig,
    "microlatent.tasks.report",
    "analyze",
    data=(),
    needs=("run",),
    title="Report",
    order=120,
)
