"""ONNX files as graphs: each node as the operation that it is, weights inside or beside the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import TriptychError, argument
from common.graphs.graph import Graph, Node
from common.graphs.onnx_files import axes_of, constant_of, load, shapes_of
from common.operations import Shape
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import operation_of

if TYPE_CHECKING:
    import onnx

NAMESPACE = "namespace"
"""The metadata in which torch.onnx says which module makes a node: `: mine.Net/head: torch.….Linear/linear: aten.…`."""


def read_model(path: str | Path) -> onnx.ModelProto:
    """An ONNX file with its weights, every constant an initializer, every node with a name of its own.

    Raises:
        TriptychError: it cannot be read, or is no ONNX file.
    """
    model = load(path)
    kept, names = [], set()
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Constant":
            if (held := constant_of(node)) is None:
                raise TriptychError(
                    f"{path} has a Constant {node.output[0]!r} that is sparse or empty; make it a plain tensor"
                )
            model.graph.initializer.add().CopyFrom(held)
            model.graph.initializer[-1].name = node.output[0]
            continue
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{number}"
        if node.op_type in ("LSTM", "GRU") and not node.output[0]:
            node.output[0] = f"{node.name}/states"  # by which the last state is judged
        names.add(node.name)
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def state_shape(model: onnx.ModelProto, shape: Sequence[int], path: str | Path) -> None:
    """Write the shape of a model's only input into the model, if the model leaves it open.

    Raises:
        TriptychError: it has several inputs, or states another shape.
    """
    names = [value.name for value in inputs_of(model)]
    if len(names) != 1:
        which = argument("input_shape", {name: list(shape) for name in names[:1]})
        raise TriptychError(f"{path} takes {', '.join(names)}; say which has this shape, such as with {which}")
    state_shapes(model, {names[0]: shape}, path)


def state_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], path: str | Path) -> None:
    """Write the shapes of some inputs into a model, if the model leaves them open.

    Raises:
        TriptychError: it has no such input, or states another shape.
    """
    inputs = {value.name: value for value in inputs_of(model)}
    for name, shape in shapes.items():
        if name not in inputs:
            raise TriptychError(f"{path} has no input {name!r}; it takes {', '.join(inputs)}")
        stated = axes_of(inputs[name])
        if stated is None:
            for _ in shape:
                inputs[name].type.tensor_type.shape.dim.add()
        else:
            check_shape(str(path), name, [size if isinstance(size, int) and size else None for size in stated], shape)
    fill_shapes(model, {name: tuple(shape) for name, shape in shapes.items()})


def check_shape(model: str, name: str, stated: Sequence[int | None], shape: Sequence[int]) -> None:
    """Check that an input may have a shape.

    Args:
        model: what the user calls the model.
        name: of the input.
        stated: the sizes that the model takes; None if it takes any.
        shape: the shape that is given.

    Raises:
        TriptychError: it has another number of axes, or another size where the model takes only one.
    """
    if len(stated) != len(shape) or any(size not in (None, given) for size, given in zip(stated, shape, strict=True)):
        found = "×".join(str(size or "any") for size in stated) or "no axes"
        raise TriptychError(f"{model} takes {name} of shape {found}, not {'×'.join(map(str, shape))}")


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a model that have no value in the file."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def fill_shapes(model: onnx.ModelProto, given: Mapping[str, Shape]) -> None:
    """Write the sizes that a model leaves open into the model, as far as its inputs tell them.

    Args:
        model: is changed. Sizes of one name (`batch`) are the same in all inputs.
        given: the shapes of some of its inputs.
    """
    axes = {value.name: value.type.tensor_type.shape.dim for value in inputs_of(model)}
    sizes = {}
    for name, shape in given.items():
        for dim, size in zip(axes.get(name, ()), shape, strict=False):
            if not dim.dim_value:
                sizes[dim.dim_param] = dim.dim_value = size
    for dim in (dim for dims in axes.values() for dim in dims if not dim.dim_value):
        if dim.dim_param in sizes and dim.dim_param:
            dim.dim_value = sizes[dim.dim_param]
    if sizes:
        del model.graph.value_info[:]


def read_graph(path: str | Path, model: onnx.ModelProto | None = None) -> Graph:
    """An ONNX file as a graph.

    Args:
        path: of the file; weights in external data are read from beside it.
        model: the model, if it has been read by `read_model`.

    Raises:
        TriptychError: it is no ONNX file, or leaves the shape of an input open.
    """
    model = model or read_model(path)
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    constants = {tensor.name: _array(path, tensor) for tensor in graph.initializer}
    shapes: dict[str, Shape] = {name: array.shape for name, array in constants.items()}
    for name, axes in shapes_of(path, model).items():
        known = tuple(axis for axis in axes if isinstance(axis, int))
        if len(known) == len(axes):
            shapes.setdefault(name, known)
    several = len(inputs_of(model)) > 1
    inputs = {value.name: _stated_shape(path, value, several) for value in inputs_of(model)}
    types = {value.name: _type(path, value) for value in inputs_of(model)}
    others = {name: kind for name, kind in types.items() if kind != np.float32}
    nodes = []
    for proto in graph.node:
        nodes += nodes_of(proto, constants, shapes, opset)
    return Graph(str(path), tuple(nodes), inputs, constants, tuple(value.name for value in graph.output), opset, others)


def _array(path: str | Path, tensor: onnx.TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError):
        what = f"{tensor.name}, which does not have the data of its shape and type"
        raise TriptychError(f"{path} has a constant {what}; get a fresh copy of the file") from None


def _type(path: str | Path, value: onnx.ValueInfoProto) -> np.dtype:
    from onnx import helper

    try:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    except KeyError:  # it is no tensor
        kind = np.dtype(object)
    if kind != np.float32 and kind.kind not in "iub":
        told = "no tensor of numbers" if kind.hasobject else str(kind)
        raise TriptychError(f"{path} takes {value.name}, which is {told}; expected float32, integers or truth values")
    return kind


def _stated_shape(path: str | Path, value: onnx.ValueInfoProto, several: bool) -> Shape:
    """The shape of an input, which may be one of several."""
    axes = axes_of(value) or ()
    sizes = [size if isinstance(size, int) else 0 for size in axes]
    if sizes and not sizes[0]:
        sizes[0] = 1  # of the batch
    if 0 in sizes:
        found = "×".join(str(size or "?") for size in axes)
        example = [size or 224 for size in sizes]
        which = argument("input_shape", {value.name: example} if several else example)
        raise TriptychError(
            f"{path} takes {value.name} of shape {found}; say which with {which}, or give it: --input "
            f"{value.name}=FILE.npy"
        )
    return tuple(sizes)


def _source(proto: onnx.NodeProto) -> str | None:
    """The place of a node in the user's own code, if the exporter says it: `blocks.0.attn (Attention)`."""
    told = next((entry.value for entry in proto.metadata_props if entry.key == NAMESPACE), None)
    if told is None:
        return None
    modules = [part.partition(": ")[::2] for part in told.split("/")[:-1]]  # the last is the operation itself
    if not modules:
        return None
    path, kind = modules[-1][0], modules[-1][1].rpartition(".")[2]
    return f"{path} ({kind})" if path else kind


def nodes_of(
    proto: onnx.NodeProto, constants: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], opset: int
) -> list[Node]:
    """One node for each output that is used."""
    source = _source(proto)
    nodes = []
    for place, output in enumerate(proto.output):
        if not output:
            continue
        label = proto.name if place == 0 else f"{proto.name}:{place}"
        try:
            found = operation_of(OnnxNode(proto, constants, shapes, opset, place))
        except Unread as reason:
            present = tuple(value for value in proto.input if value)
            nodes.append(Node(label, proto.op_type, None, present, output, source=source, why=str(reason)))
            continue
        values = (*(proto.input[where] for where in found.inputs), *(proto.output[where] for where in found.results))
        parameters = {kind: proto.input[where] for kind, where in found.parameters.items()}
        nodes.append(Node(label, proto.op_type, found.operation, values, output, parameters, source))
    return nodes
