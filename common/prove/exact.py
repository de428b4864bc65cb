"""The exact probe of any graph: integer weights, and integers before nodes with weights and after nodes that round.

As in the catalogue's probe (`common.probes.exact`), no weight is 0 and no weight meets a 0. All terms of a sum are
multiples of some power of two, which is read from the bits of the values. The sum stays below 2^24 times that power.
Integers are injected on single edges: for example, a normalisation reads integers whose variance is near its eps, while
a residual sum beside it reads the computed values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, Node, read_graph
from common.operations import BatchNorm, Operation
from common.operations.arithmetic import Multiply
from common.operations.moments import GroupNorm, LayerNorm
from common.operations.onnx_node import Unread
from common.operations.recurrent import Recurrent
from common.operations.rounding import EXACT_LIMIT, Reference, unit_of
from common.probes.exact import POSITIVE, SIGNED, WEIGHTS, all_different, drawn
from common.prove.judging import Expected

if TYPE_CHECKING:
    import onnx

POWERS = (-8, -4, -2, -1, 1, 2, 4, 8)
"""Numbers that a product with any other is exact with."""

MOST = 2**10
"""How large a value may become, in units of its quantum, before its readers get integers instead."""


@dataclass
class GraphProbe:
    """A model with other weights and cut edges, and the values that it must give."""

    model: onnx.ModelProto
    graph: Graph
    feeds: dict[str, np.ndarray]
    expected: Expected
    bounded: list[str] = field(default_factory=list)
    """The nodes that round."""
    missed: list[str] = field(default_factory=list)
    """Those of them that round on these numbers, not on all."""


def exact_probe(
    model: onnx.ModelProto, graph: Graph, recorded: Mapping[str, np.ndarray], *, seed: int = 0
) -> GraphProbe:
    """Integers for which every node that can be exact is.

    Args:
        model: from `read_model`.
        graph: what it holds.
        recorded: its inputs and its values elsewhere. They tell the shape of each value, and whether it can be
            negative. Inputs that are integers or truth values stay as they are.
        seed: of all numbers.
    """
    changed = copy.deepcopy(model)
    return _Maker(changed, graph, recorded, seed).make()


def is_exact(operation: Operation | None, reference: Reference, unit: float) -> bool:
    """Whether only one result is right: nothing is rounded.

    Args:
        operation: of the node.
        reference: its value.
        unit: the power of two that all terms of its sums are multiples of.
    """
    if reference.magnitude is None:
        return reference.bound is None
    if reference.magnitude.max(initial=0) < EXACT_LIMIT * unit:
        return True
    # A single product is exact in float64. If float32 has it, nothing rounds.
    is_product = isinstance(operation, Multiply)
    return is_product and np.array_equal(reference.value.astype(np.float32), reference.value)


class _Maker:
    def __init__(self, model: onnx.ModelProto, graph: Graph, recorded: Mapping[str, np.ndarray], seed: int) -> None:
        self.model, self.graph, self.recorded, self.seed = model, graph, recorded, seed
        self.constants = dict(graph.constants)
        self.changed: set[str] = set()
        self.feeds = {
            name: recorded[name] if name in graph.other_types else drawn(seed, name, SIGNED, shape)
            for name, shape in graph.inputs.items()
        }
        self.values: dict[str, np.ndarray] = dict(self.feeds)
        self.expected: dict[str, np.ndarray] = {}
        self.replaced: dict[str, str] = {}
        """The values whose readers get integers, and the names of these integers."""
        self.bounded: list[str] = []
        self.missed: list[str] = []
        self.kept: set[str] = set()
        """The weights of recurrent layers, whose gates integers would saturate, and what they are made of."""
        for node in reversed(graph.nodes):
            if isinstance(node.operation, Recurrent):
                self.kept.update(node.parameters.values())
            if node.output in self.kept:
                self.kept.update(node.reads)
        self.cuts: dict[tuple[str, str], str] = {}
        """For the value that a node makes and a value that it reads: the value that it reads instead."""

    def make(self) -> GraphProbe:
        for node in self.graph.nodes:
            self._add(node)
        self._write()
        expected = Expected(self.expected, self.values)
        graph = read_graph(self.graph.name, self.model)
        return GraphProbe(self.model, graph, self.feeds, expected, self.bounded, self.missed)

    def _add(self, node: Node) -> None:
        operation = node.operation
        names = [self._read(node, name) for name in node.inputs]
        for kind, name in node.parameters.items():
            self._change(name, operation, kind)
        for name in node.inputs:
            if name in self.constants and node.kind != "Resize":  # whose constants are how much it grows
                self._change(name, operation, "input")
        known = self.values | self.constants
        reference, unit = None, 0.0
        if operation is not None and all(name in known for name in (*names, *node.parameters.values())):
            inputs = [known[name] for name in names]
            parameters = {kind: known[name] for kind, name in node.parameters.items()}
            with suppress(TriptychError, Unread, ValueError, IndexError):  # which the judge will tell of it
                reference = operation.reference(inputs, parameters)
                unit = operation.unit(inputs, parameters) if reference.magnitude is not None else 0.0
        self._keep(node, reference, unit)

    def _keep(self, node: Node, reference: Reference | None, unit: float) -> None:
        """Keep the node's value, if it is exact. If it rounds or is too large, its readers get integers."""
        like = self.recorded.get(node.output)
        if reference is None:
            if like is not None and like.dtype == np.float32:
                self.values[node.output] = like
                self.replaced[node.output] = self._inject(f"{node.output}/injected", like)
            elif like is not None:
                self.values[node.output] = like
            return
        value = reference.value
        if np.issubdtype(value.dtype, np.floating):
            value = value.astype(np.float32 if like is None else like.dtype)
        self.values[node.output] = value
        if value.dtype != np.float32:
            return
        exact = is_exact(node.operation, reference, unit)
        if exact:
            self.expected[node.output] = value
        else:
            self.bounded.append(node.name)
            if reference.magnitude is not None:
                self.missed.append(node.name)
        grown = np.abs(value).max(initial=0) > MOST * unit_of(value)
        usable = exact and not grown and np.isfinite(value).all()
        if value.size > 1 and not usable and node.output not in self.kept:
            self.replaced[node.output] = self._inject(f"{node.output}/injected", value)

    def _read(self, node: Node, name: str) -> str:
        """The value that a node reads instead of another, if any."""
        value = self._value(name)
        operation = node.operation
        factor: float = operation.integers_before if operation else 0
        if isinstance(operation, LayerNorm | GroupNorm):  # a variance beside which eps is seen
            factor = 2.0 ** round(float(np.log2(np.sqrt(operation.eps) / 4)))
        among: tuple[int, ...] | None = None
        if isinstance(operation, Multiply) and any(self._is_long(other) for other in node.inputs):
            factor, among = 1, POWERS
        right_already = name in self.constants or (name in self.graph.inputs and factor == 1 and among is None)
        if factor and value is not None and value.dtype == np.float32 and value.size > 1 and not right_already:
            return self._cut(node, name, self._inject(f"{node.output}/reads/{name}", value, factor, among))
        return self._cut(node, name, self.replaced[name]) if name in self.replaced else name

    def _cut(self, node: Node, name: str, instead: str) -> str:
        self.cuts[node.output, name] = instead
        return instead

    def _value(self, name: str) -> np.ndarray | None:
        return self.constants.get(name, self.values.get(name))

    def _is_long(self, name: str) -> bool:
        """Whether a value is one constant number of many bits, such as 1/√96: a product with 3 rounds, with 4 not.

        Numbers up to `MOST` may be multiplied by it.
        """
        constant = self.constants.get(name)
        if constant is None or constant.dtype != np.float32 or constant.size != 1 or not constant.any():
            return False
        return bool(np.abs(constant).max() * MOST >= EXACT_LIMIT * unit_of(constant))

    def _inject(self, name: str, like: np.ndarray, factor: float = 1.0, among: tuple[int, ...] | None = None) -> str:
        if among is None:
            among = SIGNED if like.min(initial=0) < 0 else POSITIVE
        numbers = drawn(self.seed, name, among, like.shape) * np.float32(factor)
        self.feeds[name] = self.values[name] = numbers
        return name

    def _change(self, name: str, operation: Operation | None, kind: str) -> None:
        """Replace a weight by integers. A single number stays, such as the 0.5 of a GELU in several nodes."""
        old = self.constants.get(name)
        if old is None or name in self.changed | self.kept or old.dtype != np.float32 or old.size < 2:
            return
        self.changed.add(name)
        if kind == "weight" or kind == "input":
            new = drawn(self.seed, name, WEIGHTS, old.shape)
        elif kind == "gamma":
            new = drawn(self.seed, name, (-2, -1, 1, 2), old.shape)
        elif kind == "variance" and isinstance(operation, BatchNorm):
            new = drawn(self.seed, name, (1, 2, 3, 4), old.shape) * np.float32(operation.eps)
        elif kind == "mean":
            new = all_different(self.seed, name, 256, old.shape) / np.float32(256)
        else:
            new = all_different(self.seed, name, 1024 if isinstance(operation, BatchNorm) else 1, old.shape)
        self.constants[name] = new

    def _write(self) -> None:
        """Put weights and cuts into the model."""
        from onnx import helper, numpy_helper

        for tensor in self.model.graph.initializer:
            if tensor.name in self.changed:
                tensor.CopyFrom(
                    numpy_helper.from_array(np.asarray(self.constants[tensor.name], order="C"), tensor.name)
                )
        for proto in self.model.graph.node:
            made = [name for name in proto.output if name]
            for place, name in enumerate(proto.input):
                instead = next((self.cuts[output, name] for output in made if (output, name) in self.cuts), None)
                proto.input[place] = instead or name
        self.model.graph.input.extend(
            helper.make_tensor_value_info(name, 1, array.shape)
            for name, array in self.feeds.items()
            if name not in self.graph.inputs
        )
        del self.model.graph.value_info[:]
