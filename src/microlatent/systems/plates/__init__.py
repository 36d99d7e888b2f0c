"""Plates: virtual staining, from label-free stacks of multi-well plates to predicted fluorescence."""

from microlatent.config import register
from microlatent.systems.plates.schema import AssemblePlatesConfig, PlatesConfig, PredictConfig, PreprocessConfig

register(
    "data",
    "plates",
    PlatesConfig,
    f"{__name__}.source:open_source",
    specimens=f"{__name__}.simulate",
    normaliser=f"{__name__}.normalise:StainNormaliser",
)
register("task/assemble", "plates", AssemblePlatesConfig, f"{__name__}.assemble")
register(
    "task",
    "preprocess",
    PreprocessConfig,
    f"{__name__}.preprocess",
    "infer",
    data=("plates",),
    needs=("root",),
    title="Preprocessing",
    order=25,
)
register(
    "task",
    "predict",
    PredictConfig,
    f"{__name__}.predict",
    "infer",
    data=("plates",),
    needs=("run", "root"),
    wants=("predict",),
    title="Prediction",
    order=45,
)
