"""Sums and means along axes of an array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, np
from common.operations.averages import Averaging
from common.operations.mistake import exchanged, times
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation
from common.operations.rounding import CARRIED, ELEMENTARY_ULP, SMALLEST_NORMAL, Reference, gamma, unit_of


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
