"""Wells: single-cell time lapses, from images and masks to trajectories in latent space (DynaMorph)."""

from microlatent.config import register
from microlatent.systems.wells.schema import AssembleWellsConfig, MatchConfig, PatchConfig, WellsConfig

register("data", "wells", WellsConfig, f"{__name__}.source:open_source", specimens=f"{__name__}.simulate")
register("task", "patch", PatchConfig, f"{__name__}.patch", "infer", data=("wells",), needs=("root",), title="Patches", order=10)
register("task/assemble", "wells", AssembleWellsConfig, f"{__name__}.assemble")
register(
    "task",
    "match",
    MatchConfig,
    f"{__name__}.match",
    "analyze",
    data=("wells",),
    wants=("encode",),
    title="Trajectories",
    order=96,
    section=f"{__name__}.report:trajectories",
)
