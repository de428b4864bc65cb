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
from common.names import canonical_from_torch
from common.onnx_graph import GraphBuilder
from common.specs.architecture import IMAGE


def export_onnx(model: nn.Module, path: str | Path) -> None:
    """Write a model of this package as ONNX: input `image` (N, C, H, W), output `logits`, dynamic N.

    Args:
        model: with an attribute `image_shape`, (C, H, W), as every model of this package has.
        path: where to; an existing file is replaced.

    Raises:
        TriptychError: the model has a layer that cannot be exported faithfully, or the file cannot be written.
    """
    builder = GraphBuilder(model.image_shape, architecture=getattr(model, "architecture", None))
    values: dict[fx.Node, str] = {}
    outputs: dict[str, str] = {}
    for node in fx.symbolic_trace(model).graph.nodes:
        if node.op == "placeholder":
            values[node] = IMAGE
        elif node.op == "call_module":
            inputs = [values[argument] for argument in node.args]
            name = canonical_from_torch(node.target)
            values[node] = _export(model.get_submodule(node.target), builder, name, *inputs)
        elif node.op == "output":
            outputs["logits"] = values[node.args[0]]
        else:
            raise TriptychError(f"cannot export {node.name}: {node.op} {node.target} has no ONNX operator here")
    builder.save(path, outputs, source=f"torch {torch.__version__}")


@singledispatch
def _export(module: nn.Module, builder: GraphBuilder, name: str, x: str) -> str:
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
    return builder.conv(
        name,
        x,
        _array(module.weight),
        _array(module.bias),
        stride=module.stride,
        padding=_symmetric(module.padding),
        dilation=module.dilation,
        groups=module.groups,
    )


@_export.register
def _(module: nn.Linear, builder: GraphBuilder, name: str, x: str) -> str:
    return builder.dense(name, x, _array(module.weight), _array(module.bias))


@_export.register
def _(module: nn.MaxPool2d, builder: GraphBuilder, name: str, x: str) -> str:
    if module.dilation != 1:
        raise TriptychError(f"cannot export {name}: a dilated pooling has no ONNX operator here")
    return builder.max_pool(
        name,
        x,
        kernel=_pair(module.kernel_size),
        stride=_pair(module.stride),
        padding=_symmetric(module.padding),
        ceil=module.ceil_mode,
    )


@_export.register
def _(module: nn.LocalResponseNorm, builder: GraphBuilder, name: str, x: str) -> str:
    return builder.lrn(name, x, size=module.size, alpha=module.alpha, beta=module.beta, k=module.k)


@_export.register
def _(module: nn.ReLU, builder: GraphBuilder, name: str, x: str) -> str:
    return builder.relu(name, x)


@_export.register
def _(module: nn.Flatten, builder: GraphBuilder, name: str, x: str) -> str:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise TriptychError(
            f"cannot export {name}: only a flatten of everything but the batch has an ONNX operator here"
        )
    return builder.flatten(name, x)


@_export.register
def _(module: nn.Dropout, builder: GraphBuilder, name: str, x: str) -> str:
    return x  # the identity when not training
