"""MNIST: handwritten digits in idx files, which everybody knows."""

from microlatent.config import register
from microlatent.systems.mnist.schema import AssembleMnistConfig, MnistConfig

register("data", "mnist", MnistConfig, f"{__name__}.source:open_source")
register("task/assemble", "mnist", AssembleMnistConfig, f"{__name__}.assemble")
