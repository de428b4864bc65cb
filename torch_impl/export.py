"""ONNX from a PyTorch model, by tracing it with `torch.fx`.

`torch.onnx.export` breaks a local response normalisation into six nodes, renames every layer, and takes seconds. What
`torch.fx` traces is already a graph of modules for which ONNX has operators, so each is written as its operator; a
module or an option without a faithful operator is refused.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path

import torch
from torch import fx, nn

from common.errors import TriptychError
from common.onnx.builder import GraphBuilder
from common.onnx.options import ExportOptions
from common.operations import (
    LRN,
    SAME,
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
    Shape,
    Sigmoid,
    Softmax,
    SubSampling,
    same_padding,
)
from common.operations.conv_nd import ConvND
from common.specs.architecture import IMAGE
from torch_impl import layers
from torch_impl.backend import structure
from torch_impl.graph import every_head, first_output, names_of_calls


def export_onnx(model: nn.Module, path: str | Path, options: ExportOptions = ExportOptions()) -> None:
    """Write a model of this package as ONNX: input `image` (N, C, H, W), outputs by name, N dynamic.

    Args:
        model: with an attribute `image_shape`, (C, H, W), as every model of this package has.
        path: where to; an existing file is replaced.
        options: which outputs, of what type, and so on; see `common.onnx.options.ExportOptions`.

    Raises:
        TriptychError: the model has no such output or a layer that cannot be exported faithfully, or the file cannot be
            written.
    """
    builder = GraphBuilder(model.image_shape, architecture=getattr(model, "architecture", None))
    shapes = {IMAGE: tuple(model.image_shape), **structure(model)[0]}
    values: dict[fx.Node, str] = {}
    heads: dict[str, str] = {}
    with every_head(model):
        graph = Tracer().trace(model)
    names = {path: iter(of_path) for path, of_path in names_of_calls(model).items()}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = IMAGE
        elif node.op == "call_module":
            inputs = [values[argument] for argument in node.args]
            name = next(names[node.target])
            module = model.get_submodule(node.target)
            if isinstance(module, layers.SameConv2d | layers.SameMaxPool2d | nn.AdaptiveAvgPool2d):
                # These are a number of pixels on a map of known size only.
                values[node] = _export(module, builder, name, *inputs, shape=shapes[inputs[0]])
            else:
                values[node] = _export(module, builder, name, *inputs)
        elif node.op == "output":
            (result,) = node.args
            named = result if isinstance(result, dict) else {first_output(model): result}
            heads = {name: values[head] for name, head in named.items()}
        else:
            raise TriptychError(f"cannot export {node.name}: {node.op} {node.target} has no ONNX operator here")
    builder.save(path, heads, options, source=f"torch {torch.__version__}")


class Tracer(fx.Tracer):
    """A tracer to which the modules of `torch_impl.layers` are layers, as those of `torch.nn` are."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return type(module).__module__ == layers.__name__ or super().is_leaf_module(module, path)


@singledispatch
def _export(module: nn.Module, builder: GraphBuilder, name: str, *inputs: str) -> str:
    """Write one module; return the name of its output."""
    raise TriptychError(f"cannot export {name}: a {type(module).__name__} has no ONNX operator here")


def _array(parameter: torch.Tensor | None):
    return None if parameter is None else parameter.detach().cpu().numpy()


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _symmetric(padding: int | tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    height, width = _pair(padding)
    return (height, height), (width, width)


@_export.register
def _(module: nn.Conv2d, builder: GraphBuilder, name: str, x: str) -> str:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise TriptychError(f"cannot export {name}: write its padding as numbers of zeros")
    return _conv(module, builder, name, x, _symmetric(module.padding))


def _conv(module: nn.Conv2d, builder: GraphBuilder, name: str, x: str, padding: Padding) -> str:
    conv = ConvND(module.stride, module.dilation, padding, module.groups)
    return conv.to_onnx(builder, name, x, weight=_array(module.weight), bias=_array(module.bias))


@_export.register
def _(module: nn.Linear, builder: GraphBuilder, name: str, x: str) -> str:
    dense = Dense(module.out_features)
    return dense.to_onnx(builder, name, x, weight=_array(module.weight), bias=_array(module.bias))


@_export.register
def _(module: nn.MaxPool2d, builder: GraphBuilder, name: str, x: str) -> str:
    kernel, stride, padding = _pair(module.kernel_size), _pair(module.stride), _symmetric(module.padding)
    if module.dilation != 1 or (module.ceil_mode and (any(map(any, padding)) or min(kernel) < max(stride))):
        raise TriptychError(
            f"cannot export {name}: a dilated pooling, or one padded and rounded up, has no ONNX operator here"
        )
    if module.ceil_mode:
        # Rounding up lets the last window hang over the edge, by at most one pixel less than the stride.
        padding = ((0, stride[0] - 1), (0, stride[1] - 1))
    return MaxPool(kernel, stride, padding).to_onnx(builder, name, x)


@_export.register
def _(module: layers.SameConv2d, builder: GraphBuilder, name: str, x: str, *, shape: Shape) -> str:
    return _conv(module, builder, name, x, same_padding(shape[1:], module.kernel_size, module.stride))


@_export.register
def _(module: layers.SameMaxPool2d, builder: GraphBuilder, name: str, x: str, *, shape: Shape) -> str:
    kernel, stride = _pair(module.kernel_size), _pair(module.stride)
    return MaxPool(kernel, stride, SAME).to_onnx(builder, name, x, shape=shape)


@_export.register
def _(module: nn.AvgPool2d, builder: GraphBuilder, name: str, x: str) -> str:
    if any(map(any, _symmetric(module.padding))) or module.ceil_mode or module.divisor_override:
        raise TriptychError(f"cannot export {name}: only an average over whole windows has an ONNX operator here")
    return AveragePool(_pair(module.kernel_size), _pair(module.stride)).to_onnx(builder, name, x)


@_export.register
def _(module: nn.AdaptiveAvgPool2d, builder: GraphBuilder, name: str, x: str, *, shape: Shape) -> str:
    if not isinstance(module.output_size, int):
        raise TriptychError(f"cannot export {name}: write its output size as one number")
    if module.output_size == 1:
        return GlobalAveragePool().to_onnx(builder, name, x)
    return AdaptiveAveragePool(module.output_size).to_onnx(builder, name, x, shape=shape)


@_export.register
def _(module: nn.BatchNorm2d, builder: GraphBuilder, name: str, x: str) -> str:
    affine = {"gamma": _array(module.weight), "beta": _array(module.bias)}
    stored = {"mean": _array(module.running_mean), "variance": _array(module.running_var)}
    return BatchNorm(module.eps).to_onnx(builder, name, x, **affine, **stored)


@_export.register
def _(module: layers.Add, builder: GraphBuilder, name: str, *inputs: str) -> str:
    return Add().to_onnx(builder, name, *inputs)


@_export.register
def _(module: layers.Concat, builder: GraphBuilder, name: str, *inputs: str) -> str:
    return Concat().to_onnx(builder, name, *inputs)


@_export.register
def _(module: layers.SelectChannels, builder: GraphBuilder, name: str, x: str) -> str:
    return SelectChannels(tuple(module.channels)).to_onnx(builder, name, x)


@_export.register
def _(module: layers.SubSampling, builder: GraphBuilder, name: str, x: str) -> str:
    return SubSampling().to_onnx(builder, name, x, weight=_array(module.weight), bias=_array(module.bias))


@_export.register
def _(module: layers.ScaledTanh, builder: GraphBuilder, name: str, x: str) -> str:
    return ScaledTanh(module.amplitude, module.slope).to_onnx(builder, name, x)


@_export.register
def _(module: nn.Sigmoid, builder: GraphBuilder, name: str, x: str) -> str:
    return Sigmoid().to_onnx(builder, name, x)


@_export.register
def _(module: nn.LocalResponseNorm, builder: GraphBuilder, name: str, x: str) -> str:
    return LRN(module.size, module.alpha, module.beta, module.k).to_onnx(builder, name, x)


@_export.register
def _(module: nn.ReLU, builder: GraphBuilder, name: str, x: str) -> str:
    return ReLU().to_onnx(builder, name, x)


@_export.register
def _(module: nn.Softmax, builder: GraphBuilder, name: str, x: str) -> str:
    if module.dim not in (-1, 1):
        raise TriptychError(
            f"cannot export {name}: only a softmax over the features of each image has an operator here"
        )
    return Softmax().to_onnx(builder, name, x)


@_export.register
def _(module: nn.Flatten, builder: GraphBuilder, name: str, x: str) -> str:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise TriptychError(
            f"cannot export {name}: only a flatten of everything but the batch has an ONNX operator here"
        )
    return Flatten().to_onnx(builder, name, x)


@_export.register
def _(module: nn.Dropout, builder: GraphBuilder, name: str, x: str) -> str:
    return x  # the identity when not training
