"""ONNX from a TensorFlow 1 graph, by walking its operations from the images to the logits.

tf2onnx copies 244 MB of constants through protobuf and graph optimisers and leaves a transpose around every layer. The
graph of a TF1-style model has one operation for each layer's arithmetic, so each is written as its ONNX operator; an
operation or an option without a faithful operator is refused.

TensorFlow's maps are (N, H, W, C) and the graph's (N, C, H, W); a matrix after a flatten therefore has its rows
reordered from H, W, C to C, H, W.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from common import layouts
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
    ScaledTanh,
    SelectChannels,
    Sigmoid,
    Softmax,
    SubSampling,
    same_padding,
)
from common.operations.conv_nd import ConvND
from common.specs.architecture import IMAGE
from tf1_style_impl.graph import ARCHITECTURE, flattened_from, heads_of, without_dropout


def export_onnx(session: tf.Session, path: str | Path, options: ExportOptions = ExportOptions()) -> None:
    """Write a session's graph and variables as ONNX: input `image` (N, C, H, W), outputs by name, N dynamic.

    Args:
        session: with the placeholder `images:0` and the output `logits:0`, as `build` makes it.
        path: where to; an existing file is replaced.
        options: which outputs, of what type, and so on; see `common.onnx.options.ExportOptions`.

    Raises:
        TriptychError: the graph has no such output or an operation that cannot be exported faithfully, or the file
            cannot be written.
    """
    graph = session.graph
    images = graph.get_tensor_by_name("images:0")
    _, height, width, channels = images.shape
    architecture = next(iter(graph.get_collection(ARCHITECTURE)), None)
    exporter = _Exporter(session, GraphBuilder((channels, height, width), architecture=architecture))
    heads = {name: exporter.write(tensor) for name, tensor in heads_of(graph).items()}
    exporter.builder.save(path, heads, options, source=f"tensorflow {tf.version.VERSION}")


class _NotWrittenYet(Exception):
    """An operation reads a tensor that has no ONNX value yet."""

    def __init__(self, tensor: tf.Tensor) -> None:
        self.tensor = tensor


class _Exporter:
    """Writes the operations that a tensor depends on, once each."""

    def __init__(self, session: tf.Session, builder: GraphBuilder) -> None:
        self.builder = builder
        self.variables = session.run(
            {variable.op.name: variable for variable in session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)}
        )
        self.written = {"images:0": IMAGE}

    def write(self, tensor: tf.Tensor) -> str:
        """Write a tensor, and before it what it depends on; a network is too deep to do that by recursion."""
        waiting = [tensor]
        while waiting:
            try:
                if waiting[-1].name not in self.written:
                    self.written[waiting[-1].name] = self._write(waiting[-1])
                waiting.pop()
            except _NotWrittenYet as needed:
                waiting.append(needed.tensor)
        return self.written[tensor.name]

    def value(self, tensor: tf.Tensor) -> str:
        """The ONNX value of a tensor that an operation reads, asked for before the operation is written."""
        if tensor.name not in self.written:
            raise _NotWrittenYet(tensor)
        return self.written[tensor.name]

    def _write(self, tensor: tf.Tensor) -> str:
        operation = without_dropout(tensor).op
        if operation is not tensor.op:
            return self.value(operation.outputs[0])
        writers = {
            "BiasAdd": self._sum_of_products,
            "Relu": self._relu,
            "LRN": self._lrn,
            "MaxPool": self._max_pool,
            "Reshape": self._flatten,
            "AvgPool": self._average_pool,
            "Mean": self._global_average_pool,
            "AddV2": self._add,
            "ConcatV2": self._concat,
            "Identity": self._identity,
            "GatherV2": self._select_channels,
            "Sigmoid": self._sigmoid,
            "Softmax": self._softmax,
            "Mul": self._scaled_tanh,
        }
        if operation.type not in writers:
            raise TriptychError(f"cannot export {operation.name}: {operation.type} has no ONNX operator here")
        return writers[operation.type](operation)

    def _variable(self, tensor: tf.Tensor) -> np.ndarray:
        read = tensor.op
        if read.type != "ReadVariableOp":
            raise TriptychError(f"cannot export {read.name}: expected a variable, found the operation {read.type}")
        return self.variables[read.inputs[0].op.name]

    def _sum_of_products(self, operation: tf.Operation) -> str:
        """A convolution or a matrix product, and the bias that ends the layer."""
        product, bias = operation.inputs[0].op, self._variable(operation.inputs[1])
        if _is_convolution(product):
            return self._conv(operation.name, product, bias)
        if product.type != "MatMul" or product.get_attr("transpose_a") or product.get_attr("transpose_b"):
            raise TriptychError(f"cannot export {operation.name}: a bias on {product.type} has no ONNX operator here")
        x, weight = self.value(product.inputs[0]), self._variable(product.inputs[1])
        weight = layouts.dense_from_io(weight, flattened_from(product.inputs[0]))
        return Dense(len(weight)).to_onnx(self.builder, operation.name, x, weight=weight, bias=bias)

    def _conv(self, name: str, convolution: tf.Operation, bias: np.ndarray | None) -> str:
        convolution, image, kernel, groups = _without_groups(convolution)
        weight = self._variable(kernel)
        stride, dilation = (tuple(convolution.get_attr(kind)[1:3]) for kind in ("strides", "dilations"))
        conv = ConvND(stride, dilation, _padding(convolution, weight.shape[:2]), groups)
        return conv.to_onnx(self.builder, name, self.value(image), weight=layouts.conv_from_hwio(weight), bias=bias)

    def _identity(self, operation: tf.Operation) -> str:
        """The end of a convolution without bias or of a batch normalisation, or nothing at all."""
        source = operation.inputs[0].op
        if _is_convolution(source):
            return self._conv(operation.name, source, None)
        if source.type == "AddV2" and source.inputs[1].op.type == "Sub":
            return self._batch_norm(operation.name, source)
        return self.value(operation.inputs[0])

    def _batch_norm(self, name: str, operation: tf.Operation) -> str:
        """`tf.nn.batch_normalization`: x · (rsqrt(variance + eps) · gamma) + (beta − mean · (…))."""
        scaled, offset = (operand.op for operand in operation.inputs)
        x, scale = scaled.inputs
        inverse, gamma = scale.op.inputs
        variance, eps = inverse.op.inputs[0].op.inputs
        beta, mean_scaled = offset.inputs
        tensors = {"gamma": gamma, "beta": beta, "mean": mean_scaled.op.inputs[0], "variance": variance}
        parameters = {kind: self._variable(tensor) for kind, tensor in tensors.items()}
        return BatchNorm(tf.get_static_value(eps)).to_onnx(self.builder, name, self.value(x), **parameters)

    def _softmax(self, operation: tf.Operation) -> str:
        return Softmax().to_onnx(self.builder, operation.name, self.value(operation.inputs[0]))

    def _relu(self, operation: tf.Operation) -> str:
        return ReLU().to_onnx(self.builder, operation.name, self.value(operation.inputs[0]))

    def _lrn(self, operation: tf.Operation) -> str:
        size = 2 * operation.get_attr("depth_radius") + 1
        # ONNX divides alpha by the window, TensorFlow does not.
        alpha = _as_written(operation.get_attr("alpha")) * size
        norm = LRN(size, alpha, operation.get_attr("beta"), operation.get_attr("bias"))
        return norm.to_onnx(self.builder, operation.name, self.value(operation.inputs[0]))

    def _max_pool(self, operation: tf.Operation) -> str:
        kernel = tuple(operation.get_attr("ksize")[1:3])
        pool = MaxPool(kernel, tuple(operation.get_attr("strides")[1:3]), _padding(operation, kernel))
        return pool.to_onnx(self.builder, operation.name, self.value(operation.inputs[0]))

    def _average_pool(self, operation: tf.Operation) -> str:
        kernel = tuple(operation.get_attr("ksize")[1:3])
        if any(map(any, _padding(operation, kernel))):
            raise TriptychError(f"cannot export {operation.name}: only whole windows have an ONNX operator here")
        stride = tuple(operation.get_attr("strides")[1:3])
        return AveragePool(kernel, stride).to_onnx(self.builder, operation.name, self.value(operation.inputs[0]))

    def _global_average_pool(self, operation: tf.Operation) -> str:
        if list(tf.get_static_value(operation.inputs[1])) != [1, 2] or not operation.get_attr("keep_dims"):
            raise TriptychError(f"cannot export {operation.name}: only a mean over the map has an ONNX operator here")
        return GlobalAveragePool().to_onnx(self.builder, operation.name, self.value(operation.inputs[0]))

    def _add(self, operation: tf.Operation) -> str:
        if operation.inputs[1].op.type == "ReadVariableOp":
            return self._sub_sampling(operation)
        return Add().to_onnx(self.builder, operation.name, *map(self.value, operation.inputs))

    def _sub_sampling(self, operation: tf.Operation) -> str:
        """`layers.sub_sampling`: 4 · (mean of 2×2) · weight + bias."""
        scaled, bias = operation.inputs
        if [tensor.op.type for tensor in scaled.op.inputs] != ["Mul", "ReadVariableOp"]:
            raise TriptychError(f"cannot export {operation.name}: a bias on {scaled.op.type} has no ONNX operator here")
        sums, weight = scaled.op.inputs
        factor, means = sums.op.inputs
        pool = means.op
        windows = [list(pool.get_attr(name)) for name in ("ksize", "strides")] if pool.type == "AvgPool" else []
        if windows != [[1, 2, 2, 1]] * 2 or any(map(any, _padding(pool, (2, 2)))) or tf.get_static_value(factor) != 4:
            raise TriptychError(f"cannot export {operation.name}: only sums of 2×2 have an ONNX operator here")
        weight, bias = (layouts.per_channel_from_hwc(self._variable(tensor)) for tensor in (weight, bias))
        x = self.value(pool.inputs[0])
        return SubSampling().to_onnx(self.builder, operation.name, x, weight=weight, bias=bias)

    def _scaled_tanh(self, operation: tf.Operation) -> str:
        """`layers.scaled_tanh`: amplitude · tanh(slope · x)."""
        amplitude, tanh = (tensor.op for tensor in operation.inputs)
        if (amplitude.type, tanh.type, tanh.inputs[0].op.type) != ("Const", "Tanh", "Mul"):
            raise TriptychError(f"cannot export {operation.name}: this product has no ONNX operator here")
        slope, x = tanh.inputs[0].op.inputs
        amplitude, slope = (tf.get_static_value(tensor) for tensor in (operation.inputs[0], slope))
        return ScaledTanh(amplitude, slope).to_onnx(self.builder, operation.name, self.value(x))

    def _sigmoid(self, operation: tf.Operation) -> str:
        return Sigmoid().to_onnx(self.builder, operation.name, self.value(operation.inputs[0]))

    def _select_channels(self, operation: tf.Operation) -> str:
        x, channels, axis = operation.inputs
        if tf.get_static_value(axis) == 2:
            return self._adaptive_average_pool(operation)
        channels = tf.get_static_value(channels)
        if channels is None or tf.get_static_value(axis) not in (3, -1):
            raise TriptychError(f"cannot export {operation.name}: only channels can be selected, by fixed numbers")
        return SelectChannels(tuple(channels)).to_onnx(self.builder, operation.name, self.value(x))

    def _adaptive_average_pool(self, operation: tf.Operation) -> str:
        """`layers.adaptive_avg_pool`: the mean at every place, then some rows and some columns."""
        rows = operation.inputs[0].op
        means = rows.inputs[0].op
        x = means.inputs[0]
        found = AdaptiveAveragePool(operation.inputs[1].shape[0])
        expected = [[begin for begin, _ in found.windows(length)] for length in x.shape[1:3]]
        numbers = [tf.get_static_value(gather.inputs[1]).tolist() for gather in (rows, operation)]
        if means.type != "AvgPool" or numbers != expected or list(means.get_attr("strides")) != [1, 1, 1, 1]:
            raise TriptychError(f"cannot export {operation.name}: only an adaptive average has an ONNX operator here")
        _, height, width, channels = x.shape
        return found.to_onnx(self.builder, operation.name, self.value(x), shape=(channels, height, width))

    def _concat(self, operation: tf.Operation) -> str:
        *parts, axis = operation.inputs
        if tf.get_static_value(axis) not in (3, -1):
            raise TriptychError(f"cannot export {operation.name}: only channels can be concatenated")
        return Concat().to_onnx(self.builder, operation.name, *map(self.value, parts))

    def _flatten(self, operation: tf.Operation) -> str:
        if flattened_from(operation.outputs[0]) is None:
            raise TriptychError(f"cannot export {operation.name}: only a flatten has an ONNX operator here")
        return Flatten().to_onnx(self.builder, operation.name, self.value(operation.inputs[0]))


def _is_convolution(operation: tf.Operation) -> bool:
    """Whether it is a convolution, in groups (see `layers.grouped_conv2d`) or not."""
    parts = operation.inputs[:-1] if operation.type == "ConcatV2" else [operation.outputs[0]]
    return all(part.op.type == "Conv2D" for part in parts)


def _without_groups(operation: tf.Operation) -> tuple[tf.Operation, tf.Tensor, tf.Tensor, int]:
    """A convolution (of all groups the first), the image and the kernel of all of them, and how many groups there are.

    Raises:
        TriptychError: convolutions are concatenated that are not the groups of one, in their order.
    """
    if operation.type == "Conv2D":
        image, kernel = operation.inputs
        return operation, image, kernel, image.shape[3] // kernel.shape[2]
    *groups, axis = operation.inputs
    first = groups[0].op
    images, kernels = (tensor.op for tensor in first.inputs)
    settings = ("strides", "padding", "explicit_paddings", "dilations", "data_format")
    one = (
        images.type == kernels.type == "Split"
        and len(images.outputs) == len(kernels.outputs) == len(groups)
        and all(tf.get_static_value(numbers) in (3, -1) for numbers in (images.inputs[0], kernels.inputs[0], axis))
        and all(
            [tensor.name for tensor in group.op.inputs] == [images.outputs[number].name, kernels.outputs[number].name]
            and all(group.op.get_attr(name) == first.get_attr(name) for name in settings)
            for number, group in enumerate(groups)
        )
    )
    if not one:
        raise TriptychError(f"cannot export {operation.name}: these convolutions are not the groups of one")
    return first, images.inputs[1], kernels.inputs[1], len(groups)


def _as_written(number: float) -> float:
    """The shortest decimal that rounds to a float32 attribute: 1e-4, where the attribute holds 0.0000999999974738."""
    return float(str(np.float32(number)))


def _padding(operation: tf.Operation, kernel: tuple[int, int]) -> Padding:
    """The padding of a convolution or pooling in pixels; SAME puts the odd one at the bottom or right."""
    if operation.get_attr("data_format") != b"NHWC":
        raise TriptychError(f"cannot export {operation.name}: its maps are not (N, H, W, C)")
    kind = operation.get_attr("padding")
    if kind == b"EXPLICIT":
        numbers = operation.get_attr("explicit_paddings")
        return tuple(numbers[2:4]), tuple(numbers[4:6])
    if kind == b"VALID":
        return (0, 0), (0, 0)
    return same_padding(operation.inputs[0].shape[1:3], kernel, operation.get_attr("strides")[1:3])
