"""Which value of an export corresponds to which value of the graph that it was made from.

An exporter renames values and lists branches in another order. It multiplies a batch normalisation into the convolution
before it, and writes a dense layer as one node or as two. Both graphs are put into the order in which their outputs
need the nodes, and a longest common subsequence is found. A node that took others in has the value of the last of
these. A node without a counterpart cannot be judged, and bounds are carried over it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, Node
from common.graphs.order import in_order
from common.operations.arrays import Shape
from common.operations.rearrangement import Rearrangement

_ALIKE = {"Gemm": "MatMul"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
_FOLDED = {"BatchNormalization", *_ARITHMETIC}
"""Operators that exporters fold into the weights before them, if their other operands are constant."""
_OF_SHAPES = {"Shape", "Size"}
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

Token = tuple[str, int, tuple[tuple[int, ...], ...]]


def corresponding(specification: Graph, export: Graph) -> dict[str, str]:
    """The values of a specification that an export has, and their names in the export.

    Nodes that only move values are left out. They can be computed without an error.

    Raises:
        TriptychError: the export is of another graph. Only one of them has some layer with weights.
    """
    ours, theirs = _Side(specification), _Side(export)
    pairs = common_subsequence(ours.tokens, theirs.tokens)
    ours.require_every_layer({i for i, _ in pairs}, theirs)
    theirs.require_every_layer({j for _, j in pairs}, ours)
    matched = {ours.nodes[i].output for i, _ in pairs}, {theirs.nodes[j].output for _, j in pairs}
    values = {}
    for i, j in pairs:
        mine, other = ours.nodes[i], theirs.nodes[j]
        last, last_other = ours.last_of_chain(mine, matched[0]), theirs.last_of_chain(other, matched[1])
        if last is not mine and last_other is not other:  # both have something after it, written differently
            values[mine.output] = other.output
        values[last.output] = last_other.output
    return values | dict(zip(specification.outputs, export.outputs, strict=False))


class _Side:
    """One of the two graphs: the nodes that compute, and by what each is recognised."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = _constant_shapes(graph)
        self.nodes = [
            node
            for node in in_order(graph)
            if not isinstance(node.operation, Rearrangement) and node.output not in self.constants
        ]
        self.tokens = [self._token(node) for node in self.nodes]
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.reads:
                self.readers.setdefault(name, []).append(node)

    def _token(self, node: Node) -> Token:
        """The properties that a node must share with its counterpart: its kind, and the shapes of its weights,
        transposed or not."""
        constants = [self.constants[name] for name in node.reads if name in self.constants]
        weights = tuple(sorted(tuple(sorted(shape)) for shape in constants if len(shape) > 1))
        if node.kind in _ARITHMETIC:
            return node.kind, bool(constants), ()
        return _ALIKE.get(node.kind, node.kind), False, weights if node.kind in _WEIGHTED else ()

    def last_of_chain(self, node: Node, matched: set[str]) -> Node:
        """The last node of a chain after a node, without counterparts, that combines its value with constants only."""
        while len(after := self.readers.get(node.output, [])) == 1 and node.output not in self.graph.outputs:
            (reader,) = after
            others = [name for name in reader.reads if name != node.output]
            constant = all(name in self.constants for name in others)
            if reader.output in matched or reader.kind not in _FOLDED or not constant:
                break
            node = reader
        return node

    def require_every_layer(self, found: set[int], other: _Side) -> None:
        """Check that every node with a matrix of weights has a counterpart."""
        for place, (node, token) in enumerate(zip(self.nodes, self.tokens, strict=True)):
            if token[2] and place not in found:
                shapes = (self.constants[name] for name in node.reads if name in self.constants)
                shape = "×".join(map(str, next(shapes)))
                where = f" in {node.source}" if node.source else ""
                raise TriptychError(
                    f"{other.graph.name} has no counterpart of {node.name} ({node.kind}, weights {shape}){where} of "
                    f"{self.graph.name}: they are not the same graph; prove each by itself"
                )


def _constant_shapes(graph: Graph) -> dict[str, Shape]:
    """The shapes of constants, and of constants that are only rearranged, such as a transposed kernel.

    What follows from the shapes of values alone is constant too: another exporter writes the number. TorchScript's
    takes 1/√d from the shape of the queries, and makes a causal mask of it. Such values get the shape of a number here,
    since they are nobody's weights.
    """
    known, of_shapes = dict(graph.constants), set[str]()
    for node in graph.nodes:
        if isinstance(node.operation, Rearrangement) and all(name in known for name in node.reads):
            known[node.output] = node.operation.reference([known[name] for name in node.inputs], {}).value
        others = [name for name in node.reads if name not in known]
        if node.kind in _OF_SHAPES or (others and of_shapes.issuperset(others)):
            of_shapes.add(node.output)
    return {name: array.shape for name, array in known.items()} | dict.fromkeys(of_shapes, ())


def common_subsequence(ours: Sequence[Token], theirs: Sequence[Token]) -> list[tuple[int, int]]:
    """The places of a common subsequence in both: the one with the most layers with weights, and then the longest."""
    numbers: dict[Token, int] = {}
    a, b = (np.array([numbers.setdefault(t, len(numbers)) for t in tokens], np.int64) for tokens in (ours, theirs))
    lengths = np.zeros((len(a) + 1, len(b) + 1), np.int64)
    for i in range(len(a) - 1, -1, -1):
        gain = 1 + (len(a) if ours[i][2] else 0)
        here = np.maximum(np.where(b == a[i], lengths[i + 1, 1:] + gain, 0), lengths[i + 1, :-1])
        lengths[i, :-1] = np.maximum.accumulate(here[::-1])[::-1]
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        gain = 1 + (len(a) if ours[i][2] else 0)
        if a[i] == b[j] and lengths[i, j] == lengths[i + 1, j + 1] + gain:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1, j] >= lengths[i, j + 1]:
            i += 1
        else:
            j += 1
    return pairs
