"""Pooling over any number of axes, padded, dilated or rounded up. The catalogue's pools are in `pooling`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.averages import Averaging
from common.operations.conv_nd import taps
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxNode
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation
from common.operations.overflow import opened
from common.operations.pooling import AveragePool, MaxPool
from common.operations.rounding import CARRIED, Reference
from common.operations.windows import OnnxWindow, Paddings


@dataclass(frozen=True)
class PoolND(ArrayOperation):
    """A window over the axes after the second.

    `padding` is stated; `overhang` is what the last windows reach beyond it where their number is rounded up.
    """

    kernel: Shape
    stride: Shape
    padding: Paddings
    dilation: Shape
    overhang: Shape

    def _taps(self, x: np.ndarray, fill: float) -> Iterator[np.ndarray]:
        padding = tuple(
            (before, after + more) for (before, after), more in zip(self.padding, self.overhang, strict=True)
        )
        return (part for _, part in taps(x, self.kernel, self.stride, self.dilation, padding, fill))

    def _others(self, seen: Observation) -> Iterator[Hypothesis]:
        """Another padding."""
        none: Shape = tuple(0 for _ in self.padding)
        for (before, after), told in (
            ((0, 1), "below and right only"),
            ((1, 0), "above and left only"),
            ((1, 1), "by 1 on all sides"),
            ((0, 0), "not at all"),
        ):
            pads: Paddings = tuple((before, after) for _ in self.padding)
            other = replace(self, padding=pads, overhang=none)
            if other != self:
                yield f"it is padded {told}", exchanged(seen, other)


@reads("MaxPool")
@dataclass(frozen=True)
class MaxPoolND(PoolND):
    """The largest value of each window; padding never wins. Source: ONNX MaxPool."""

    contracts: ClassVar[bool] = True

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A choice among float32 values: nothing is rounded."""
        value = None
        for part in self._taps(inputs[0], -np.inf):
            value = part.copy() if value is None else np.maximum(value, part, out=value)
        assert value is not None
        return Reference(value)

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        return opened(reference, np.isnan(reference.value))

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        """The catalogue's, where that has it: padding never wins, so that what hangs over is padding as well."""
        window = OnnxWindow.of(node, node.attributes["kernel_shape"])
        if window.plain:
            sides = [(a, b + more) for (a, b), more in zip(window.padding, window.overhang, strict=True)]
            (height, width), (down, across) = window.kernel, window.stride
            return Found(MaxPool((height, width), (down, across), (sides[0], sides[1])))
        return Found(cls(window.kernel, window.stride, window.padding, window.dilation, window.overhang))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield from self._others(seen)
        average = AveragePoolND(self.kernel, self.stride, self.padding, self.dilation, self.overhang, False)
        yield "the average is taken, not the maximum", exchanged(seen, average)


@reads("AveragePool")
@dataclass(frozen=True)
class AveragePoolND(Averaging, PoolND):
    """The mean of each window, the stated padding counted or not, what hangs over never. Source: ONNX AveragePool."""

    counts_padding: bool

    def divisors(self, shape: Shape) -> np.ndarray:
        ones = np.ones((1, 1, *shape[2:]))
        if self.counts_padding:
            ones = np.pad(ones, ((0, 0), (0, 0), *self.padding), constant_values=1)
            unpadded = replace(self, padding=tuple((0, 0) for _ in self.padding))
            return sum(unpadded._taps(ones, 0.0), np.zeros(1))
        return sum(self._taps(ones, 0.0), np.zeros(1))

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        x, counts = inputs[0].astype(np.float64), self.divisors(inputs[0].shape)
        value, magnitude = (sum(self._taps(array, 0.0), np.zeros(1)) / counts for array in (x, np.abs(x)))
        return self.averaged(x.shape, value, magnitude)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * sum(self._taps(errors[0], 0.0), np.zeros(1)) / self.divisors(inputs[0].shape)

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        """The catalogue's, where that has it."""
        window = OnnxWindow.of(node, node.attributes["kernel_shape"])
        if window.plain and not np.any(window.padding) and not any(window.overhang):
            (height, width), (down, across) = window.kernel, window.stride
            return Found(AveragePool((height, width), (down, across)))
        counts = bool(node.attributes.get("count_include_pad", 0))
        return Found(cls(window.kernel, window.stride, window.padding, window.dilation, window.overhang, counts))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        told = "not counted" if self.counts_padding else "counted"
        yield f"the padding is {told}", exchanged(seen, replace(self, counts_padding=not self.counts_padding))
        yield from self._others(seen)
        maximum = MaxPoolND(self.kernel, self.stride, self.padding, self.dilation, self.overhang)
        yield "the maximum is taken, not the average", exchanged(seen, maximum)
