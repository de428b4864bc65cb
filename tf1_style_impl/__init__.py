"""The networks in TensorFlow 1 style: graph, placeholders, variable scopes, a session."""

from tf1_style_impl.backend import build, load_weights, read_weights
from tf1_style_impl.export import export_onnx
from tf1_style_impl.save import restore_weights, save_weights
from tf1_style_impl.train import train

__all__ = ["build", "export_onnx", "load_weights", "read_weights", "restore_weights", "save_weights", "train"]
