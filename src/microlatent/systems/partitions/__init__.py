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
    yaml=True,
    specimens="microlatent.systems.partitions.simulate",
)
register("task/assemble", "partitions", AssemblePartitionsConfig, "microlatent.systems.partitions.assemble", "infer")
register("task", "reconstruct", ReconstructConfig, "microlatent.systems.partitions.reconstruct", "infer", yaml=True)
register("task/maps", "partitions", MapsConfig, "microlatent.systems.partitions.maps", "analyze")
register("task", "outcome", OutcomeConfig, "microlatent.systems.partitions.outcome", "analyze", yaml=True)
