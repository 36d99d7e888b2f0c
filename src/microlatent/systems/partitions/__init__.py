"""Partitions: multiplexed tissue cut into squares, from images to outcomes of subjects."""

from microlatent.config import register
from microlatent.systems.partitions import schema

register("data", "partitions", schema.PartitionsConfig, f"{__name__}.source:open_source", specimens=f"{__name__}.simulate")
register("task/assemble", "partitions", schema.AssemblePartitionsConfig, f"{__name__}.assemble")
register(
    "task",
    "reconstruct",
    schema.ReconstructConfig,
    f"{__name__}.reconstruct",
    "infer",
    data=("partitions",),
    needs=("run",),
    wants=("reconstruct",),
    title="Full-size reconstructions",
    order=50,
)
register("task/maps", "partitions", schema.MapsConfig, f"{__name__}.maps")
register(
    "task",
    "outcome",
    schema.OutcomeConfig,
    f"{__name__}.outcome",
    "analyze",
    data=("partitions",),
    wants=("encode",),
    title="Outcome prediction",
    order=94,
    section=f"{__name__}.report:prediction",
)
