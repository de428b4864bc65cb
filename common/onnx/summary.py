"""What an ONNX file says of itself: a table of layers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import TriptychError
from common.files import os_error_sentence
from common.onnx.lrn import find_lrns

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class FileLayer:
    """A node of a file, or the several that a local response normalisation consists of."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    """The values that it reads, parameters left out."""
    output: tuple[int | str, ...]
    """Its shape, a symbolic axis by its name; empty if it cannot be inferred."""
    parameters: int


@dataclass(frozen=True)
class FileSummary:
    """What an ONNX file says of itself."""

    metadata: dict[str, str]
    opset: int
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    layers: list[FileLayer]
    """In the file's order."""


def read_summary(path: str | Path) -> FileSummary:
    """Read an ONNX file, ours or another, without its weights where they lie beside it.

    Raises:
        TriptychError: there is no such file, or it is not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
        graph = onnx.shape_inference.infer_shapes(model).graph
    except OSError as error:
        raise TriptychError(f"cannot read {path}: {os_error_sentence(error)}") from None
    except (DecodeError, onnx.shape_inference.InferenceError, UnicodeDecodeError) as error:
        raise TriptychError(f"{path} is not an ONNX model: {error}") from None
    if not graph.node:
        raise TriptychError(f"{path} is not an ONNX model: it has no nodes")
    values = {value.name: _dimensions(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    # A scalar is a constant of the operation, no parameter.
    sizes = {tensor.name: prod(tensor.dims) if tensor.dims else 0 for tensor in graph.initializer}
    normalisations = find_lrns(graph)
    inner = {value for found in normalisations.values() for value in found.values[1:]}
    return FileSummary(
        metadata={entry.key: entry.value for entry in model.metadata_props},
        opset=max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0),
        inputs={value.name: values[value.name] for value in graph.input if value.name not in sizes},
        outputs={value.name: values[value.name] for value in graph.output},
        layers=[
            FileLayer(
                node.name or ", ".join(node.output),
                "LRN" if value in normalisations else node.op_type,
                (normalisations[value].x,)
                if value in normalisations
                else tuple(name for name in node.input if name and name not in sizes),
                values.get(value, ()),
                sum(sizes.get(name, 0) for name in node.input),
            )
            for node, value in ((node, next(iter(node.output), "")) for node in graph.node)
            if value not in inner
        ],
    )


def _dimensions(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
