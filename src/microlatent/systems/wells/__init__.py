"""Wells: single-cell time lapses, from images and masks to trajectories in latent space (DynaMorph)."""

from microlatent.config import register
from microlatent.systems.wells.schema import AssembleWellsConfig, MatchConfig, PatchConfig, WellsConfig

register(
    "data",
    "wells",
    WellsConfig,
    "microlatent.systems.wells.source:open_source",
    yaml=True,
    specimens="microlatent.systems.wells.simulate",
)
register("task", "patch", PatchConfig, "microlatent.systems.wells.patch", "infer", yaml=True)
register("task/assemble", "wells", AssembleWellsConfig, "microlatent.systems.wells.assemble", "infer")
register("task", "match", MatchConfig, "microlatent.systems.wells.match", "analyze", yaml=True)
