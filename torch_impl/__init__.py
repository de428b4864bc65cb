"""The networks in PyTorch, each an `nn.Module`, with weights in and out through the canonical layout."""

from torch_impl.backend import build, load_weights, read_weights
from torch_impl.export import export_onnx

__all__ = ["build", "export_onnx", "load_weights", "read_weights"]
