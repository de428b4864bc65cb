"""ONNX from a Keras model, by walking its graph of layers.

`keras.Model.export(format="onnx")` takes a minute for AlexNet and writes a file that no runtime loads (a grouped
convolution becomes a call to a function that is not in the file). A functional model already is a graph of layers for
which ONNX has operators, on every Keras backend, so each is written as its operator; a layer or an option without a
faithful operator is refused.

Keras' maps are (N, H, W, C) and the graph's (N, C, H, W); a dense layer after a flatten therefore has its rows
reordered from H, W, C to C, H, W.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path

import keras
import numpy as np
from keras import layers

from common import layouts, operations
from common.errors import TriptychError
from common.onnx.builder import GraphBuilder
from common.onnx.options import ExportOptions
from common.operations import (
    LRN,
    AdaptiveAveragePool,
    Add,
    AveragePool,
    BatchNorm,
    Concat,
    Dense,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Padding,
    ReLU,
    Sigmoid,
    Softmax,
    same_padding,
)
from common.operations.conv_nd import ConvND
from common.specs.architecture import IMAGE
from keras_impl.graph import calls_of, flattened_from, heads_of
from keras_impl.layers import LocalResponseNormalization, ScaledTanh, SelectChannels, SubSampling


def export_onnx(model: keras.Model, path: str | Path, options: ExportOptions = ExportOptions()) -> None:
    """Write a functional or Sequential model as ONNX: input `image` (N, C, H, W), outputs by name, N dynamic.

    Args:
        model: of this package.
        path: where to; an existing file is replaced.
        options: which outputs, of what type, and so on; see `common.onnx.options.ExportOptions`.

    Raises:
        TriptychError: the model has no such output or a layer that cannot be exported faithfully, or the file cannot be
            written.
    """
    height, width, channels = model.inputs[0].shape[1:]
    builder = GraphBuilder((channels, height, width), architecture=model.name)
    values = {id(model.inputs[0]): IMAGE}
    for call in calls_of(model):
        inputs = [values[id(tensor)] for tensor in keras.tree.flatten(call.inputs)]
        values[id(call.output)] = _export(call.layer, builder, call.name, *inputs)
    heads = {name: values[id(tensor)] for name, tensor in heads_of(model).items()}
    builder.save(path, heads, options, source=f"keras {keras.version()}")


@singledispatch
def _export(layer: layers.Layer, builder: GraphBuilder, name: str, *inputs: str) -> str:
    """Write one layer; return the name of its output."""
    raise TriptychError(f"cannot export {name}: a {type(layer).__name__} has no ONNX operator here")


def _array(variable: keras.Variable) -> np.ndarray:
    """The numbers of a variable; on TensorFlow its own memory, of which `convert_to_numpy` makes two copies."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensor = tf.convert_to_tensor(variable.value)
        if tensor.device.endswith("CPU:0"):
            return np.asarray(memoryview(tensor))
    return keras.ops.convert_to_numpy(variable)


def _padding(name: str, layer: layers.Conv2D | layers.MaxPooling2D, kernel: tuple[int, int]) -> Padding:
    """The padding of a convolution or pooling in pixels, that of a `ZeroPadding2D` right before it included."""
    if layer.data_format != "channels_last":
        raise TriptychError(f"cannot export {name}: its maps are {layer.data_format}, expected channels_last")
    source = layer.input._keras_history.operation
    if isinstance(source, layers.ZeroPadding2D):
        if layer.padding != "valid":
            raise TriptychError(f"cannot export {name}: it is padded twice, by {source.name} and by itself")
        return source.padding
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    return same_padding(layer.input.shape[1:3], kernel, layer.strides)


def _is_not_negative(tensor: keras.KerasTensor) -> bool:
    """Whether a tensor follows from ReLUs alone, through operations that keep values from becoming negative."""
    source = tensor._keras_history.operation
    if isinstance(source, layers.ReLU):
        return True
    keep = (layers.ZeroPadding2D, layers.MaxPooling2D, layers.Concatenate, LocalResponseNormalization)
    return isinstance(source, keep) and all(map(_is_not_negative, keras.tree.flatten(source.input)))


@_export.register
def _(layer: layers.Conv2D, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.activation is not keras.activations.linear:
        raise TriptychError(f"cannot export {name}: write its activation as a layer of its own")
    kernel = [(size - 1) * dilation + 1 for size, dilation in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
    conv = ConvND(layer.strides, layer.dilation_rate, _padding(name, layer, tuple(kernel)), layer.groups)
    weight = layouts.conv_from_hwio(_array(layer.kernel))
    return conv.to_onnx(builder, name, x, weight=weight, bias=_array(layer.bias) if layer.use_bias else None)


@_export.register
def _(layer: layers.Dense, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.activation is not keras.activations.linear:
        raise TriptychError(f"cannot export {name}: write its activation as a layer of its own")
    weight = layouts.dense_from_io(_array(layer.kernel), flattened_from(layer.input))
    return Dense(layer.units).to_onnx(builder, name, x, weight=weight, bias=_array(layer.bias))


@_export.register
def _(layer: layers.ZeroPadding2D, builder: GraphBuilder, name: str, x: str) -> str:
    return x  # an attribute of the convolution or pooling after it: see _padding


@_export.register
def _(layer: layers.MaxPooling2D, builder: GraphBuilder, name: str, x: str) -> str:
    padding = _padding(name, layer, layer.pool_size)
    if isinstance(layer.input._keras_history.operation, layers.ZeroPadding2D) and not _is_not_negative(layer.input):
        raise TriptychError(f"cannot export {name}: padding with zeros changes a maximum unless a ReLU comes before it")
    return MaxPool(layer.pool_size, layer.strides, padding).to_onnx(builder, name, x)


@_export.register
def _(layer: layers.AveragePooling2D, builder: GraphBuilder, name: str, x: str) -> str:
    if any(map(any, _padding(name, layer, layer.pool_size))):
        raise TriptychError(f"cannot export {name}: only an average over whole windows has an ONNX operator here")
    return AveragePool(layer.pool_size, layer.strides).to_onnx(builder, name, x)


@_export.register
def _(layer: layers.AdaptiveAveragePooling2D, builder: GraphBuilder, name: str, x: str) -> str:
    if len(set(layer.output_size)) != 1:
        raise TriptychError(f"cannot export {name}: write its output size as one number")
    _, height, width, channels = layer.input.shape
    return AdaptiveAveragePool(layer.output_size[0]).to_onnx(builder, name, x, shape=(channels, height, width))


@_export.register
def _(layer: layers.GlobalAveragePooling2D, builder: GraphBuilder, name: str, x: str) -> str:
    if not layer.keepdims:
        raise TriptychError(f"cannot export {name}: write keepdims=True and a Flatten after it")
    return GlobalAveragePool().to_onnx(builder, name, x)


@_export.register
def _(layer: layers.BatchNormalization, builder: GraphBuilder, name: str, x: str) -> str:
    affine = {"gamma": _array(layer.gamma), "beta": _array(layer.beta)}
    stored = {"mean": _array(layer.moving_mean), "variance": _array(layer.moving_variance)}
    return BatchNorm(layer.epsilon).to_onnx(builder, name, x, **affine, **stored)


@_export.register
def _(layer: layers.Add, builder: GraphBuilder, name: str, *inputs: str) -> str:
    return Add().to_onnx(builder, name, *inputs)


@_export.register
def _(layer: layers.Concatenate, builder: GraphBuilder, name: str, *inputs: str) -> str:
    return Concat().to_onnx(builder, name, *inputs)


@_export.register
def _(layer: SelectChannels, builder: GraphBuilder, name: str, x: str) -> str:
    return operations.SelectChannels(tuple(layer.channels)).to_onnx(builder, name, x)


@_export.register
def _(layer: SubSampling, builder: GraphBuilder, name: str, x: str) -> str:
    weight, bias = (layouts.per_channel_from_hwc(_array(parameter)) for parameter in (layer.weight, layer.bias))
    return operations.SubSampling().to_onnx(builder, name, x, weight=weight, bias=bias)


@_export.register
def _(layer: ScaledTanh, builder: GraphBuilder, name: str, x: str) -> str:
    return operations.ScaledTanh(layer.amplitude, layer.slope).to_onnx(builder, name, x)


@_export.register
def _(layer: layers.Activation, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.activation is not keras.activations.sigmoid:
        raise TriptychError(f"cannot export {name}: of the activations by name, only sigmoid has an ONNX operator here")
    return Sigmoid().to_onnx(builder, name, x)


@_export.register
def _(layer: LocalResponseNormalization, builder: GraphBuilder, name: str, x: str) -> str:
    return LRN(layer.size, layer.alpha, layer.beta, layer.k).to_onnx(builder, name, x)


@_export.register
def _(layer: layers.ReLU, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise TriptychError(f"cannot export {name}: only max(x, 0) has an ONNX operator here")
    return ReLU().to_onnx(builder, name, x)


@_export.register
def _(layer: layers.Softmax, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.axis not in (-1, 1) or len(layer.input.shape) != 2:
        raise TriptychError(
            f"cannot export {name}: only a softmax over the features of each image has an operator here"
        )
    return Softmax().to_onnx(builder, name, x)


@_export.register
def _(layer: layers.Flatten, builder: GraphBuilder, name: str, x: str) -> str:
    return Flatten().to_onnx(builder, name, x)


@_export.register
def _(layer: layers.Dropout, builder: GraphBuilder, name: str, x: str) -> str:
    return x  # the identity when not training
