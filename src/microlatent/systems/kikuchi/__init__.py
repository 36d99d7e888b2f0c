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
    yaml=True,
    specimens="microlatent.systems.kikuchi.simulate.specimens",
)
register("task/assemble", "kikuchi", AssembleKikuchiConfig, "microlatent.systems.kikuchi.assemble", "infer")
register("task/maps", "kikuchi", MapsKikuchiConfig, "microlatent.systems.kikuchi.maps", "analyze")
register("task/cluster", "kikuchi", ClusterKikuchiConfig, "microlatent.systems.kikuchi.cluster", "analyze")
register("task", "bandcontrast", BandContrastConfig, "microlatent.systems.kikuchi.bandcontrast", "analyze", yaml=True)
register("task", "associate", AssociateConfig, "microlatent.systems.kikuchi.associate", "analyze", yaml=True)
