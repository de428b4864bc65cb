"""The graph that ONNX Runtime makes of a file: run node by node, its values under the names of the file's own values.

A fused node keeps the name of its last output, and most values their layout. Two optimisations change both:

- On x86, convolutions and what stands between them are moved to a layout in blocks of 8 or 16 channels, NCHWc. The node
  of such a value is called after the output that it had before (`c1_out_nchwc`), or as in the file (`Add_3`).
- A transposition is moved past the nodes that follow it. Their values, transposed, are called after the nodes.

Such a value is put back into the layout that it has in the file. If two layouts have its shape, it is left out. So is
one whose numbers are others: where a batch normalisation is multiplied into the weights of a product some nodes before
it, the values between keep their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.graphs import Graph, Node
from common.graphs.onnx_files import Axes, load, shapes_of
from common.layouts import TURNS
from common.operations.onnx_node import attributes_of
from common.prove.runtimes import ONNX_RUNTIMES, Process, Recorded, record

if TYPE_CHECKING:
    import onnx

NCHWC = "com.microsoft.nchwc"
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"}
_MOVED = re.compile(r"(.+?)(_bn)?_nchwc(_token_\d+|_\d+)?")
_FARTHEST = 4
"""How many nodes a convolution may take in: a batch normalisation, a sum, an activation."""

_RULER = "triptych ruler"
"""A value of 64 channels and 2 columns, from whose layout the length of the blocks is read."""


def record_optimised(
    path: Path, model: onnx.ModelProto, graph: Graph, feeds: Mapping[str, np.ndarray], folder: Path
) -> Recorded:
    """Optimise a file, and run every node of the result as it is.

    Args:
        path: the file.
        model: what it holds, with the shapes of the inputs.
        graph: the same as a graph.
        feeds: its inputs, by name.
        folder: a folder for files.

    Returns:
        Those values of the file that the optimised graph has.
    """
    import onnx

    file, exposed = folder / "optimised.onnx", folder / "exposed.onnx"
    with Process("common.prove.onnx_run") as process:
        answer = process.ask({"model": str(path), "optimise": True, "optimised": str(file)})
    if "error" in answer:
        return Recorded(error=answer["error"])
    optimised, shapes = load(file), shapes_of(path, model)
    others = _of_other_weights(optimised, graph)
    moved = dict(_moved(optimised, graph))
    if any(is_blocked for _, is_blocked in moved.values()):
        _add_ruler(optimised)
    onnx.save(optimised, exposed)
    found = record(ONNX_RUNTIMES[0], exposed, feeds, folder)
    if found.error:
        return found
    makers, values = graph.makers(), {}
    for name, array in found.values.items():
        if name in makers:
            values[name] = array
    block = _length_of_blocks(found.values[_RULER]) if _RULER in found.values else 1
    for name, (own, is_blocked) in moved.items():
        layouts = list(_layouts(found.values[name], shapes.get(own, ()), block if is_blocked else None))
        if own not in values and len(layouts) == 1:
            values[own] = layouts[0]
    outputs = set(graph.outputs)
    found.values = {
        name: array
        for name, array in values.items()
        if name in outputs or (name not in others and _fits(array.shape, shapes.get(name)))
    }
    return found


def _of_other_weights(optimised: onnx.ModelProto, graph: Graph) -> set[str]:
    """The values that are made as in the file, but with other constants, or from such a value."""
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in optimised.graph.initializer}
    makers, found = graph.makers(), set[str]()
    for node in optimised.graph.node:
        maker = makers.get(node.output[0])
        kinds = {node.op_type, maker.kind} if maker else set()
        if maker is None or node.domain == NCHWC or not (len(kinds) == 1 or kinds <= PRODUCTS):
            continue
        for name, own in zip(node.input, maker.reads, strict=False):
            renamed = name != own and name in arrays and own in graph.constants
            if (name == own and name in found) or (renamed and not np.array_equal(arrays[name], graph.constants[own])):
                found.add(node.output[0])
    return found


def _fits(shape: tuple[int, ...], axes: Axes | None) -> bool:
    """Whether an array has the shape that a file states, as far as it does."""
    if axes is None or len(axes) != len(shape):
        return axes is None
    return all(isinstance(axis, str) or axis == size for size, axis in zip(shape, axes, strict=True))


def _moved(optimised: onnx.ModelProto, graph: Graph) -> Iterator[tuple[str, tuple[str, bool]]]:
    """The values in another layout, what each is called in the file, and whether it is in blocks of channels."""
    names = _Names(graph)
    blocked: set[str] = set()
    for node in optimised.graph.node:
        reads_blocked = bool(blocked.intersection(node.input))
        is_blocked = node.op_type != "ReorderOutput" and (node.domain == NCHWC or reads_blocked)
        if is_blocked:
            blocked.update(node.output)
        own = names.of(node)
        if own and node.output[0] not in names.makers:
            yield node.output[0], (own, is_blocked)


class _Names:
    """What the values of optimised nodes are called in the file."""

    def __init__(self, graph: Graph) -> None:
        self.makers, self.constants = graph.makers(), set(graph.constants)
        self.outputs = {node.name: node.output for node in graph.nodes}
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.reads):
                self.readers.setdefault(name, []).append(node)

    def of(self, node: onnx.NodeProto) -> str | None:
        """The value of the file that a node makes, if its name tells it.

        A convolution in blocks may add another value and apply an activation. It may have the name of a value before.
        """
        moved = _MOVED.fullmatch(node.name)
        if moved is None:
            return self.outputs.get(node.name)
        name = moved[1] if moved[1] in self.makers else self.outputs.get(moved[1], "")
        adds = len(node.input) > 3 and bool(node.input[3])
        kind = attributes_of(node).get("activation") or ("Add" if adds else None)
        for _ in range(_FARTHEST):
            maker = self.makers.get(name)
            if maker is None or kind is None or self._is_last(maker, kind):
                return name or None
            readers = self.readers.get(name, [])
            name = readers[0].output if len(readers) == 1 else ""
        return None

    def _is_last(self, maker: Node, kind: str) -> bool:
        """Whether it is the sum of two values, or the activation, that a convolution has taken in."""
        return maker.kind == kind and not (kind == "Add" and self.constants.intersection(maker.reads))


def _add_ruler(optimised: onnx.ModelProto) -> None:
    from onnx import helper, numpy_helper

    numbers = np.arange(128, dtype=np.float32).reshape(1, 64, 1, 2)
    optimised.graph.initializer.append(numpy_helper.from_array(numbers, f"{_RULER} given"))
    optimised.graph.node.append(helper.make_node("ReorderInput", [f"{_RULER} given"], [_RULER], _RULER, domain=NCHWC))


def _length_of_blocks(ruler: np.ndarray) -> int:
    """How many channels of a pixel lie beside each other: the next number is the first channel's next pixel, 1."""
    return int(np.flatnonzero(ruler.reshape(-1) == 1)[0])


def _layouts(array: np.ndarray, shape: Axes, block: int | None) -> Iterator[np.ndarray]:
    """The arrays of a shape that a value may be, in other layouts. `block` is the length of its blocks, if it has."""
    if array.ndim == 4 and block is not None:
        images, channels, height, width = array.shape
        blocks = array.reshape(images, channels // block, height, width, block)
        array = blocks.transpose(0, 1, 4, 2, 3).reshape(array.shape)
    for turn in TURNS.get(array.ndim, ()):
        turned = array.transpose(turn)
        if block is not None and len(shape) == 4:  # its channels are filled up
            at = turn.index(1)
            size = shape[at]
            if isinstance(size, int) and turned.shape[at] - block < size <= turned.shape[at]:
                turned = np.take(turned, range(size), axis=at)
        if shape and _fits(turned.shape, shape):
            yield np.ascontiguousarray(turned)
