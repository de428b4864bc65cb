"""The networks in Keras 3, Sequential and functional, with weights in and out through the canonical layout."""

from keras_impl.backend import build, load_weights, read_weights
from keras_impl.export import export_onnx
from keras_impl.save import restore_weights, save_weights
from keras_impl.train import train

__all__ = ["build", "export_onnx", "load_weights", "read_weights", "restore_weights", "save_weights", "train"]
