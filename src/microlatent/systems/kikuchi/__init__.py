"""Kikuchi: EBSD scans of diffraction patterns, from vendors' files to latents that go with elements and grains."""

from microlatent.config import register
from microlatent.systems.kikuchi import schema

register("data", "kikuchi", schema.KikuchiConfig, f"{__name__}.source:open_source", specimens=f"{__name__}.simulate.specimens")
register("task/assemble", "kikuchi", schema.AssembleKikuchiConfig, f"{__name__}.assemble")
register("task/maps", "kikuchi", schema.MapsKikuchiConfig, f"{__name__}.maps")
register("task/cluster", "kikuchi", schema.ClusterKikuchiConfig, f"{__name__}.cluster")
register(
    "task",
    "bandcontrast",
    schema.BandContrastConfig,
    f"{__name__}.bandcontrast",
    "analyze",
    data=("kikuchi",),
    needs=("root",),
    title="Band contrast",
    order=98,
)
register(
    "task",
    "associate",
    schema.AssociateConfig,
    f"{__name__}.associate",
    "analyze",
    data=("kikuchi",),
    wants=("encode",),
    title="Associations",
    order=92,
    section=f"{__name__}.report:associations",
)
