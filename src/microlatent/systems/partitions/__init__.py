"""Partitions: multiplexed tissue cut into squares, from images to outcomes of subjects."""

from microlatent.config import register
from microlatent.systems.partitions.schema import (
    AssemblePartitionsConfig,
    MapsConfig,
    OutcomeConfig,
    PartitionsConfig,
    ReconstructConfig,
)

register(
    "data",
    "partitions",
    PartitionsConfig,
    "microlatent.systems.partitions.source:open_source",
    specimens="microlatent.systems.partitions.simulate",
)
register("task/assemble", "partitions", AssemblePartitionsConfig, "microlatent.systems.partitions.assemble")
register(
    "task",
    "reconstruct",
    ReconstructConfig,
    "microlatent.systems.partitions.reconstruct",
    "infer",
    data=("partitions",),
    needs=("run",),
    wants=("reconstruct",),
    title="Full-size reconstructions",
    order=50,
)
register("task/maps", "partitions", MapsConfig, "microlatent.systems.partitions.maps")
register(
    "task",
    "outcome",
    OutcomeConfig,
    "microlatent.systems.partitions.outcome",
    "analyze",
    data=("partitions",),
    wants=("encode",),
    title="Outcome prediction",
    order=94,
    section="microlatent.systems.partitions.report:prediction",
)
