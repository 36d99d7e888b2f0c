"""MNIST: handwritten digits in idx files, which everybody knows."""

from microlatent.config import register
from microlatent.systems.mnist.schema import AssembleMnistConfig, MnistConfig

register("data", "mnist", MnistConfig, "microlatent.systems.mnist.source:open_source")
register("task/assemble", "mnist", AssembleMnistConfig, "microlatent.systems.mnist.assemble")
