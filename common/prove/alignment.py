"""Which node of one network corresponds to which of another, whatever their names and layouts are.

Both graphs are in canonical layout (`common.graphs.canonical`). The nodes that compute are compared by operation, shape
of the weights and channels, and a longest common subsequence of them is found. Branches are visited in an order that
their own structure gives. The remaining nodes are aligned by what they read and by what reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from zlib import crc32

import numpy as np

from common.graphs import Graph, Node
from common.graphs.canonical import Canonical
from common.graphs.order import in_order
from common.graphs.views import Arrange, Surround
from common.operations import BatchNorm, Conv, Dense
from common.operations.conv_nd import ConvND, ConvTranspose
from common.operations.rearrangement import LINEAR, Rearrangement
from common.prove.matching import Token, common_subsequence

_NEAR = 5
"""How many nodes upwards the structure of a branch is compared. Fewer than usually lie between two differences."""


@dataclass(frozen=True)
class Pair:
    """A node of the first network and its counterpart in the second."""

    first: Node
    second: Node
    after: Node | None = None
    """The convolution of the second, if `second` is a batch normalisation that is folded in the first."""


@dataclass(frozen=True)
class Unaligned:
    """A node that only one of the two networks has, and the most similar node of the other."""

    node: Node
    nearest: Node | None


@dataclass(frozen=True)
class Alignment:
    """Two networks, aligned."""

    first: Graph
    """The first network. A batch normalisation that the second has folded into its weights is folded here, too."""
    second: Graph
    pairs: tuple[Pair, ...]
    only_first: tuple[Unaligned, ...]
    only_second: tuple[Unaligned, ...]

    @property
    def values(self) -> dict[str, str]:
        """The second network's name of a value of the first."""
        inputs = dict(zip(self.first.inputs, self.second.inputs, strict=False))
        return inputs | {pair.first.output: pair.second.output for pair in self.pairs}


def align(first: Canonical, second: Canonical) -> Alignment:
    """Align two networks."""
    graph = first.graph
    ours, theirs = _Side(graph, first.shapes), _Side(second.graph, second.shapes)
    found = common_subsequence(ours.tokens, theirs.tokens)
    partners = {ours.nodes[i].output: theirs.nodes[j] for i, j in found}
    _complete(ours, theirs, partners)
    graph, partners, after = _folded(graph, ours, theirs, partners)
    ours = _Side(graph, first.shapes)
    pairs = tuple(
        Pair(node, partners[node.output], after.get(node.output)) for node in ours.nodes if node.output in partners
    )
    taken = {node.output for node in partners.values()} | {node.output for node in after.values()}
    left = [node for node in ours.nodes if node.output not in partners]
    others = [node for node in theirs.nodes if node.output not in taken]
    return Alignment(
        graph,
        second.graph,
        pairs,
        tuple(Unaligned(node, _nearest(node, ours, others, theirs)) for node in left),
        tuple(Unaligned(node, _nearest(node, theirs, left, ours)) for node in others),
    )


def moves_only(node: Node) -> bool:
    """Whether a node computes nothing."""
    moved = isinstance(node.operation, Rearrangement) and node.operation.operator in LINEAR
    return moved or isinstance(node.operation, Arrange | Surround)


def source_of(graph: Graph, name: str, makers: Mapping[str, Node] | None = None) -> str:
    """The value that another value is a view of."""
    makers = graph.makers() if makers is None else makers
    while name in makers and moves_only(makers[name]) and makers[name].inputs:
        (name, *_) = makers[name].inputs
    return name


def weights_of(node: Node, graph: Graph) -> np.ndarray | None:
    """The matrix or the kernels that a node multiplies by."""
    if "weight" in node.parameters:
        return graph.constants.get(node.parameters["weight"])
    if node.kind in ("MatMul", "Gemm"):
        return next(
            (graph.constants[n] for n in node.inputs if n in graph.constants and graph.constants[n].ndim > 1), None
        )
    return None


class _Side:
    """One of the two networks: the nodes that compute, and by what each is recognised."""

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.graph, self.shapes = graph, shapes
        self.makers = graph.makers()
        self.key = lru_cache(maxsize=None)(self._key)
        self.nodes = [node for node in in_order(graph, self._turns) if not moves_only(node)]
        self.of = {node.output: self.token(node) for node in self.nodes}
        self.tokens = [self.of[node.output] for node in self.nodes]
        self.reading: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in self.sources(node):
                self.reading.setdefault(name, []).append(node)

    def token(self, node: Node) -> Token:
        """The properties that a node must share with its counterpart."""
        weight = weights_of(node, self.graph)
        shape = self.shapes.get(node.output, ())
        channels = shape[1] if len(shape) in (2, 4) else shape[-1] if shape else 0
        if weight is None:
            constant = any(name in self.graph.constants for name in node.inputs)
            return f"{node.kind} with a constant" if constant else node.kind, channels, ()
        if isinstance(node.operation, ConvTranspose):
            return node.kind, channels, (weight.shape,)
        own = weight.shape if isinstance(node.operation, Conv | ConvND | Dense) else weight.shape[::-1]
        sizes = own[:2] if set(own[2:]) <= {1} else own  # a 1×1 convolution is a dense layer of every pixel
        return "product", 0, (sizes,)

    def source(self, name: str) -> str:
        return source_of(self.graph, name, self.makers)

    def sources(self, node: Node) -> list[str]:
        """The computed values that a node reads."""
        return [self.source(name) for name in node.inputs if name not in self.graph.constants]

    def readers(self, node: Node) -> list[Node]:
        return self.reading.get(node.output, [])

    def _turns(self, node: Node) -> Sequence[str]:
        names = [name for name in node.reads if name in self.makers]
        return sorted(names, key=lambda name: self.key(name, _NEAR)) if len(names) > 1 else names

    def _key(self, name: str, depth: int) -> int:
        """A number for the structure before a value, a few nodes upwards."""
        node = self.makers.get(self.source(name))
        if node is None or not depth:
            return 0
        before = sorted(self.key(read, depth - 1) for read in self.sources(node))
        return crc32(repr((self.token(node), before)).encode())


def _complete(ours: _Side, theirs: _Side, partners: dict[str, Node]) -> None:
    """Align the nodes that are not in the common subsequence, one at a time, until no more can be aligned.

    First nodes with the same operation and an aligned neighbour on one side: before or after. Then nodes of different
    kinds in the same place, with aligned neighbours on both sides. So another operation is one node that differs, not
    two without a counterpart. Nodes with weights are not aligned in this second way.
    """

    def same(one: Node, other: Node) -> bool:
        return ours.of[one.output] == theirs.of[other.output]

    def weightless(one: Node, other: Node) -> bool:
        return not (ours.of[one.output][2] or theirs.of[other.output][2])

    for fits, both in ((same, False), (weightless, True)):
        while _extended(ours, theirs, partners, fits, both):
            pass


def _extended(
    ours: _Side, theirs: _Side, partners: dict[str, Node], fits: Callable[[Node, Node], bool], both: bool
) -> bool:
    """Align one more node, for which there is exactly one candidate; returns whether there was one.

    Args:
        ours: the first network.
        theirs: the second.
        partners: the aligned nodes, to which the new one is added: the second's node by the first's value.
        fits: whether two nodes may be each other's counterpart.
        both: whether the neighbours on both sides must be aligned; else one side is enough.
    """
    taken = {node.output for node in partners.values()}
    names = dict(zip(ours.graph.inputs, theirs.graph.inputs, strict=False))
    names |= {output: node.output for output, node in partners.items()}
    for node in ours.nodes:
        if node.output in partners:
            continue
        reads = [names.get(name) for name in ours.sources(node)]
        readers = {partners[r.output].output for r in ours.readers(node) if r.output in partners}
        place = _Place(reads, readers, last=not ours.readers(node))
        free = [other for other in theirs.nodes if other.output not in taken and fits(node, other)]
        candidates = [other for other in free if place.is_of(other, theirs, both)]
        if len(candidates) == 1:
            partners[node.output] = candidates[0]
            return True
    return False


@dataclass(frozen=True)
class _Place:
    """The place of a node of the first network, in the names of the second."""

    reads: Sequence[str | None]
    """The values that it reads; None for a value without a counterpart."""
    readers: Collection[str]
    """The values of its readers, as far as these have counterparts."""
    last: bool
    """Whether nothing reads it."""

    def is_of(self, other: Node, theirs: _Side, both: bool) -> bool:
        """Whether a node of the second has the same place: the same neighbours before and after it, or on one side."""
        before = _alike(self.reads, theirs.sources(other))
        readers = {reader.output for reader in theirs.readers(other)}
        after = bool(self.readers) and readers.issuperset(self.readers)
        return (before and (after or (self.last and not readers))) if both else (before or after)


def _alike(names: Sequence[str | None], others: Sequence[str | None]) -> bool:
    """Whether both are the same values in any order, and all are known."""
    return bool(names) and None not in names and Counter(names) == Counter(others)


def _folded(
    graph: Graph, ours: _Side, theirs: _Side, partners: dict[str, Node]
) -> tuple[Graph, dict[str, Node], dict[str, Node]]:
    """Fold the first's batch normalisations that the second has folded into the convolution before.

    Returns the first network, the partners, and the convolutions of the second whose normalisations are partners.
    """
    after: dict[str, Node] = {}
    taken = {node.output for node in partners.values()}
    constants = dict(graph.constants)
    changed: dict[str, Node | None] = {}
    for node in ours.nodes:
        other = partners.get(node.output)
        if other is None or not isinstance(node.operation, Conv | Dense):
            continue
        norm, their_norm = _norm_after(node, ours), _norm_after(other, theirs)
        if norm and norm.output not in partners and not (their_norm and their_norm.output not in taken):
            changed[node.output], changed[norm.output] = None, _multiplied(node, norm, constants)
            partners[norm.output] = partners.pop(node.output)
        elif their_norm and their_norm.output not in taken and not (norm and norm.output not in partners):
            after[node.output], partners[node.output] = other, their_norm
    nodes = (changed.get(node.output, node) for node in graph.nodes)
    return replace(graph, nodes=tuple(n for n in nodes if n is not None), constants=constants), partners, after


def _norm_after(node: Node, side: _Side) -> Node | None:
    readers = side.readers(node)
    alone = len(readers) == 1 and node.output not in side.graph.outputs
    return readers[0] if alone and isinstance(readers[0].operation, BatchNorm) else None


def _multiplied(node: Node, norm: Node, constants: dict[str, np.ndarray]) -> Node:
    """A layer with the batch normalisation after it folded into its weights, in float64, rounded once."""
    assert isinstance(norm.operation, BatchNorm)
    of = {kind: constants[name].astype(np.float64) for kind, name in norm.parameters.items()}
    scale = of["gamma"] / np.sqrt(of["variance"] + norm.operation.eps)
    weight = constants[node.parameters["weight"]].astype(np.float64)
    bias = constants[node.parameters["bias"]].astype(np.float64) if "bias" in node.parameters else 0.0
    parameters = {kind: f"{norm.output}/folded {kind}" for kind in ("weight", "bias")}
    constants[parameters["weight"]] = (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
    constants[parameters["bias"]] = ((bias - of["mean"]) * scale + of["beta"]).astype(np.float32)
    operation = replace(node.operation, bias=True) if isinstance(node.operation, Conv) else node.operation
    name = f"{node.name} with {norm.name}"
    return replace(node, name=name, operation=operation, output=norm.output, parameters=parameters)


def _nearest(node: Node, side: _Side, among: Sequence[Node], other: _Side) -> Node | None:
    """The node of the other network that is most similar to a node, among those without a counterpart."""

    def likeness(candidate: Node) -> float:
        one, two = side.of.get(node.output), other.of.get(candidate.output)
        if one is None or two is None:
            return 0.0
        shapes = len(set(_sizes(one)) & set(_sizes(two))) / max(len(set(_sizes(one)) | set(_sizes(two))), 1)
        return 2.0 * (one[0] == two[0]) + (one[1] == two[1]) + shapes

    best = max(among, key=likeness, default=None)
    return best if best is not None and likeness(best) > 1 else None


def _sizes(token: Token) -> Iterator[int]:
    for shape in token[2]:
        yield from shape
