"""ONNX from a Keras model, by walking its graph of layers.

`keras.Model.export(format="onnx")` takes a minute for AlexNet and writes a file that no runtime loads (a grouped
convolution becomes a call to a function that is not in the file). A functional model already is a graph of layers for
which ONNX has operators, on every Keras backend, so each is written as its operator; a layer or an option without a
faithful operator is refused.

Keras' maps are (N, H, W, C) and the graph's (N, C, H, W); a dense layer behind a flatten therefore has its rows
reordered from H, W, C to C, H, W.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path

import keras
from keras import layers

from common import layouts
from common.errors import TriptychError
from common.onnx_graph import ExportOptions, GraphBuilder
from common.operations import AdaptiveAveragePool, Padding, same_padding
from common.specs.architecture import IMAGE
from keras_impl.backend import calls_of, flattened_from, heads_of
from keras_impl.layers import LocalResponseNormalization, ScaledTanh, SelectChannels, SubSampling


def export_onnx(model: keras.Model, path: str | Path, options: ExportOptions = ExportOptions()) -> None:
    """Write a functional or Sequential model as ONNX: input `image` (N, C, H, W), outputs by name, N dynamic.

    Args:
        model: of this package.
        path: where to; an existing file is replaced.
        options: which outputs, of what type, and so on; see `common.onnx_graph.ExportOptions`.

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
    return builder.conv(
        name,
        x,
        layouts.conv_from_hwio(keras.ops.convert_to_numpy(layer.kernel)),
        keras.ops.convert_to_numpy(layer.bias) if layer.use_bias else None,
        stride=layer.strides,
        padding=_padding(name, layer, tuple(kernel)),
        dilation=layer.dilation_rate,
        groups=layer.groups,
    )


@_export.register
def _(layer: layers.Dense, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.activation is not keras.activations.linear:
        raise TriptychError(f"cannot export {name}: write its activation as a layer of its own")
    weight = layouts.dense_from_io(keras.ops.convert_to_numpy(layer.kernel), flattened_from(layer.input))
    return builder.dense(name, x, weight, keras.ops.convert_to_numpy(layer.bias))


@_export.register
def _(layer: layers.ZeroPadding2D, builder: GraphBuilder, name: str, x: str) -> str:
    return x  # an attribute of the convolution or pooling behind it: see _padding


@_export.register
def _(layer: layers.MaxPooling2D, builder: GraphBuilder, name: str, x: str) -> str:
    padding = _padding(name, layer, layer.pool_size)
    if isinstance(layer.input._keras_history.operation, layers.ZeroPadding2D) and not _is_not_negative(layer.input):
        raise TriptychError(f"cannot export {name}: padding with zeros changes a maximum unless a ReLU comes before it")
    return builder.max_pool(name, x, kernel=layer.pool_size, stride=layer.strides, padding=padding)


@_export.register
def _(layer: layers.AveragePooling2D, builder: GraphBuilder, name: str, x: str) -> str:
    if any(map(any, _padding(name, layer, layer.pool_size))):
        raise TriptychError(f"cannot export {name}: only an average over whole windows has an ONNX operator here")
    return builder.average_pool(name, x, kernel=layer.pool_size, stride=layer.strides)


@_export.register
def _(layer: layers.AdaptiveAveragePooling2D, builder: GraphBuilder, name: str, x: str) -> str:
    if len(set(layer.output_size)) != 1:
        raise TriptychError(f"cannot export {name}: write its output size as one number")
    return builder.adaptive_average_pool(name, x, AdaptiveAveragePool(layer.output_size[0]), layer.input.shape[1:3])


@_export.register
def _(layer: layers.GlobalAveragePooling2D, builder: GraphBuilder, name: str, x: str) -> str:
    if not layer.keepdims:
        raise TriptychError(f"cannot export {name}: write keepdims=True and a Flatten behind it")
    return builder.global_average_pool(name, x)


@_export.register
def _(layer: layers.BatchNormalization, builder: GraphBuilder, name: str, x: str) -> str:
    parameters = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    return builder.batch_norm(name, x, *map(keras.ops.convert_to_numpy, parameters), eps=layer.epsilon)


@_export.register
def _(layer: layers.Add, builder: GraphBuilder, name: str, *inputs: str) -> str:
    return builder.add(name, *inputs)


@_export.register
def _(layer: layers.Concatenate, builder: GraphBuilder, name: str, *inputs: str) -> str:
    return builder.concat(name, *inputs)


@_export.register
def _(layer: SelectChannels, builder: GraphBuilder, name: str, x: str) -> str:
    return builder.select_channels(name, x, layer.channels)


@_export.register
def _(layer: SubSampling, builder: GraphBuilder, name: str, x: str) -> str:
    parameters = map(keras.ops.convert_to_numpy, (layer.weight, layer.bias))
    return builder.sub_sampling(name, x, *map(layouts.per_channel_from_hwc, parameters))


@_export.register
def _(layer: ScaledTanh, builder: GraphBuilder, name: str, x: str) -> str:
    return builder.scaled_tanh(name, x, amplitude=layer.amplitude, slope=layer.slope)


@_export.register
def _(layer: layers.Activation, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.activation is not keras.activations.sigmoid:
        raise TriptychError(f"cannot export {name}: of the activations by name, only sigmoid has an ONNX operator here")
    return builder.sigmoid(name, x)


@_export.register
def _(layer: LocalResponseNormalization, builder: GraphBuilder, name: str, x: str) -> str:
    return builder.lrn(name, x, size=layer.size, alpha=layer.alpha, beta=layer.beta, k=layer.k)


@_export.register
def _(layer: layers.ReLU, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise TriptychError(f"cannot export {name}: only max(x, 0) has an ONNX operator here")
    return builder.relu(name, x)


@_export.register
def _(layer: layers.Softmax, builder: GraphBuilder, name: str, x: str) -> str:
    if layer.axis not in (-1, 1) or len(layer.input.shape) != 2:
        raise TriptychError(
            f"cannot export {name}: only a softmax over the features of each image has an operator here"
        )
    return builder.softmax(name, x)


@_export.register
def _(layer: layers.Flatten, builder: GraphBuilder, name: str, x: str) -> str:
    return builder.flatten(name, x)


@_export.register
def _(layer: layers.Dropout, builder: GraphBuilder, name: str, x: str) -> str:
    return x  # the identity when not training
