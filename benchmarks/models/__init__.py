"""Networks for benchmarks: torch modules with fixed seeds, and the files made of them."""

from .catalog import MODELS, Model, data_dir
from .files import prepare, to_int8, to_onnx

__all__ = ["MODELS", "Model", "data_dir", "prepare", "to_int8", "to_onnx"]
