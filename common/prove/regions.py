"""Judges a value when some values before it were never recorded.

A runtime that fuses nodes makes only the last value. One operation of a framework may be several nodes of the graph.
Such a region is computed here in float64 from the last recorded values. The error that a float32 implementation may
have is carried through it (`Operation.carried`): each node adds its own bound to the error that reaches it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, Node
from common.operations import Shape
from common.operations.arithmetic import Add, Divide, Multiply, Subtract
from common.operations.batch_norm import BatchNorm
from common.operations.evaluation import with_overflow
from common.operations.onnx_node import Unread
from common.operations.operation import Operation
from common.operations.rounding import (
    ELEMENTARY_ULP,
    EXACT_LIMIT,
    FP32,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Precision,
    Reference,
    gamma,
)

Value = tuple[np.ndarray, np.ndarray | None]
"""A value and its possible error; None if the runtime recorded the value."""


_ARRANGES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


class Unknown(Exception):
    """The reason why the right value is not known."""


class Known:
    """The values of a graph: recorded, or computed from recorded ones."""

    def __init__(
        self,
        graph: Graph,
        recorded: Mapping[str, np.ndarray],
        precision: Precision = FP32,
        on_cpu: Collection[str] = (),
    ) -> None:
        self.graph, self.recorded = graph, recorded
        self.precision, self.on_cpu = precision, frozenset(on_cpu)
        """What the runtime computes in, and the values that it computes on the CPU all the same."""
        self.makers = graph.makers()
        self.arranged = {node.inputs[0]: node for node in graph.nodes if node.kind in _ARRANGES}
        """For a value, a node that only moves its elements."""
        self._computed: dict[str, Value] = {}
        self.accumulates = False
        """Whether a product may start from what is added to it: see `accumulated`."""
        self.fixed = set(graph.constants)
        """The values that do not depend on the inputs of the model."""

    def precision_of(self, node: Node) -> Precision:
        """What a node is computed in."""
        return FP32 if node.output in self.on_cpu else self.precision

    def is_computed(self, name: str) -> bool:
        """Whether a node makes it, from the inputs of the graph or from its weights."""
        return name in self.makers

    def value(self, name: str) -> Value:
        """One value.

        Raises:
            Unknown: it was not recorded and cannot be computed.
        """
        if name in self.recorded:
            return self.recorded[name], None
        if name not in self._computed:
            if name not in self.makers:
                raise Unknown(f"{name} was not recorded")
            node = self.makers[name]
            found = self.reference(node)
            value = found.value
            error = np.zeros(value.shape) if found.bound is None or self._sums_exactly(node, found) else found.bound
            if self.fixed.issuperset(node.reads):
                self.fixed.add(name)
            if np.issubdtype(value.dtype, np.floating):
                value, error = self._rounded(node, value, error)
            self._computed[name] = value, error
        return self._computed[name]

    def _rounded(self, node: Node, value: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The float32 number that stands for a value in what follows, and its error.

        A value that follows from infinite ones, as −∞ from the mask of an attention, is infinite in float32 too, if
        what else it follows from is known up to finite errors. One that follows from finite ones, as 1 ÷ 0, is only if
        these are known exactly.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = value.astype(np.float32)
            error = error + np.where(rounded == value, 0, np.abs(rounded - value))
        inputs = [self.value(name) for name in node.inputs]
        errors = [found for _, found in inputs if found is not None]
        infinite = any(np.isinf(given).any() for given, _ in inputs)
        if all(np.isfinite(found).all() if infinite else not found.any() for found in errors):
            error = np.where(np.isinf(value), 0, error)
        return rounded, error

    def _sums_exactly(self, node: Node, found: Reference) -> bool:
        """Whether it adds constants without rounding in float32, as in the mask of an attention."""
        if node.operation is None or found.magnitude is None or not self.fixed.issuperset(node.reads):
            return False
        inputs, parameters = [self.certain(name) for name in node.inputs], {}
        for kind, name in node.parameters.items():
            parameters[kind] = self.certain(name)
        known = [array for array in (*inputs, *parameters.values()) if array is not None]
        if len(known) < len(node.reads):
            return False
        unit = node.operation.unit(known[: len(inputs)], dict(zip(parameters, known[len(inputs) :], strict=True)))
        return bool(found.magnitude.max(initial=0) < EXACT_LIMIT * unit)

    def certain(self, name: str) -> np.ndarray | None:
        """A value that was recorded, or that follows from recorded values without an error; else None."""
        try:
            value, error = self.value(name)
        except (Unknown, TriptychError, ValueError, IndexError):  # the latter of values that do not fit each other
            return None
        return value if error is None or not error.any() else None

    def reference(self, node: Node) -> Reference:
        """The right value of a node, and its largest error, with the errors of its inputs.

        Raises:
            Unknown: it has no bound, or cannot carry errors on.
        """
        if node.operation is None:
            raise Unknown(node.why or f"no bound has been derived for {node.kind}")
        operation, given = self.given(node)
        parameters, doubts = self.parameters(node)
        inputs = [value for value, _ in given]
        errors = [np.zeros(value.shape) if error is None else error for value, error in given]
        certain = not doubts and not any(error.any() for error in errors)
        try:
            reference = operation.reference(inputs, parameters)
            if np.issubdtype(reference.value.dtype, np.floating):
                if reference.bound is None:
                    reference = replace(reference, value=reference.value.astype(np.float32))
                if certain and reference.value.size:
                    reference = with_overflow(operation, inputs, parameters, reference)
            reference = operation.at_precision(reference, self.precision_of(node), inputs, parameters)
        except Unread as reason:
            raise Unknown(str(reason)) from None
        if certain:
            return reference
        carried = self._carried(operation, inputs, errors, parameters, reference, doubts)
        if self.accumulates and isinstance(operation, Add) and carried.bound is not None:
            return replace(carried, bound=carried.bound + self._of_what_is_added(node))
        return carried

    def parameters(self, node: Node) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The parameters of a node, and the errors of those that have one."""
        found = {kind: self.value(name) for kind, name in node.parameters.items()}
        errors = {kind: error for kind, (_, error) in found.items() if error is not None and error.any()}
        return {kind: value for kind, (value, _) in found.items()}, errors

    def given(self, node: Node) -> tuple[Operation, list[Value]]:
        """The operation of a node, and its inputs, among which may be its output, if that is known.

        Raises:
            Unknown: an input was not recorded and cannot be computed.
        """
        assert node.operation is not None
        given = [self.value(name) for name in node.inputs]
        fed_back = node.operation.given_itself()
        if fed_back is None:
            return node.operation, given
        itself = self._itself(node.output, fed_back.output_shape(given[0][0].shape))
        return (node.operation, given) if itself is None else (fed_back, [*given, (itself, None)])

    def _itself(self, name: str, shape: Shape) -> np.ndarray | None:
        """What a runtime computed as a value of some shape, if that was recorded, also in another arrangement."""
        if name in self.recorded or prod(shape) > EXACT_LIMIT:
            return self.recorded.get(name)
        places = np.arange(prod(shape), dtype=np.float32).reshape(shape)
        while name not in self.recorded:
            if name not in self.arranged:
                return None
            node = self.arranged[name]
            assert node.operation is not None
            others = [self.value(read)[0] for read in node.inputs[1:]]
            places, name = node.operation.reference([places, *others], {}).value, node.output
        if self.recorded[name].shape != places.shape:
            return None
        found = np.empty(shape, np.float32)
        found.reshape(-1)[places.astype(int)] = self.recorded[name]
        return found

    def _carried(
        self,
        operation: Operation,
        inputs: list[np.ndarray],
        errors: list[np.ndarray],
        parameters: Mapping[str, np.ndarray],
        reference: Reference,
        doubts: Mapping[str, np.ndarray],
    ) -> Reference:
        try:
            carried = operation.carried_from(inputs, errors, parameters, doubts)
        except (NotImplementedError, Unread) as error:
            raise Unknown(str(error)) from None
        if not np.issubdtype(reference.value.dtype, np.floating) and not carried.any():
            return reference
        own = 0.0 if reference.bound is None else reference.bound
        bound = np.broadcast_to(own + carried, reference.value.shape) + SMALLEST_NORMAL
        return Reference(reference.value.astype(np.float64), bound)

    def _of_what_is_added(self, node: Node) -> np.ndarray | float:
        """The error of a sum whose terms are those of a product, and what is added to it: see `accumulated`."""
        own: np.ndarray | float = 0.0
        for place, name in enumerate(node.inputs):
            terms = self._terms(name)
            for other in (*node.inputs[:place], *node.inputs[place + 1 :]) if terms else ():
                value, error = self.value(other)
                own = own + gamma(terms + 2) * (np.abs(value.astype(np.float64)) + (0 if error is None else error))
        return own

    def _terms(self, name: str) -> int:
        """How many products are summed in a value that was not recorded, with scales and shifts after; else 0."""
        while name not in self.recorded and name in self.makers:
            node = self.makers[name]
            weight = self.recorded.get(node.parameters.get("weight", ""))
            if weight is not None and node.kind == "Conv":
                return weight.size // len(weight)
            if node.kind in ("Gemm", "MatMul"):
                return int(self.value(node.inputs[0])[0].shape[-1])
            varying = [read for read in node.inputs if read not in self.fixed]
            if len(varying) != 1 or not isinstance(node.operation, Add | BatchNorm | Multiply | Subtract):
                return 0
            name = varying[0]
        return 0


def accumulated(node: Node, known: Known) -> Reference | None:
    """The reference of a node after a sum with a product that was not recorded.

    A runtime that adds a value r to a convolution may start the convolution's sum with it. Then r is in each partial
    sum of the n products and the bias, and is off by γ_(n+2) of itself at the end, not only by one rounding.
    """
    if known.recorded.keys() >= set(node.reads):
        return None
    other = Known(known.graph, known.recorded, known.precision, known.on_cpu)
    other.accumulates = True
    return other.reference(node)


def unrounded(node: Node, known: Known, reference: Reference) -> Reference | None:
    """The reference of a node that a runtime may have fused with those before it.

    A recorded value was rounded to float32. A fused kernel need not round there, or may multiply a factor elsewhere:
    instead of x·s, it may scale the product that reads it. So each computed input may be off by γ_2 of itself.
    """
    if node.operation is None or reference.bound is None:
        return None
    operation, known_inputs = known.given(node)
    inputs = [value for value, _ in known_inputs]
    parameters, doubts = known.parameters(node)
    errors = [
        (0 if error is None else error)
        + (2 * UNIT_ROUNDOFF * known.is_computed(name) * np.abs(value.astype(np.float64)))
        for name, (value, error) in zip((*node.inputs, node.output), known_inputs, strict=False)
    ]
    try:
        found = operation.reference(inputs, parameters)
        own = operation.at_precision(found, known.precision_of(node), inputs, parameters).bound
        carried = operation.carried_from(inputs, errors, parameters, doubts)
    except (NotImplementedError, Unread):
        return None
    return replace(reference, bound=(0.0 if own is None else own) + carried)


def reassociated(node: Node, known: Known) -> Reference | None:
    """The last of several products and sums with constants, in another order: x·s + (b − m·s) for (x − m)·s + b.

    Whatever the order, the result is a sum of products: of x, or of a constant that is added, with the factors that
    come after it. Each product meets every factor and every sum once at most, and a division may be one by a rounded
    reciprocal, so that it is off by γ_n of its own size, n being the number of operations, of divisions twice that.

    Where there are factors, the graph's may not be the runtime's own: of a batch normalisation, an exporter has
    computed g / √(v + ε) in float32, and the runtime does that itself. The sum is off by 1, half of which the root
    passes on, the root by E = `ELEMENTARY_ULP`, the quotient and the product with g by 1 each: less than E + 3 for
    both, hence 2 (E + 3) for all that is multiplied by it, and nothing for a shift that is added after.

    None if the node is no such, or if what it reads was recorded. A WebGPU shader's quotients are not derived here.
    """
    if known.precision_of(node).shader:
        return None
    steps = roundings = 0

    def follow(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """The value without rounding, the sum of the magnitudes of all terms, that of the terms with a factor, and
        underflow."""
        nonlocal steps, roundings
        if name in known.recorded and name != node.output:
            x = known.recorded[name].astype(np.float64)
            return x, np.abs(x), np.zeros(x.shape), np.zeros(x.shape)
        maker = known.makers.get(name)
        constants = [known.certain(read) if read in known.fixed else None for read in maker.inputs] if maker else []
        if maker is None or len(constants) != 2 or sum(constant is None for constant in constants) != 1:
            return None
        place = 0 if constants[0] is None else 1
        found, constant = follow(maker.inputs[place]), constants[1 - place]
        if found is None or constant is None:
            return None
        (value, size, scaled, lost), c = found, constant.astype(np.float64)
        divides = isinstance(maker.operation, Divide)
        steps, roundings = steps + 1, roundings + 1 + divides
        match maker.operation:
            case Add():
                return value + c, size + np.abs(c), scaled, lost + SMALLEST_NORMAL
            case Subtract():
                return (value - c if place == 0 else c - value), size + np.abs(c), scaled, lost + SMALLEST_NORMAL
            case Multiply():
                factor = c
            case Divide() if place == 0:
                factor = 1 / c
            case _:
                return None
        size = size * np.abs(factor)
        lost = lost * np.abs(factor) + SMALLEST_NORMAL * (1 + np.abs(factor) + size)
        return value * factor, size, size, lost

    found = follow(node.output)
    if found is None or steps < 2:
        return None
    value, size, scaled, lost = found
    of_factors = gamma(2 * (ELEMENTARY_ULP + 3) + roundings) - gamma(roundings)
    return Reference(value, gamma(roundings) * size + of_factors * scaled + lost)
