"""ONNX files: parsed with their weights, without them, or with the weights left where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import Damaged, TriptychError
from common.files import os_error_sentence
from common.graphs.protobufs import fields
from common.operations.onnx_node import attributes_of

if TYPE_CHECKING:
    import onnx

IR_VERSION, GRAPH = 1, 7
"""Fields of a ModelProto."""

INITIALIZER, RAW_DATA = 5, 9
"""Of a GraphProto, and of the TensorProto that an initializer is."""


Axes = tuple[int | str, ...]
"""For each axis its length; the name of one that is open; "?" if it has none."""

DTYPES = {"value_int": np.int64, "value_float": np.float32, "value_string": np.object_}
"""By the attributes of a `Constant` that hold one number or text, or several."""


def looks_like_model(content: memoryview) -> bool:
    """Whether a file is an ONNX model, by its content: it has a version and a graph."""
    try:
        found = {number: value for number, value, _ in fields(content)}
    except Damaged:
        return False
    return isinstance(found.get(IR_VERSION), int) and isinstance(found.get(GRAPH), memoryview)


def load(path: str | Path, *, weights: bool = True) -> onnx.ModelProto:
    """An ONNX file as it is.

    Args:
        path: of the file.
        weights: whether to read weights that lie in files beside it.

    Raises:
        TriptychError: it cannot be read, or is no ONNX file.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=weights)
    except FileNotFoundError as error:
        raise TriptychError(f"there is no file {error.filename or path}") from None
    except OSError as error:
        raise TriptychError(f"cannot read {path}: {os_error_sentence(error)}") from None
    except Exception as error:  # protobuf's and onnx's own have no common base class
        raise TriptychError(f"{path} cannot be read as ONNX: {error}") from None
    if not model.graph.node:
        raise TriptychError(f"{path} is no ONNX file, or has no nodes")
    return model


def without_weights(content: memoryview) -> tuple[onnx.ModelProto, list[memoryview | None]]:
    """The model in a file, its initializers' data left in the file, and where in it those are.

    For files that may be hostile or larger than the memory. A protobuf message is the concatenation of its fields, so
    the fields with the data can be left out before it is parsed.
    """
    import onnx

    rest, raw = bytearray(), []
    graph = onnx.GraphProto()
    for number, value, piece in fields(content):
        if number != GRAPH or not isinstance(value, memoryview):
            rest += piece
            continue
        for inner, tensor, field_of_graph in fields(value):
            if inner != INITIALIZER or not isinstance(tensor, memoryview):
                graph.MergeFromString(bytes(field_of_graph))
                continue
            parts = list(fields(tensor))
            data = [part for which, part, _ in parts if which == RAW_DATA]
            raw.append(data[-1] if data and isinstance(data[-1], memoryview) else None)
            graph.initializer.add().MergeFromString(b"".join(part for which, _, part in parts if which != RAW_DATA))
    model = onnx.ModelProto.FromString(bytes(rest))
    model.graph.CopyFrom(graph)
    return model, raw


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a `Constant` node holds, in whichever of its attributes; None if that is a sparse tensor, or nothing."""
    from onnx import TensorProto, numpy_helper

    kind, value = next(iter(attributes_of(node).items()), ("", None))
    if isinstance(value, TensorProto):
        return value
    dtype = DTYPES.get(kind.removesuffix("s"))
    return None if dtype is None else numpy_helper.from_array(np.asarray(value, dtype), node.output[0])


def shapes_of(path: str | Path, model: onnx.ModelProto) -> dict[str, Axes]:
    """The shapes that a model states of its values, or that follow from those; the others are absent.

    Raises:
        TriptychError: they contradict each other.
    """
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(model).graph
    except (shape_inference.InferenceError, UnicodeDecodeError) as error:
        raise TriptychError(f"{path} cannot be read as ONNX: {error}") from None
    shapes = ((value.name, axes_of(value)) for value in (*graph.input, *graph.value_info, *graph.output))
    return {name: axes for name, axes in shapes if axes is not None}


def axes_of(value: onnx.ValueInfoProto) -> Axes | None:
    """The shape that a model states of a value; None if it states none."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor.shape.dim)
