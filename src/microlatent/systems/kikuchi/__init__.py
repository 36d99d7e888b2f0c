"""Kikuchi: EBSD scans of diffraction patterns, from vendors' files to latents that go with elements and grains."""

from microlatent.config import register
from microlatent.systems.kikuchi.schema import (
    AssembleKikuchiConfig,
    AssociateConfig,
    BandContrastConfig,
    ClusterKikuchiConfig,
    KikuchiConfig,
    MapsKikuchiConfig,
)

register(
    "data",
    "kikuchi",
    KikuchiConfig,
    "microlatent.systems.kikuchi.source:open_source",
    specimens="microlatent.systems.kikuchi.simulate.specimens",
)
register("task/assemble", "kikuchi", AssembleKikuchiConfig, "microlatent.systems.kikuchi.assemble")
register("task/maps", "kikuchi", MapsKikuchiConfig, "microlatent.systems.kikuchi.maps")
register("task/cluster", "kikuchi", ClusterKikuchiConfig, "microlatent.systems.kikuchi.cluster")
register(
    "task",
    "bandcontrast",
    BandContrastConfig,
    "microlatent.systems.kikuchi.bandcontrast",
    "analyze",
    data=("kikuchi",),
    needs=("root",),
    title="Band contrast",
    order=98,
)
register(
    "task",
    "associate",
    AssociateConfig,
    "microlatent.systems.kikuchi.associate",
    "analyze",
    data=("kikuchi",),
    wants=("encode",),
    title="Associations",
    order=92,
    section="microlatent.systems.kikuchi.report:associations",
)
