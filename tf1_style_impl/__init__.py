"""The networks in TensorFlow 1 style: graph, placeholders, variable scopes, a session."""

from tf1_style_impl.backend import build, load_weights, read_weights
from tf1_style_impl.export import export_onnx

__all__ = ["build", "export_onnx", "load_weights", "read_weights"]
