"""A graph in the one layout of this project, so that the graphs of one network in two frameworks can be compared.

Channels stand after the batch. Kernels are (out, in / groups, …), dense kernels (out, in). A flatten runs C, H, W. A
node that only transposes or reshapes becomes part of how its value is seen (`View`). Zeros around a map become the
padding of the node that reads it. Nothing that computes is left out or changed: each value of the canonical graph holds
the same numbers as the value of that name in the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.graphs.graph import Graph, Node
from common.graphs.idioms import recognised
from common.graphs.order import in_order
from common.graphs.padding import surrounding, with_padding
from common.graphs.products import factor_of
from common.graphs.views import Arrange, Surround, View
from common.operations import Concat, Conv, Dense, GlobalAveragePool
from common.operations.activations import Softmax
from common.operations.arrays import Shape
from common.operations.moments import LayerNorm
from common.operations.operation import Operation
from common.operations.rearrangement import ELEMENTWISE, Rearrangement
from common.operations.reductions import Reduction

_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid")
CHANNELS_LAST = (0, 2, 3, 1)
"""A map as TensorFlow has it, from (N, C, H, W)."""


@dataclass(frozen=True)
class Canonical:
    """A graph in canonical layout, and where its values are in the original."""

    graph: Graph
    views: Mapping[str, View]
    """For each value that has an original: how the original is seen from it."""
    shapes: Mapping[str, Shape]
    axes: Mapping[str, tuple[int, ...]]
    """For each value of the original that is only transposed: how."""

    def values(self, recorded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values of the original, in the layout of this graph."""
        return {
            name: np.ascontiguousarray(view.undone(recorded[name]).reshape(self.shapes[name]))
            for name, view in self.views.items()
            if name in recorded and recorded[name].size == int(np.prod(self.shapes[name]))
        }


def canonical(
    graph: Graph, shapes: Mapping[str, Shape], axes: Mapping[str, tuple[int, ...]] | None = None
) -> Canonical:
    """A graph in canonical layout.

    Args:
        graph: as it was read.
        shapes: of all its values, as a run of it has them.
        axes: how inputs are transposed, by name; of the others it is seen from what reads them.
    """
    return _Reader(graph, shapes).read(axes or {})


class _Reader:
    """Reads a graph from its inputs on, and writes the canonical one.

    Each value of the original is *seen* from a canonical value of the same numbers by a `View`. A node that only moves
    numbers changes the view and adds no node. A node that computes adds a node of the same name, in one of three
    *frames*: an elementwise node has the frame of its largest input; a product has channels first; an unknown node has
    its inputs as in the original, with an `Arrange` node before it if that is another arrangement. A frame is `axes`
    such that the original is the canonical value transposed by `axes`.
    """

    def __init__(self, graph: Graph, shapes: Mapping[str, Shape]) -> None:
        self.graph, self.original = graph, {**shapes, **{name: c.shape for name, c in graph.constants.items()}}
        self.constants: dict[str, np.ndarray] = dict(graph.constants)
        self.seen: dict[str, tuple[str, View]] = {}
        """For each value of the original: the canonical value that it is seen from, and the view."""
        self.shapes: dict[str, Shape] = {}
        self.nodes: list[Node] = []
        self.padded: dict[str, tuple[str, Surround]] = {}
        """Canonical values that are another value with a border: the other value, and the border."""

    def read(self, axes: Mapping[str, tuple[int, ...]]) -> Canonical:
        nodes = in_order(self.graph)
        for name, shape in self.graph.inputs.items():
            way = axes.get(name, ())
            if len(way) != len(shape):
                last = len(shape) == 4 and _is_channels_last(name, nodes)
                way = CHANNELS_LAST if last else tuple(range(len(shape)))
            self._enter(name, self._untransposed(shape, way), way)
        inputs = dict(self.shapes)
        for node in nodes:
            self._read(node)
        outputs = tuple(self.seen[name][0] for name in self.graph.outputs if name in self.seen)
        graph = Graph(self.graph.name, tuple(self.nodes), inputs, self.constants, outputs, self.graph.opset)
        found = recognised(in_order(graph), self.constants, outputs)
        graph = replace(graph, nodes=tuple(found))
        kept = {*inputs, *(node.output for node in found)}
        views = {name: view for name, (own, view) in self.seen.items() if own == name and name in kept}
        turned = {name: view.axes for name, (_, view) in self.seen.items() if view.is_turned}
        return Canonical(graph, views, self.shapes, turned)

    def _enter(self, name: str, shape: Shape, axes: tuple[int, ...] | None = None) -> None:
        """Add a canonical value. The original of the same name is a transposition of it."""
        self.shapes[name] = tuple(shape)
        self.seen[name] = name, View.plain(tuple(shape)) if axes is None else View.turned(tuple(shape), axes)

    def _add(
        self,
        node: Node,
        operation: Operation | None,
        inputs: Sequence[str],
        shape: Shape,
        axes: tuple[int, ...] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        taken = node.parameters if parameters is None else parameters
        self.nodes.append(replace(node, operation=operation, inputs=tuple(inputs), parameters=dict(taken)))
        self._enter(node.output, shape, axes)

    # How a value is had in the shape that is wanted

    def _arranged(self, name: str, view: View, called: str) -> str:
        """A canonical value in another arrangement; the value itself, if the arrangement is the same."""
        if view.keeps_order and view.final == self.shapes[name]:
            return name
        made = next((n.output for n in self.nodes if n.operation == Arrange(view) and n.inputs == (name,)), None)
        if made is None:
            made = f"{called}/arranged {len(self.nodes)}"
            self.nodes.append(Node(made, "Arrange", Arrange(view), (name,), made))
            self.shapes[made] = view.final
            self.seen[made] = made, View.plain(view.final)
        return made

    def _as_it_is(self, value: str) -> str:
        """A value, or a constant, exactly as the original has it."""
        if value in self.constants:
            return value
        name, view = self.seen[value]
        return self._arranged(name, view, value)

    def _in_frame(self, value: str, axes: tuple[int, ...]) -> str:
        """The value of which the original is the transposition by `axes`, with the leading axes of length 1 that
        broadcasting adds."""
        back = tuple(int(axis) for axis in np.argsort(axes))
        shape = self.original[value]
        shape = (1,) * (len(axes) - len(shape)) + tuple(shape)
        if value in self.constants:
            if back == tuple(range(len(axes))) or self.constants[value].size == 1:
                return value
            self.constants[f"{value}/turned"] = self.constants[value].reshape(shape).transpose(back)
            return f"{value}/turned"
        name, view = self.seen[value]
        turned = view.reshaped(shape).transposed(back)
        if turned is None:
            name = self._arranged(name, view, value)
            turned = View.plain(shape).transposed(back)
            assert turned is not None
        return self._arranged(name, turned, value)

    def _frame(self, node: Node) -> tuple[int, ...]:
        """How the largest input of a node is transposed, among those with as many axes as its result."""
        rank = len(self.original.get(node.output, ()))
        values = [name for name in node.inputs if name in self.seen and len(self.original[name]) == rank]
        for name in sorted(values, key=lambda name: -int(np.prod(self.original[name]))):
            if self.seen[name][1].is_turned:
                return self.seen[name][1].axes
        return tuple(range(rank))

    def _untransposed(self, shape: Shape, axes: tuple[int, ...]) -> Shape:
        return tuple(shape[axis] for axis in np.argsort(axes))

    # Nodes

    def _read(self, node: Node) -> None:
        if node.kind == "Shape" and node.inputs[0] in self.original:
            self.constants[node.output] = np.asarray(self.original[node.inputs[0]], np.int64)
            return
        if isinstance(node.operation, Rearrangement) and all(name in self.constants for name in node.reads):
            found = node.operation.reference([self.constants[name] for name in node.inputs], {}).value
            self.constants[node.output], self.original[node.output] = found, found.shape
            return
        self.original.setdefault(node.output, ())  # where nothing in a run has it
        if any(name not in self.constants and name not in self.seen for name in node.reads):
            return
        handle = {
            "Transpose": self._transpose,
            "Pad": self._pad,
            "Concat": self._concat,
            "MatMul": self._product,
            "Gemm": self._product,
            "LayerNormalization": self._layer_norm,
        }.get(node.kind)
        if node.kind in _RESHAPES:
            name, view = self.seen[node.inputs[0]]
            self.seen[node.output] = name, view.reshaped(tuple(self.original[node.output]))
        elif handle and handle(node):
            return
        elif isinstance(node.operation, Reduction):
            self._reduction(node, node.operation)
        elif isinstance(node.operation, Softmax):
            axes = self._frame(node)
            operation = replace(node.operation, axis=axes[node.operation.axis])
            self._elementwise(replace(node, operation=operation))
        elif _is_elementwise(node):
            self._elementwise(node)
        else:
            self._windowed(node)

    def _elementwise(self, node: Node) -> None:
        computed = [name for name in node.inputs if name in self.seen]
        alone = len(computed) == 1 and all(self.constants[n].size == 1 for n in node.inputs if n not in computed)
        if alone and not self.seen[computed[0]][1].is_turned and not isinstance(node.operation, Softmax):
            name, view = self.seen[computed[0]]
            self._add(node, node.operation, [name if n in computed else n for n in node.inputs], self.shapes[name])
            self.seen[node.output] = node.output, view
            return
        axes = self._frame(node)
        inputs = [self._in_frame(name, axes) for name in node.inputs]
        self._add(node, node.operation, inputs, self._untransposed(self.original[node.output], axes), axes)

    def _transpose(self, node: Node) -> bool:
        assert isinstance(node.operation, Rearrangement)
        axes = node.operation.attributes.get("perm") or list(range(len(self.original[node.output])))[::-1]
        name, view = self.seen[node.inputs[0]]
        turned = view.transposed(tuple(axes))
        if turned is None:
            name = self._arranged(name, view, node.inputs[0])
            turned = View.plain(self.shapes[name]).transposed(tuple(axes))
        assert turned is not None
        self.seen[node.output] = name, turned
        return True

    def _pad(self, node: Node) -> bool:
        """A border around a map. It is remembered, so that the node that reads the map can pad by itself."""
        around = surrounding(node, self.constants, len(self.original[node.inputs[0]]))
        if around is None:
            return False
        axes = self._frame(node)
        operation = replace(around, sides=tuple(around.sides[axis] for axis in np.argsort(axes)))
        name = self._in_frame(node.inputs[0], axes)
        self._add(node, operation, [name], self._untransposed(self.original[node.output], axes), axes)
        self.padded[node.output] = name, operation
        return True

    def _concat(self, node: Node) -> bool:
        axes = self._frame(node)
        axis = 1 if isinstance(node.operation, Concat) else node.operation.attributes["axis"]  # type: ignore[union-attr]
        if axes[axis] != 1:
            return False
        inputs = [self._in_frame(name, axes) for name in node.inputs]
        self._add(node, Concat(), inputs, self._untransposed(self.original[node.output], axes), axes)
        return True

    def _reduction(self, node: Node, operation: Reduction) -> None:
        axes = self._frame(replace(node, output=node.inputs[0]))
        rank = len(axes)
        own = range(rank) if operation.axes is None else operation.axes
        over = tuple(sorted(axes[axis] for axis in own))
        name = self._in_frame(node.inputs[0], axes)
        kept = tuple(1 if axis in over else size for axis, size in enumerate(self.shapes[name]))
        changed: Operation = replace(operation, axes=over, keepdims=True)
        if node.kind == "ReduceMean" and rank == 4 and over == (2, 3):
            changed = GlobalAveragePool()
        self._add(node, changed, [name], kept, axes)
        self.seen[node.output] = node.output, self.seen[node.output][1].reshaped(tuple(self.original[node.output]))

    def _layer_norm(self, node: Node) -> bool:
        """A layer norm over the last axis of the original, wherever this axis is in the canonical layout."""
        axes = self._frame(node)
        rank, operation = len(axes), node.operation
        if not isinstance(operation, LayerNorm) or operation.axis % rank != rank - 1:
            return False
        name = self._in_frame(node.inputs[0], axes)
        changed = replace(operation, axis=axes[-1], only=True)
        self._add(node, changed, [name], self._untransposed(self.original[node.output], axes), axes)
        return True

    def _product(self, node: Node) -> bool:
        """A product with a constant matrix: a dense layer, or a 1×1 convolution if it is applied to every pixel."""
        found, value = factor_of(node, self.constants), node.inputs[0]
        if found is None or value in self.constants:
            return False
        (matrix, bias), (name, view) = found, self.seen[value]
        parameters = {"weight": f"{node.output}/weight"} | ({"bias": bias} if bias else {})
        units = len(matrix)
        if len(self.original[value]) == 2:
            batch = self.original[value][0]
            if not view.keeps_order:  # a flatten in another order, which its columns are put into
                if view.axes[0] != 0 or view.shape[0] != batch:
                    return False
                columns = View((units, *view.shape[1:]), view.axes, matrix.shape)
                matrix = columns.undone(matrix).reshape(matrix.shape)
            given = self._arranged(name, View.plain((batch, matrix.shape[1])), value)
            self._add(node, Dense(units), [given], (batch, units), parameters=parameters)
        elif view.is_turned and view.axes == CHANNELS_LAST and view.shape == self.shapes[name]:
            conv = Conv(1, filters=units, bias=bias is not None)
            matrix = matrix[:, :, None, None]
            shape = self._untransposed(self.original[node.output], CHANNELS_LAST)
            self._add(node, conv, [name], shape, CHANNELS_LAST, parameters)
        else:
            return False
        self.constants[parameters["weight"]] = np.ascontiguousarray(matrix)
        return True

    def _windowed(self, node: Node) -> None:
        """Windows over maps, and every node that no other method knows. Their inputs are as in the original."""
        inputs = [self._as_it_is(name) for name in node.inputs]
        operation = node.operation
        if inputs and inputs[0] in self.padded and operation is not None:
            before, around = self.padded[inputs[0]]
            wider = with_padding(operation, around, self._cannot_be_negative(before))
            if wider is not None:
                operation, inputs[0] = wider, before
        self._add(node, operation, inputs, tuple(self.original[node.output]))

    def _cannot_be_negative(self, name: str) -> bool:
        maker = next((node for node in self.nodes if node.output == name), None)
        low: Any = getattr(maker.operation, "low", None) if maker else None
        return maker is not None and (maker.kind in _NOT_NEGATIVE or (low is not None and low >= 0))


def _is_elementwise(node: Node) -> bool:
    return node.kind in ELEMENTWISE or (node.operation is not None and node.operation.elementwise)


def _is_channels_last(name: str, nodes: Sequence[Node]) -> bool:
    """Whether an input is transposed to channels first before any other node uses its axes."""
    for node in nodes:
        if name in node.inputs:
            if node.kind == "Transpose" and isinstance(node.operation, Rearrangement):
                return node.operation.attributes.get("perm") == [0, 3, 1, 2]
            if _is_elementwise(node) or node.kind == "Pad":
                return _is_channels_last(node.output, nodes)
    return False
