"""Wells: single-cell time lapses, from images and masks to trajectories in latent space (DynaMorph)."""

from microlatent.config import register
from microlatent.systems.wells.schema import AssembleWellsConfig, MatchConfig, PatchConfig, WellsConfig

register(
    "data",
    "wells",
    WellsConfig,
    "microlatent.systems.wells.source:open_source",
    specimens="microlatent.systems.wells.simulate",
)
register(
    "task",
    "patch",
    PatchConfig,
    "microlatent.systems.wells.patch",
    "infer",
    data=("wells",),
    needs=("root",),
    title="Patches",
    order=10,
)
register("task/assemble", "wells", AssembleWellsConfig, "microlatent.systems.wells.assemble")
register(
    "task",
    "match",
    MatchConfig,
    "microlatent.systems.wells.match",
    "analyze",
    data=("wells",),
    wants=("encode",),
    title="Trajectories",
    order=96,
    section="microlatent.systems.wells.report:trajectories",
)
