"""The table of layers of an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from common.graphs.onnx_files import Axes, load, shapes_of
from common.onnx.lrn import find_lrns


@dataclass(frozen=True)
class FileLayer:
    """A node of a file, or several nodes that are one local response normalisation."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    """The values that it reads, without parameters."""
    output: Axes
    """Its shape, with the names of open axes; empty if it cannot be inferred."""
    parameters: int


@dataclass(frozen=True)
class FileSummary:
    """The summary of an ONNX file."""

    metadata: dict[str, str]
    opset: int
    inputs: dict[str, Axes]
    outputs: dict[str, Axes]
    layers: list[FileLayer]
    """In the file's order."""


def read_summary(path: str | Path) -> FileSummary:
    """Read any ONNX file, without weights in other files.

    Raises:
        TriptychError: it cannot be read, or is no ONNX file.
    """
    model = load(path, weights=False)
    graph, shapes = model.graph, shapes_of(path, model)
    # A scalar is a constant of the operation, no parameter.
    sizes = {tensor.name: prod(tensor.dims) if tensor.dims else 0 for tensor in graph.initializer}
    normalisations = find_lrns(graph)
    inner = {value for found in normalisations.values() for value in found.values[1:]}
    return FileSummary(
        metadata={entry.key: entry.value for entry in model.metadata_props},
        opset=max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0),
        inputs={value.name: shapes.get(value.name, ()) for value in graph.input if value.name not in sizes},
        outputs={value.name: shapes.get(value.name, ()) for value in graph.output},
        layers=[
            FileLayer(
                node.name or ", ".join(node.output),
                "LRN" if value in normalisations else node.op_type,
                (normalisations[value].x,)
                if value in normalisations
                else tuple(name for name in node.input if name and name not in sizes),
                shapes.get(value, ()),
                sum(sizes.get(name, 0) for name in node.input),
            )
            for node, value in ((node, next(iter(node.output), "")) for node in graph.node)
            if value not in inner
        ],
    )
