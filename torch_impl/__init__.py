"""The networks in PyTorch, each an `nn.Module`, with weights in and out through the canonical layout."""

from torch_impl.backend import build, load_weights, read_weights
from torch_impl.export import export_onnx
from torch_impl.save import restore_weights, save_weights
from torch_impl.train import train

__all__ = ["build", "export_onnx", "load_weights", "read_weights", "restore_weights", "save_weights", "train"]
