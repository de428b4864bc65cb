"""Local response normalisation as several ONNX nodes: written, and recognised by its structure.

This project's form pads, averages, scales and shifts by one convolution over the channels. The form of `torch.onnx` has
a node for each of these. Both end in x / (k + alpha / size · Σ x²)^beta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.graphs.onnx_files import constant_of
from common.operations.onnx_node import attributes_of

if TYPE_CHECKING:
    import onnx

    from common.operations.onnx_node import OnnxGraph

_LAYOUT = ("Identity", "Reshape", "Squeeze", "Unsqueeze")

Constants = Callable[[str], np.ndarray | None]
"""The array of a constant by its name; None if it is not a constant."""


def write_as_nodes(graph: OnnxGraph, node: onnx.NodeProto) -> None:
    """Write an LRN as the six nodes that it consists of: x / (k + alpha / size · Σ x²)^beta.

    A window over channels that lies between two axes of length 1 is a convolution of one channel over a volume, and its
    bias is k. It pads, averages, scales and shifts at once, and reads nothing but its window: a square that overflows
    to infinity makes its neighbours' quotients 0, as it does in one node, and no others NaN.
    """
    name, (x,), numbers = node.name, node.input, attributes_of(node)
    size = numbers["size"]
    before = (size - 1) // 2
    window, k, exponent, axis = graph.constants(
        name,
        window=np.full((1, 1, size, 1, 1), numbers["alpha"] / size, np.float32),
        k=np.array([numbers["bias"]], np.float32),
        exponent=np.array(numbers["beta"], np.float32),
        axis=np.array([1], np.int64),
    )
    volume = graph.node("Unsqueeze", f"{name}/volume", graph.node("Mul", f"{name}/squares", x, x), axis)
    pads = (before, 0, 0, size - 1 - before, 0, 0)
    sums = graph.node("Conv", f"{name}/sums", volume, window, k, kernel_shape=(size, 1, 1), pads=pads)
    powers = graph.node("Pow", f"{name}/powers", graph.node("Squeeze", f"{name}/scale", sums, axis), exponent)
    graph.node("Div", name, x, powers)


@dataclass(frozen=True)
class DecomposedLRN:
    """A normalisation that consists of several nodes."""

    x: str
    """The value that is normalised."""
    size: int
    alpha: float
    """Alpha, to be divided by the size, as in Caffe."""
    beta: float
    k: float
    values: tuple[str, ...]
    """The values of its nodes, the last first."""


def find_lrn(last: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], constant: Constants) -> DecomposedLRN | None:
    """The normalisation that ends in a node, if one does.

    Args:
        last: the node.
        makers: the node that makes each value.
        constant: see `Constants`.
    """
    walk = _Walk(makers, constant)
    try:
        x, divisor = walk.node(last.output[0], "Div").input
        value, beta = walk.with_number(divisor, "Pow")
        value = walk.through(value, _LAYOUT)
        if makers[value].op_type == "Conv":
            value, window, shift = walk.node(value, "Conv").input
            size, scale, k = walk.window(window), walk.number(window), walk.number(shift)
            alpha = scale * size
        else:
            value, k = walk.with_number(value, "Add")
            value, alpha = walk.with_number(walk.through(value, _LAYOUT), "Mul")
            pool = walk.node(walk.through(value, _LAYOUT), "AveragePool")
            size, *others = attributes_of(pool)["kernel_shape"]
            if set(others) != {1}:
                return None
            value = walk.through(pool.input[0], ("Pad",))
        squares = walk.node(walk.through(value, _LAYOUT), "Mul")
    except (LookupError, ValueError):
        return None
    if set(squares.input) != {x}:
        return None
    return DecomposedLRN(x, size, alpha, beta, k, tuple(walk.passed))


def find_lrns(graph: onnx.GraphProto) -> dict[str, DecomposedLRN]:
    """The normalisations of a graph, by their results. If another node reads a value within one, it is left out."""
    from onnx import TensorProto, numpy_helper

    makers = {value: node for node in graph.node for value in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and (held := constant_of(node)) is not None:
            tensors[node.output[0]] = held

    def constant(name: str) -> np.ndarray | None:
        tensor = tensors.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)

    readers = Counter(value for node in graph.node for value in set(node.input))
    readers.update(value.name for value in graph.output)
    found = {node.output[0]: find_lrn(node, makers, constant) for node in graph.node if node.op_type == "Div"}
    return {
        value: each for value, each in found.items() if each and all(readers[inner] == 1 for inner in each.values[1:])
    }


class _Walk:
    """Walks from a value back through the nodes that made it. Anything unexpected raises a LookupError or a
    ValueError."""

    def __init__(self, makers: Mapping[str, onnx.NodeProto], constant: Constants) -> None:
        self.makers, self.constant = makers, constant
        self.passed: list[str] = []

    def node(self, value: str, operator: str) -> onnx.NodeProto:
        """The node that makes a value, of this operator."""
        node = self.makers[value]
        if node.op_type != operator:
            raise LookupError(value)
        self.passed.append(value)
        return node

    def through(self, value: str, operators: Collection[str]) -> str:
        """The value before a chain of nodes with these operators, which may be empty."""
        while value in self.makers and self.makers[value].op_type in operators:
            value = self.node(value, self.makers[value].op_type).input[0]
        return value

    def with_number(self, value: str, operator: str) -> tuple[str, float]:
        """The value and the number that a node of this operator takes, in this order."""
        left, right = self.node(value, operator).input
        return left, self.number(right)

    def number(self, name: str) -> float:
        """The one number that a constant holds, however often."""
        array = self._array(name)
        if not array.size or np.ptp(array):
            raise ValueError(name)
        return float(array.flat[0])

    def window(self, name: str) -> int:
        """The length of a kernel (1, 1, length, 1 …): the first axis after the one channel is that of the channels."""
        array = self._array(name)
        if array.shape[:3] != (1, 1, array.size):
            raise ValueError(name)
        return array.size

    def _array(self, name: str) -> np.ndarray:
        array = self.constant(name)
        if array is None or array.dtype.kind != "f":
            raise ValueError(name)
        return array
