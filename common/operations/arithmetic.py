"""Arithmetic, element by element. Arrays of different shapes are broadcast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import ClassVar

from common.errors import TriptychError
from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.mistake import exchanged, factor_fits
from common.operations.onnx_node import OnnxGraph, OnnxNode, Parameter
from common.operations.onnx_table import reads
from common.operations.operation import (
    ArrayOperation,
    Fit,
    Found,
    Hypothesis,
    Observation,
    Operation,
    are_integers,
    in_double,
)
from common.operations.rounding import (
    CARRIED,
    ELEMENTARY_ULP,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Gradients,
    Reference,
    chosen,
    gamma,
    unit_of,
)
from common.operations.wgsl import QUOTIENT, ROOT, check_divisor, check_domain, of_power


@reads("Add", "Sum")
@dataclass(frozen=True)
class Add(Operation):
    """The sum of its inputs, element by element."""

    elementwise: ClassVar[bool] = True
    ufunc: ClassVar[str | None] = "add"
    channelwise: ClassVar[bool] = True
    rounds_once: ClassVar[bool] = False

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(set(self._every(inputs))) != 1:
            raise TriptychError(f"maps of different shapes cannot be added: {', '.join(map(str, inputs))}")
        return inputs[0]

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """m − 1 additions of m inputs: |ŷ − y| ≤ γ_(m−1) Σ|x|."""
        if are_integers(inputs):
            return Reference(reduce(np.add, inputs))
        arrays = in_double(*inputs)
        value = reduce(np.add, arrays)
        magnitude = reduce(np.add, map(np.abs, arrays))
        return Reference(value, gamma(max(len(inputs) - 1, 1)) * magnitude + len(inputs) * SMALLEST_NORMAL, magnitude)

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        return Gradients([chosen(dy.astype(np.float64)) for _ in inputs])

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * reduce(np.add, errors)

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        shapes = {node.shapes.get(name) for name in node.inputs}
        operation = cls() if len(shapes) == 1 and None not in shapes else BroadcastAdd()
        return Found(operation, tuple(range(len(node.inputs))))

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        return graph.node("Add", name, *inputs)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        inputs = [x.astype(np.float64) for x in seen.inputs]
        for number, x in enumerate(inputs, start=1):
            yield f"only operand {number} of {len(inputs)} is there", partial(Reference, x)
        for number, x in enumerate(seen.inputs):
            others = [*seen.inputs[:number], np.maximum(x, 0), *seen.inputs[number + 1 :]]
            mistake = f"a ReLU is applied to operand {number + 1} before the addition"
            yield mistake, exchanged(seen, None, others)
        if len(inputs) == 2:
            (left, right), (x, y) = inputs, seen.inputs
            yield "operand 2 is subtracted", exchanged(seen, None, [x, -y])
            yield "operand 1 is subtracted", exchanged(seen, None, [-x, y])
            yield "the operands are multiplied", partial(Reference, left * right, gamma(1) * np.abs(left * right))
            yield "the larger operand is taken", partial(Reference, np.maximum(left, right))
            half = (left + right) / 2
            yield "the operands are averaged", partial(Reference, half, gamma(2) * (np.abs(left) + np.abs(right)))

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        for number, x in enumerate(seen.inputs, start=1):
            others = Reference(right.value - x, right.bound)
            yield from factor_fits(seen, others, x.astype(np.float64), f"operand {number} is")


@dataclass(frozen=True)
class BroadcastAdd(ArrayOperation, Add):
    """The sum of arrays of different shapes. Each is repeated along the axes that it lacks, as in ONNX."""

    channelwise: ClassVar[bool] = False


@reads("Sub")
@dataclass(frozen=True)
class Subtract(ArrayOperation):
    """x − y."""

    elementwise: ClassVar[bool] = True
    ufunc: ClassVar[str | None] = "subtract"

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """One operation: |ŷ − y| ≤ γ_1 (|x| + |y|)."""
        if are_integers(inputs):
            return Reference(np.subtract(*inputs))
        x, y = in_double(*inputs)
        magnitude = np.abs(x) + np.abs(y)
        return Reference(x - y, gamma(1) * magnitude + SMALLEST_NORMAL, magnitude)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * (errors[0] + errors[1])

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        x, y = seen.inputs
        yield "the operands are exchanged", exchanged(seen, None, [y, x])
        yield "the operands are added", exchanged(seen, None, [x, -y])


@reads("Mul")
@dataclass(frozen=True)
class Multiply(ArrayOperation):
    """x · y."""

    elementwise: ClassVar[bool] = True
    ufunc: ClassVar[str | None] = "multiply"

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """One operation: |ŷ − y| ≤ u |y|."""
        if are_integers(inputs):
            return Reference(np.multiply(*inputs))
        x, y = in_double(*inputs)
        value = x * y
        return Reference(value, gamma(1) * np.abs(value) + (1 + np.abs(x) + np.abs(y)) * SMALLEST_NORMAL, np.abs(value))

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        return unit_of(inputs[0]) * unit_of(inputs[1])

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """e|y| + |x|f + ef."""
        (x, y), (e, f) = inputs, errors
        return CARRIED * (e * (np.abs(y) + f) + np.abs(x) * f)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        for number, x in enumerate(seen.inputs, start=1):
            yield f"only factor {number} of 2 is there", partial(Reference, x.astype(np.float64))
        yield "the factors are added", exchanged(seen, BroadcastAdd())
        x, y = seen.inputs
        yield "it is divided by factor 2", exchanged(seen, Divide())
        yield "it is divided by factor 1", exchanged(seen, Divide(), [y, x])

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        for number, x in enumerate(seen.inputs, start=1):
            if x.size == 1:
                base = Reference(0 * right.value, right.bound)
                yield from factor_fits(seen, base, right.value / float(x.reshape(())), f"factor {number} is another:")


@reads("Div")
@dataclass(frozen=True)
class Divide(ArrayOperation):
    """x / y."""

    elementwise: ClassVar[bool] = True
    ufunc: ClassVar[str | None] = "divide"
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A quotient, or a product with a reciprocal: |ŷ − y| ≤ γ_2 |y|. The quotient of integers is cut off."""
        if are_integers(inputs):
            dividend, divisor = inputs
            return Reference(np.sign(dividend) * np.sign(divisor) * (np.abs(dividend) // np.abs(divisor)))
        x, y = in_double(*inputs)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = x / y
        underflow = SMALLEST_NORMAL * (1 + np.abs(x) + np.abs(value))
        return Reference(value, gamma(2) * np.abs(value) + underflow)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """The quotient is off by 5u, not by one rounding."""
        check_divisor(inputs[1])
        return bound + (QUOTIENT - 1) * UNIT_ROUNDOFF * np.abs(reference.value)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """|x̂/ŷ − x/y| ≤ (e + |x/y| f) / (|y| − f)."""
        (x, y), (e, f) = in_double(*inputs), errors
        with np.errstate(divide="ignore", invalid="ignore"):
            return CARRIED * (e + np.abs(x / y) * f) / np.maximum(np.abs(y) - f, 0)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        x, y = seen.inputs
        yield "only the dividend is there", partial(Reference, x.astype(np.float64))
        yield "the operands are exchanged", exchanged(seen, None, [y, x])
        yield "the operands are multiplied", exchanged(seen, Multiply())


@reads("Pow")
@dataclass(frozen=True)
class Power(ArrayOperation):
    """x^y."""

    elementwise: ClassVar[bool] = True
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ u (E + 2) (1 + |y · log x|) |x^y|, as for the power in a local response normalisation.

        Directly, as a product for small integers, or as exp(y · log x), whose argument's error reaches it relatively.
        """
        x, y = in_double(*inputs)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = x**y
            exponent = np.abs(y * np.log(np.abs(x)))
        relative = UNIT_ROUNDOFF * (ELEMENTARY_ULP + 2) * (1 + np.where(np.isfinite(exponent), exponent, 0))
        return Reference(value, CARRIED * relative * np.abs(value) + 2 * SMALLEST_NORMAL)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """A product for a square, a root for the power 1/2; else pow(|x|, y), with the sign that the result has."""
        x, y = in_double(*inputs)
        check_domain(
            (x > 0) | (x == 0) & (y >= 0) | (x < 0) & (y == np.floor(y)), "a power that is not a finite number"
        )
        error = np.maximum(of_power(np.abs(x), y), ROOT)
        return np.maximum(bound, CARRIED * UNIT_ROUNDOFF * error * np.abs(reference.value))


@reads("Sqrt")
@dataclass(frozen=True)
class SquareRoot(ArrayOperation):
    """√x."""

    elementwise: ClassVar[bool] = True
    ufunc: ClassVar[str | None] = "sqrt"
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ E u |y|: IEEE 754 has it correctly rounded, x · rsqrt(x) is not. E = `ELEMENTARY_ULP`."""
        with np.errstate(invalid="ignore"):
            value = np.sqrt(inputs[0].astype(np.float64))
        # A subnormal radicand may be flushed.
        return Reference(value, gamma(ELEMENTARY_ULP) * np.abs(value) + SMALLEST_NORMAL**0.5 * (value < 2.0**-62))

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """As 1 / inverseSqrt(x)."""
        check_domain(inputs[0] >= 0, "the root of a negative number")
        return bound + CARRIED * (ROOT - ELEMENTARY_ULP) * UNIT_ROUNDOFF * np.abs(reference.value)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """|√x̂ − √x| = |x̂ − x| / (√x̂ + √x) ≤ e / √x, and ≤ √e."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: np.ndarray = CARRIED * np.fmin(errors[0] / np.sqrt(inputs[0].astype(np.float64)), np.sqrt(errors[0]))
        return found


@reads("Reciprocal")
@dataclass(frozen=True)
class Reciprocal(ArrayOperation):
    """1 / x."""

    elementwise: ClassVar[bool] = True
    ufunc: ClassVar[str | None] = "reciprocal"
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ E u |y|; E = `ELEMENTARY_ULP`."""
        with np.errstate(divide="ignore"):
            value = 1 / inputs[0].astype(np.float64)
        return Reference(value, gamma(ELEMENTARY_ULP) * np.abs(value) + SMALLEST_NORMAL)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """A quotient: 5u, where a CPU's bound has E."""
        check_divisor(inputs[0])
        return bound + (QUOTIENT - ELEMENTARY_ULP) * UNIT_ROUNDOFF * np.abs(reference.value)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """|1/x̂ − 1/x| ≤ e / (|x| (|x| − e))."""
        size = np.abs(inputs[0].astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            return CARRIED * errors[0] / (size * np.maximum(size - errors[0], 0))
