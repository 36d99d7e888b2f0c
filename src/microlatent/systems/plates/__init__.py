"""Plates: virtual staining, from label-free stacks of multi-well plates to predicted fluorescence."""

from microlatent.config import register
from microlatent.systems.plates.schema import AssemblePlatesConfig, PlatesConfig, PreprocessConfig

register(
    "data",
    "plates",
    PlatesConfig,
    "microlatent.systems.plates.source:open_source",
    specimens="microlatent.systems.plates.simulate",
    normaliser="microlatent.systems.plates.normalise:StainNormaliser",
)
register("task/assemble", "plates", AssemblePlatesConfig, "microlatent.systems.plates.assemble")
register(
    "task",
    "preprocess",
    PreprocessConfig,
    "microlatent.systems.plates.preprocess",
    "infer",
    data=("plates",),
    needs=("root",),
    title="Preprocessing",
    order=25,
)
