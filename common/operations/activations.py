"""Activations, element by element, and the softmax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.evaluation import evaluate
from common.operations.mistake import ENOUGH, exchanged, factor_fits
from common.operations.onnx_node import OnnxGraph, OnnxNode, Parameter, Unread
from common.operations.onnx_table import reads
from common.operations.operation import Fit, Found, Hypothesis, Observation, Operation, in_double
from common.operations.overflow import LARGEST, as_it_is, opened
from common.operations.rectifiers import ELU, SELU, HardSwish
from common.operations.rounding import (
    CARRIED,
    ELEMENTARY_ULP,
    SECOND_ORDER,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Gradient,
    Gradients,
    Reference,
    chosen,
    gamma,
)
from common.operations.smooth import GELU, Mish, Softplus, Swish, logistic
from common.operations.wgsl import QUOTIENT, of_exponential


@reads("Relu")
@dataclass(frozen=True)
class ReLU(Operation):
    """max(x, 0)."""

    elementwise: ClassVar[bool] = True
    channelwise: ClassVar[bool] = True

    contracts: ClassVar[bool] = True

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A choice between x and 0: nothing is rounded."""
        return Reference(np.maximum(inputs[0], 0))

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        nan = np.isnan(reference.value)
        value = np.where(nan, 0, reference.value)
        return replace(reference, value=value, allowed=replace(as_it_is(value), nan=nan))

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """Every framework takes 0 as the derivative at 0."""
        return Gradients([chosen(np.where(inputs[0] > 0, dy, 0).astype(np.float64))])

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        return graph.node("Relu", name, *inputs)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        (x,) = (array.astype(np.float64) for array in seen.inputs)
        yield "the ReLU is missing", partial(Reference, x)
        yield "the ReLU is capped at 6", partial(Reference, x.clip(0, 6))
        for slope in (0.01, 0.1, 0.2, 0.25, 0.3):
            leaky = np.where(x > 0, x, slope * x)
            yield (
                f"the ReLU is leaky, slope {slope}",
                partial(Reference, leaky, gamma(3) * np.abs(leaky) + SMALLEST_NORMAL),
            )
        yield "the absolute value is taken", partial(Reference, np.abs(x))
        yield "a sigmoid is taken, not a ReLU", exchanged(seen, Sigmoid())
        yield "a hyperbolic tangent is taken, not a ReLU", exchanged(seen, ScaledTanh(1.0, 1.0))
        for name, other in _other_activations():
            yield f"{name} is taken, not a ReLU", exchanged(seen, other)

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        (x,) = in_double(*seen.inputs)
        for _, mistake, reference in factor_fits(
            seen, Reference(np.maximum(x, 0)), np.minimum(x, 0), "negative values are"
        ):
            yield "the ReLU is leaky", f"the ReLU is leaky: {mistake}", reference
        cap = float(seen.output.max(initial=0))  # the largest value, where several are as large
        if int((seen.output == cap).sum()) >= ENOUGH and len(np.unique(x[x > cap])) >= ENOUGH:
            yield "the ReLU is capped", f"the ReLU is capped at {cap:g}", Reference(x.clip(0, cap))


def _other_activations() -> Iterator[tuple[str, Operation]]:
    """Activations that newer networks have instead of a ReLU."""
    yield "an ELU", ELU()
    yield "a SELU", SELU
    yield "a SiLU", Swish()
    yield "a GELU", GELU()
    yield "a GELU by its approximation with a hyperbolic tangent", GELU(approximate=True)
    yield "a softplus", Softplus()
    yield "a hard swish", HardSwish()
    yield "a Mish", Mish()


@reads("Sigmoid")
@dataclass(frozen=True)
class Sigmoid(Operation):
    """1 / (1 + exp(−x))."""

    elementwise: ClassVar[bool] = True
    integers_before: ClassVar[int] = 1
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ u (E + 3) (y + 1/2), E = `ELEMENTARY_ULP`.

        As 1 / (1 + exp(−x)), the exponential's relative error E·u reaches y by a factor below 1, and the sum and the
        quotient add one each. As (1 + tanh(x / 2)) / 2, the hyperbolic tangent's error is (E / 2)·u in absolute terms,
        however small y is.
        """
        x = inputs[0].astype(np.float64)
        value = logistic(x)
        return Reference(value, UNIT_ROUNDOFF * (ELEMENTARY_ULP + 3) * (value + 0.5))

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """As 1 / (1 + e): the exponential's error, beyond E, times 1 − y, and 4u for the quotient, of y."""
        y = reference.value
        more = (1 - y) * (of_exponential(inputs[0].astype(np.float64)) - ELEMENTARY_ULP) + QUOTIENT - 1
        return bound + CARRIED * UNIT_ROUNDOFF * y * more

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """dy · y (1 − y), where y has the error of the forward pass, u (E + 3) (y + 1/2), and 1 − y one rounding
        more.
        """
        x, dy = in_double(inputs[0], dy)
        y = 1 / (1 + np.exp(-x))
        of_y = UNIT_ROUNDOFF * (ELEMENTARY_ULP + 3) * (y + 0.5)
        bound = np.abs(dy) * (of_y * (np.abs(1 - 2 * y) + of_y) + 4 * UNIT_ROUNDOFF * y)
        return Gradients([Gradient(dy * y * (1 - y), SECOND_ORDER * bound + 4 * SMALLEST_NORMAL)])

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """Its slope is 1/4 at most."""
        return CARRIED * errors[0] / 4

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        return graph.node("Sigmoid", name, *inputs)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        (x,) = (array.astype(np.float64) for array in seen.inputs)
        yield "the sigmoid is missing", partial(Reference, x)
        yield "a hyperbolic tangent is taken, not a sigmoid", exchanged(seen, ScaledTanh(1.0, 1.0))
        yield "a scaled hyperbolic tangent is taken, not a sigmoid", exchanged(seen, ScaledTanh(1.7159, 2 / 3))
        yield "a ReLU is taken, not a sigmoid", exchanged(seen, ReLU())
        for slope in (1 / 6, 0.2):
            hard = (slope * x + 0.5).clip(0, 1)
            yield (
                f"a hard sigmoid of slope {slope:.3g} is taken",
                partial(Reference, hard, gamma(4) * (np.abs(slope * x) + 0.5)),
            )
        yield "the sigmoid is applied twice", partial(_sigmoid_twice, seen)


def _sigmoid_twice(seen: Observation) -> Reference:
    """The second sigmoid's slope is at most ¼."""
    first = evaluate(Sigmoid(), seen.inputs, {})
    second = evaluate(Sigmoid(), [first.value], {})
    assert first.bound is not None
    assert second.bound is not None
    return Reference(second.value, second.bound + 0.25 * first.bound)


@dataclass(frozen=True)
class ScaledTanh(Operation):
    """amplitude · tanh(slope · x).

    Source: LeCun et al. 1998, appendix A, with 1.7159 and 2/3.
    """

    amplitude: float
    slope: float

    integers_before: ClassVar[int] = 1
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|ŷ − y| ≤ γ_(E+5) |y|, E = `ELEMENTARY_ULP`.

        The rounding of the slope and its product change tanh's argument by 2u, which tanh does not enlarge (its
        condition number |z| / (sinh|z| cosh|z|) is at most 1); tanh adds E, the amplitude's rounding and product two.
        """
        value = self.amplitude * np.tanh(self.slope * inputs[0].astype(np.float64))
        underflow = SMALLEST_NORMAL * (1 + abs(self.amplitude) * (2 + abs(self.slope)))
        return Reference(value, gamma(ELEMENTARY_ULP + 5) * np.abs(value) + underflow)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """As `Tanh`, times the amplitude."""
        return bound + 4 * UNIT_ROUNDOFF * abs(self.amplitude)

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """dy · A·s (1 − t²), where t has relative error (E + 2) u, and the difference is rounded at the scale of 1."""
        x, dy = in_double(inputs[0], dy)
        t = np.tanh(self.slope * x)
        factor = np.abs(dy) * self.amplitude * self.slope
        bound = factor * UNIT_ROUNDOFF * (2 * t * t * (ELEMENTARY_ULP + 3) + 2 + 6 * (1 - t * t))
        value = dy * self.amplitude * self.slope * (1 - t * t)
        return Gradients([Gradient(value, SECOND_ORDER * bound + 6 * SMALLEST_NORMAL)])

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """Its slope is amplitude · slope at most."""
        return CARRIED * abs(self.amplitude * self.slope) * errors[0]

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        """In three nodes."""
        numbers = {"slope": np.array(self.slope, np.float32), "amplitude": np.array(self.amplitude, np.float32)}
        slope, amplitude = graph.constants(name, **numbers)
        scaled = graph.node("Mul", f"{name}/scaled", *inputs, slope)
        return graph.node("Mul", name, graph.node("Tanh", f"{name}/tanh", scaled), amplitude)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        amplitude, slope = self.amplitude, self.slope
        yield "the hyperbolic tangent is not scaled", exchanged(seen, ScaledTanh(1.0, 1.0))
        yield "the amplitude is missing", exchanged(seen, ScaledTanh(1.0, slope))
        yield "the slope is missing", exchanged(seen, ScaledTanh(amplitude, 1.0))
        yield "amplitude and slope are exchanged", exchanged(seen, ScaledTanh(slope, amplitude))
        yield "the slope is inverted", exchanged(seen, ScaledTanh(amplitude, 1 / slope))
        for near in (1.7, 1.71, 1.716, 1.72, 1.7160):
            yield f"the amplitude is {near:g}", exchanged(seen, ScaledTanh(near, slope))
        for near in (0.66, 0.67, 0.666, 0.667, 0.6666, 0.6667, 0.66667, 0.666667):
            yield f"the slope is {near:g}", exchanged(seen, ScaledTanh(amplitude, near))
        yield "a sigmoid is taken, not a hyperbolic tangent", exchanged(seen, Sigmoid())
        yield "a ReLU is taken, not a hyperbolic tangent", exchanged(seen, ReLU())
        yield "the hyperbolic tangent is missing", partial(Reference, seen.inputs[0].astype(np.float64))


@reads("Softmax")
@dataclass(frozen=True)
class Softmax(Operation):
    """exp(x) / Σ exp(x) along an axis. In the catalogue only at the end of a network, on request."""

    axis: int = 1

    integers_before: ClassVar[int] = 1
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """y = exp(d) / Σ exp(d), d = x − (the largest of the n inputs): |ŷ − y| ≤ u (|d| + 2E + n (1 + 1/e) + 1) y.

        Rounding d changes its exponential by u |d|, and the exponential adds E·u. The sum of n positive terms adds
        n − 1 and inherits the errors of its terms, weighted by their shares: E, and Σ |d| exp(d) / Σ exp(d), which is
        below n / e because no |d| exp(d) exceeds 1/e and the largest term is 1. The quotient adds one. Without the
        subtraction there is less to round. E = `ELEMENTARY_ULP`. The exponential of −∞, as in the mask of an attention,
        is 0.
        """
        x = inputs[0].astype(np.float64)
        with np.errstate(invalid="ignore"):
            shifted = x - x.max(axis=self.axis, keepdims=True)
        terms = np.exp(shifted)
        value = terms / terms.sum(axis=self.axis, keepdims=True)
        count = x.shape[self.axis]
        distances = np.where(np.isinf(shifted), 0, np.abs(shifted))
        operations = distances + 2 * ELEMENTARY_ULP + count * (1 + 1 / np.e) + 1
        return Reference(value, 1.001 * operations * UNIT_ROUNDOFF * value + 2 * SMALLEST_NORMAL)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """The exponential, beyond E, and the quotient; and the sum, which is made in one pass.

        Each of at least 64 threads has ⌈n / 64⌉ terms at most. With each it multiplies its sum by the exponential of
        the difference of two maxima; then eight times two sums are put together so. Thus a term is a product of
        k = ⌈n / 64⌉ + 9 exponentials, of numbers that add up to d: off by 7k u with the products, and by 5 |d| u with
        the differences, of which a CPU's bound has one. Weighted by their shares, the |d| add up to Σ |d| y.
        """
        x = inputs[0].astype(np.float64)
        y, exponentials = reference.value, -(-x.shape[self.axis] // 64) + 9
        with np.errstate(invalid="ignore"):
            shifted = x - x.max(axis=self.axis, keepdims=True)
        d = np.where(np.isinf(shifted), 0, np.abs(shifted))
        of_sum = 7 * exponentials + 4 * (d * y).sum(axis=self.axis, keepdims=True)
        more = of_exponential(d) - ELEMENTARY_ULP + of_sum + QUOTIENT - 1
        return bound + CARRIED * UNIT_ROUNDOFF * y * more

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        """If the largest input is finite, no difference from it is above 0, and one that overflows to −∞ has the right
        exponential, 0. Else nothing is claimed."""
        (x,) = inputs
        return opened(reference, np.broadcast_to(~np.isfinite(x.max(axis=self.axis, keepdims=True)), x.shape))

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """A probability changes by a factor exp(2 max e) at most, and by no more than 1.

        An input that stays 110 below the largest, as in the mask of an attention, has no part in that: its exponential
        is below 2^-150, whatever its own error.
        """
        x, error = inputs[0].astype(np.float64), errors[0]
        place = x.argmax(axis=self.axis)
        place = np.expand_dims(place, self.axis)
        largest, of_largest = (np.take_along_axis(array, place, self.axis) for array in (x, error))
        with np.errstate(over="ignore", invalid="ignore"):
            hidden = x - largest + error + of_largest < -110
            most = np.where(hidden, 0, error).max(axis=self.axis, keepdims=True)
            moved = CARRIED * np.expm1(2 * most) * self.reference(inputs, parameters).value + SMALLEST_NORMAL
        return np.where(moved < 1, moved, 1.0)

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        axis = node.attributes.get("axis", -1 if node.opset >= 13 else 1)
        if node.opset < 13 and axis not in (-1, len(node.shape(0)) - 1):
            raise Unread("before opset 13 it normalises over several axes at once")
        return Found(cls(axis))

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        return graph.node(self.kind, name, *inputs, axis=self.axis)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        (x,) = seen.inputs
        own = self.axis % x.ndim
        for axis in range(x.ndim):
            if axis != own:
                yield f"it is along axis {axis}, not {own}", exchanged(seen, replace(self, axis=axis))
        yield "it is missing", partial(Reference, x.astype(np.float64))
        other, name = (Softmax, "its exponential") if isinstance(self, LogSoftmax) else (LogSoftmax, "its logarithm")
        yield f"{name} is taken", exchanged(seen, other(self.axis))


@reads("LogSoftmax")
@dataclass(frozen=True)
class LogSoftmax(Softmax):
    """x − log Σ exp(x) along an axis. Source: ONNX LogSoftmax."""

    in_shader = Operation.in_shader  # there is no kernel

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """y = d − log s, d = x − (the largest of the n inputs), s = Σ exp(d), which is between 1 and n.

        d is off by u |d|. s is off by a factor within u (E + n (1 + 1/e)) of 1 (see `Softmax`), which the logarithm
        makes an absolute error; the logarithm adds E u log n, the difference u |y|. So does the order
        x − (max + log s), with u of |max| + log n more. E = `ELEMENTARY_ULP`.
        """
        x = inputs[0].astype(np.float64)
        largest = x.max(axis=self.axis, keepdims=True)
        shifted = x - largest
        value = shifted - np.log(np.exp(shifted).sum(axis=self.axis, keepdims=True))
        count = x.shape[self.axis]
        of_sum = ELEMENTARY_ULP + count * (1 + 1 / np.e) + (ELEMENTARY_ULP + 1) * np.log(count)
        operations = of_sum + 2 * np.abs(shifted) + np.abs(value) + np.abs(largest)
        return Reference(value, 1.001 * operations * UNIT_ROUNDOFF + 2 * SMALLEST_NORMAL)

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        """A difference may have overflowed."""
        (x,) = inputs
        sizes = np.where(np.isfinite(x), np.abs(x.astype(np.float64)), np.inf).sum(axis=self.axis, keepdims=True)
        return opened(reference, np.broadcast_to(sizes >= LARGEST / 2, x.shape))

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """It moves by no more than an input and the largest of them do."""
        return CARRIED * (errors[0] + errors[0].max(axis=self.axis, keepdims=True))
