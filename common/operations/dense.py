"""The dense layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from common.operations.arrays import ELEMENTS_AT_ONCE, Arrays, Parameters, Shape, np
from common.operations.mistake import ORDERS, exchanged
from common.operations.onnx_node import OnnxGraph, Parameter
from common.operations.operation import FEATURES, Fit, Hypothesis, Observation, Operation, in_double
from common.operations.rounding import Gradients, Piece, Precision, Reference, summed
from common.operations.sums import (
    Summing,
    Sums,
    bias_mistakes,
    carried_by_products,
    of_shorter_factors,
    precision_mistakes,
    unit_mistakes,
    unit_of_products,
    weights_or_bias_fits,
)


@dataclass(frozen=True)
class Dense(Operation):
    """W·x + b."""

    units: int

    integers_before: ClassVar[int] = 1

    def output_shape(self, *inputs: Shape) -> Shape:
        self._only(inputs, FEATURES)
        return (self.units,)

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {"weight": (self.units, *self._only(inputs, FEATURES)), "bias": (self.units,)}

    def multiply_adds(self, *inputs: Shape) -> int:
        return self.units * self._only(inputs, FEATURES)[0]

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """As a convolution: |ŷ − y| ≤ γ_n (Σ|w·a| + |b|), n = fan-in + 1."""
        return Reference.joined((len(inputs[0]), self.units), self.pieces(inputs, parameters))

    def pieces(self, inputs: Arrays, parameters: Parameters, sums: Summing | None = None) -> Iterator[Piece]:
        """Some units each."""
        (features,), weight, bias = inputs, parameters["weight"], parameters.get("bias")
        sums = sums or Sums(weight, features)
        columns = sums.scaled(features, 1)
        units_at_once = max(1, 4 * ELEMENTS_AT_ONCE // weight.shape[1])
        for first in range(0, self.units, units_at_once):
            units = slice(first, first + units_at_once)
            rows = sums.scaled(weight[units], 0)
            products = [right @ left.T for left, right in zip(rows, columns, strict=True)]
            yield (slice(None), units), sums.reference(products, None if bias is None else bias[units], weight.shape[1])

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        return unit_of_products(inputs, parameters)

    def computed_at(self, reference: Reference, bound: np.ndarray, precision: Precision) -> np.ndarray:
        return of_shorter_factors(reference, bound, precision)

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        x, dy = in_double(inputs[0], dy)
        weight, batch = parameters["weight"], len(x)
        dx, magnitude = np.zeros_like(x), np.zeros_like(x)
        units_at_once = max(1, 4 * ELEMENTS_AT_ONCE // weight.shape[1])
        for first in range(0, self.units, units_at_once):
            units = slice(first, first + units_at_once)
            w = weight[units].astype(np.float64)
            dx += dy[:, units] @ w
            magnitude += np.abs(dy[:, units]) @ np.abs(w)
        return Gradients(
            [summed(self.units, dx, magnitude)],
            {
                "weight": summed(batch, dy.T @ x, np.abs(dy.T) @ np.abs(x)),
                "bias": summed(batch, dy.sum(0), np.abs(dy).sum(0)),
            },
        )

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return carried_by_products(self, errors, parameters)

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        values = graph.constants(name, weight=parameters["weight"], bias=parameters["bias"])
        return graph.node("Gemm", name, *inputs, *values, transB=1)

    def of_first(self, count: int, inputs: Arrays) -> tuple[Dense, Arrays] | None:
        return (replace(self, units=count), inputs) if self.units > count else None

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        weight = seen.parameters["weight"]
        yield from bias_mistakes(seen)
        if seen.flattened and seen.flattened[1:] != (1, 1):
            yield from _order_mistakes(seen, seen.flattened)
        yield from unit_mistakes(seen, "unit")
        if weight.shape[0] == weight.shape[1]:
            yield "the kernel's inputs and outputs are exchanged", exchanged(seen, weight=weight.T)
        for taken in (weight.reshape(weight.shape[::-1]).T, weight.T.reshape(weight.shape)):
            yield "the kernel is reshaped where it should be transposed", exchanged(seen, weight=taken)
        yield from precision_mistakes(seen)

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        yield from weights_or_bias_fits(seen, right)


def _order_mistakes(seen: Observation, flattened: Shape) -> Iterator[Hypothesis]:
    """A map is flattened in the framework's order P. The weights are in another, or were put into P from another."""
    weight, own = seen.parameters["weight"], ORDERS[seen.order]
    maps = weight.reshape(-1, *flattened)
    in_own = [len(weight), *(flattened[axis - 1] for axis in own[1:])]
    for order, axes in ORDERS.items():
        if order != seen.order:
            taken = maps.transpose(axes).reshape(in_own).transpose(np.argsort(own)).reshape(weight.shape)
            mistake = f"the weights are for a flatten in the order {order}, not {seen.order}"
            yield mistake, exchanged(seen, weight=taken)
    for order, axes in ORDERS.items():
        if order != "C, H, W" and (order, seen.order) != ("H, W, C", "H, W, C"):  # which is to leave them as they are
            turned = weight.reshape(-1, *(flattened[axis - 1] for axis in axes[1:]))
            taken = turned.transpose(np.argsort(axes)).reshape(weight.shape)
            mistake = f"the weights are reordered as if they were for a flatten in the order {order}"
            yield mistake, exchanged(seen, weight=taken)
