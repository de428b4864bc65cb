"""ONNX files as graphs: each node as the operation that it is, weights inside or beside the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import TriptychError, argument
from common.graphs.graph import Graph, Node
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
        TriptychError: it is no ONNX file.
    """
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    try:
        model = onnx.load(str(path))
    except FileNotFoundError as error:
        raise TriptychError(f"there is no file {error.filename or path}") from None
    except Exception as error:  # protobuf's and onnx's own have no common base class
        raise TriptychError(f"{path} cannot be read as ONNX: {error}") from None
    if not model.graph.node:
        raise TriptychError(f"{path} is no ONNX file, or one without a single node")
    kept, names = [], set()
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Constant":
            (value,) = ReferenceEvaluator(node).run(None, {})
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), node.output[0]))
            continue
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{number}"
        names.add(node.name)
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def state_shape(model: onnx.ModelProto, shape: Sequence[int], path: str | Path) -> None:
    """Write into a model of which shape its input is, where it leaves that open.

    Raises:
        TriptychError: it takes several inputs, or says that they are of other sizes.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise TriptychError(f"{path} takes {len(inputs)} inputs; {argument('shape')} is of one")
    dimensions = inputs[0].type.tensor_type.shape.dim
    stated = [dim.dim_value or None for dim in dimensions]
    if len(stated) != len(shape) or any(size not in (None, given) for size, given in zip(stated, shape, strict=True)):
        found = "×".join(str(size or "any") for size in stated)
        raise TriptychError(f"{path} takes {inputs[0].name} of shape {found}, not {'×'.join(map(str, shape))}")
    for dim, size in zip(dimensions, shape, strict=True):
        dim.dim_value = size
    del model.graph.value_info[:]  # which may be of other sizes


def read_graph(path: str | Path, model: onnx.ModelProto | None = None) -> Graph:
    """An ONNX file as a graph.

    Args:
        path: of the file; weights in external data are read from beside it.
        model: the model, if it has been read by `read_model`.

    Raises:
        TriptychError: it is no ONNX file, or does not say of which shape its inputs are.
    """
    from onnx import numpy_helper, shape_inference

    model = model or read_model(path)
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inferred = shape_inference.infer_shapes(model).graph
    shapes: dict[str, Shape] = {name: array.shape for name, array in constants.items()}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dimensions = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dimensions):
            shapes.setdefault(value.name, tuple(dim.dim_value for dim in dimensions))
    inputs = {value.name: _stated_shape(path, value) for value in graph.input if value.name not in constants}
    nodes = []
    for proto in graph.node:
        nodes += nodes_of(proto, constants, shapes, opset)
    return Graph(str(path), tuple(nodes), inputs, constants, tuple(value.name for value in graph.output), opset)


def _stated_shape(path: str | Path, value: onnx.ValueInfoProto) -> Shape:
    dimensions = value.type.tensor_type.shape.dim
    if value.type.tensor_type.elem_type != 1:
        raise TriptychError(f"{path} takes {value.name}, which is not float32; such models cannot be proved")
    sizes = [dim.dim_value or None for dim in dimensions]
    if sizes and sizes[0] is None:
        sizes[0] = 1
    if None in sizes:
        found = "×".join(str(size or dim.dim_param or "?") for size, dim in zip(sizes, dimensions, strict=True))
        which = argument("shape", [1, 3, 224, 224])
        raise TriptychError(f"{path} takes {value.name} of shape {found}; say which with {which}")
    return tuple(size for size in sizes if size is not None)


def _source(proto: onnx.NodeProto) -> str | None:
    """Where a node comes from in the user's own code, if its exporter says it: `blocks.0.attn (Attention)`."""
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
    """One for each output that is wanted."""
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
        values = tuple(proto.input[where] for where in found.inputs)
        parameters = {kind: proto.input[where] for kind, where in found.parameters.items()}
        nodes.append(Node(label, proto.op_type, found.operation, values, output, parameters, source))
    return nodes
