"""Sums and means along axes of an array, and running sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, np
from common.operations.averages import Averaging
from common.operations.mistake import exchanged, times
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation, are_integers
from common.operations.rounding import (
    CARRIED,
    ELEMENTARY_ULP,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Reference,
    gamma,
    unit_of,
)
from common.operations.wgsl import ROOT


@dataclass(frozen=True)
class Reduction(ArrayOperation):
    """A reduction along `axes`, or all axes if None. With `keepdims` they stay with length 1."""

    axes: tuple[int, ...] | None = None
    keepdims: bool = True

    def count(self, shape: tuple[int, ...]) -> int:
        """The number of values in one result."""
        return prod(shape) if self.axes is None else prod(shape[axis] for axis in self.axes)

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        axes = node.attributes.get("axes")
        if node.has(1):
            found = node.constant(1)
            if found is None:
                raise Unread("its axes are computed")
            axes = found.tolist()
        if not axes and node.attributes.get("noop_with_empty_axes"):
            raise Unread("it reduces nothing")
        return Found(cls(tuple(axes) if axes else None, bool(node.attributes.get("keepdims", 1))))

    def total(self, x: np.ndarray) -> np.ndarray:
        found: np.ndarray = x.sum(axis=self.axes, keepdims=self.keepdims)
        return found


@reads("ReduceSum")
@dataclass(frozen=True)
class Sum(Reduction):
    """Σ x. Source: ONNX ReduceSum."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """n − 1 additions: γ_(n−1) Σ|x|."""
        if are_integers(inputs):
            return Reference(self.total(inputs[0]))
        (x,) = (array.astype(np.float64) for array in inputs)
        magnitude = self.total(np.abs(x))
        bound = gamma(self.count(x.shape)) * magnitude + self.count(x.shape) * SMALLEST_NORMAL
        return Reference(self.total(x), bound, magnitude)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * self.total(errors[0])


@reads("ReduceMean")
@dataclass(frozen=True)
class Mean(Averaging, Reduction):
    """Σ x / n. Source: ONNX ReduceMean."""

    def divisors(self, shape: tuple[int, ...]) -> int:
        return self.count(shape)

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        x, count = inputs[0].astype(np.float64), self.count(inputs[0].shape)
        return self.averaged(x.shape, self.total(x) / count, self.total(np.abs(x)) / count)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * self.total(errors[0]) / self.count(errors[0].shape)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield "the sum is taken, not the mean", exchanged(seen).then(times(self.count(seen.inputs[0].shape)))


@reads("ReduceL2")
@dataclass(frozen=True)
class Length(Reduction):
    """√Σ x². Source: ONNX ReduceL2."""

    integers_before: ClassVar[int] = 1

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """The sum of n squares is off by γ_n of itself, which the root halves, and the root by E u."""
        (x,) = (array.astype(np.float64) for array in inputs)
        value = np.sqrt(self.total(np.square(x)))
        return Reference(
            value, gamma(self.count(x.shape) + ELEMENTARY_ULP) * value + SMALLEST_NORMAL**0.5 * (value < 2.0**-60)
        )

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """The root is that of `SquareRoot`."""
        return bound + CARRIED * (ROOT - ELEMENTARY_ULP) * UNIT_ROUNDOFF * reference.value


@reads("ReduceL1")
@dataclass(frozen=True)
class SumOfSizes(Sum):
    """Σ |x|. Source: ONNX ReduceL1."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """See `Sum`."""
        return super().reference([np.abs(inputs[0])], parameters)


@reads("ReduceSumSquare")
@dataclass(frozen=True)
class SumOfSquares(Reduction):
    """Σ x². Source: ONNX ReduceSumSquare."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """n products and n − 1 additions: γ_n Σ x²."""
        value = self.total(np.square(inputs[0].astype(np.float64)))
        count = self.count(inputs[0].shape)
        return Reference(value, gamma(count + 1) * value + count * SMALLEST_NORMAL, value)

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        return unit_of(inputs[0]) ** 2

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """Σ (2|x| e + e²), and what rounding makes of it."""
        (x,), (e,) = inputs, errors
        return (1 + gamma(self.count(x.shape))) * CARRIED * self.total(e * (2 * np.abs(x.astype(np.float64)) + e))


@reads("CumSum")
@dataclass(frozen=True)
class RunningSum(ArrayOperation):
    """The sums of the first 1, 2, … values along an axis. Source: ONNX CumSum."""

    axis: int
    exclusive: bool = False
    """Whether a sum leaves out its last value."""
    reverse: bool = False
    """Whether the sums begin at the end."""

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        axis = node.constant(1)
        if axis is None or axis.size != 1:
            raise Unread("its axis is computed")
        exclusive, reverse = (bool(node.attributes.get(name)) for name in ("exclusive", "reverse"))
        return Found(cls(int(axis.reshape(())), exclusive, reverse))

    def totals(self, x: np.ndarray) -> np.ndarray:
        turned = np.flip(x, self.axis) if self.reverse else x
        sums = np.cumsum(turned, self.axis, dtype=x.dtype)
        if self.exclusive:
            first = np.zeros_like(np.take(sums, [0], self.axis))
            sums = np.concatenate([first, np.delete(sums, -1, self.axis)], self.axis)
        return np.flip(sums, self.axis) if self.reverse else sums

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """In whatever order, a sum of the first k values has k − 1 additions: γ_(n−1) Σ|x| for an axis of length n."""
        if are_integers(inputs):
            return Reference(self.totals(inputs[0]))
        x = inputs[0].astype(np.float64)
        magnitude, count = self.totals(np.abs(x)), x.shape[self.axis]
        return Reference(self.totals(x), gamma(count) * magnitude + count * SMALLEST_NORMAL, magnitude)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * self.totals(errors[0])

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        for told, other in (
            ("the sums begin at the other end", replace(self, reverse=not self.reverse)),
            (
                "the last value of each sum is there" if self.exclusive else "the last value of each sum is left out",
                replace(self, exclusive=not self.exclusive),
            ),
        ):
            yield told, exchanged(seen, other)
