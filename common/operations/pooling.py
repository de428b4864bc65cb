"""Pooling: the largest value of a window, or the mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import ClassVar

from common.errors import TriptychError
from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.averages import Averaging
from common.operations.evaluation import evaluate
from common.operations.mistake import Evaluation, exchanged, times
from common.operations.onnx_node import OnnxGraph, Parameter
from common.operations.onnx_table import reads
from common.operations.operation import MAP, Hypothesis, Observation
from common.operations.overflow import opened, sums_that_overflow
from common.operations.rounding import (
    Gradient,
    Gradients,
    Reference,
    summed,
)
from common.operations.windows import (
    SAME,
    Padding,
    Pair,
    Windowed,
    border_mistakes,
    over_windows,
    pads_of,
    position_mistakes,
    scattered,
    window_mistakes,
    windows_of,
)


@dataclass(frozen=True)
class MaxPool(Windowed):
    """The largest value of each window; padding never wins."""

    channelwise: ClassVar[bool] = True

    contracts: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        height, width = self._positions(inputs)
        return (inputs[0][0], height, width)

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A choice among float32 values: nothing is rounded."""
        (x,) = inputs
        return Reference(over_windows(np.maximum, x, *self.window(x.shape[1:]), fill=-np.inf))

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        return opened(reference, np.isnan(reference.value))

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """To the largest of each window; where that stands in it more than once, to any of these.

        Frameworks choose differently then. After a ReLU, whose zeros are what most ties are made of, a padding of
        zeros is as good as none, and takes the gradient too; nothing is lost by it, since the derivative there is 0.
        """
        kernel, stride, padding = self.window(inputs[0].shape[1:])
        windows = windows_of(inputs[0].astype(np.float64), kernel, stride, padding, fill=-np.inf)
        flat = windows.reshape(*windows.shape[:4], kernel[0] * kernel[1])
        routed = np.zeros(flat.shape)
        np.put_along_axis(routed, flat.argmax(-1)[..., None], dy.astype(np.float64)[..., None], -1)
        largest = windows.max((4, 5), keepdims=True)
        among = windows_of(inputs[0].astype(np.float64), kernel, stride, padding) == largest
        tied = (windows == largest) & (among.sum((4, 5), keepdims=True) > 1)
        value, magnitude, open_to_choice = (
            scattered(array, inputs[0].shape, kernel, stride, padding)
            for array in (
                routed.reshape(windows.shape),
                np.abs(routed).reshape(windows.shape),
                tied * np.abs(dy.astype(np.float64))[..., None, None],
            )
        )
        if not tied.any():
            return Gradients([summed(kernel[0] * kernel[1], value, magnitude)])
        bound = summed(kernel[0] * kernel[1], value, magnitude + open_to_choice).bound
        return Gradients([Gradient(value, bound, choice=open_to_choice)])

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        kernel, stride, padding = self.window(shape)
        return graph.node("MaxPool", name, *inputs, kernel_shape=kernel, strides=stride, pads=pads_of(padding))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield from border_mistakes(self, seen)
        yield from window_mistakes(self, seen)
        average = AveragePool(self.kernel, self.stride, self.padding)
        yield "the average is taken, not the maximum", exchanged(seen, average)
        if np.any(self.window(seen.inputs[0].shape[1:])[2]):
            mistake = "the average is taken, not the maximum, and the padding not counted"
            yield mistake, exchanged(seen, average).then(average_inside)
        yield "the minimum is taken, not the maximum", partial(_minimum, self, seen)
        for step in (2, 3):
            yield f"the window is dilated by {step}", partial(_dilated_maximum, self, seen, step)
            for pads in (1, 2):
                padded = replace(self, padding=pads)
                yield (
                    f"the window is dilated by {step}, the padding {pads}",
                    partial(_dilated_maximum, padded, seen, step),
                )
        yield from position_mistakes(self, seen)


def _minimum(operation: MaxPool, seen: Observation) -> Reference:
    reference = evaluate(operation, [-seen.inputs[0]], {})
    return Reference(-reference.value)


def _dilated_maximum(operation: MaxPool, seen: Observation, step: int) -> Reference:
    """Of every `step`th pixel of a window that is larger by as much."""
    (x,) = seen.inputs
    kernel, stride, padding = operation.window(x.shape[1:])
    padded = np.pad(x, ((0, 0), (0, 0), *padding), constant_values=-np.inf)
    larger = tuple(step * (length - 1) + 1 for length in kernel)
    windows = np.lib.stride_tricks.sliding_window_view(padded, larger, axis=(2, 3))[
        :, :, :: stride[0], :: stride[1], ::step, ::step
    ]
    return Reference(windows.max(axis=(4, 5)))


class Average(Averaging):
    """The mean of some pixels of each channel."""

    contracts: ClassVar[bool] = True

    def count(self, shape: Shape) -> int:
        """How many pixels of a map (C, H, W) each mean is of: what is divided by."""
        raise NotImplementedError

    def divisors(self, shape: Shape) -> int:
        return self.count(shape[1:])

    def quantum(self, shape: Shape, quantum: float) -> float:
        """What is divided by must be a power of two for that; where it is not, the layer rounds anyway."""
        return quantum / self.count(shape)

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        return sums_that_overflow(self.reference, inputs, parameters, scale=self.count(inputs[0].shape[1:]))

    def _mean(self, x: np.ndarray, windows: np.ndarray, axes: tuple[int, int], keepdims: bool = False) -> Reference:
        """Of windows of x, whose pixels are along `axes`."""
        value = windows.mean(axis=axes, dtype=np.float64, keepdims=keepdims)
        magnitude = np.abs(windows).mean(axis=axes, dtype=np.float64, keepdims=keepdims)
        return self.averaged(x.shape, value, magnitude)

    def _shared(self, x: np.ndarray, value: np.ndarray, magnitude: np.ndarray) -> Gradients:
        """dy ÷ n, or times a rounded 1/n, added up over the windows an element lies in."""
        gradient = summed(self.count(x.shape[1:]) + 1, value, magnitude)
        return Gradients([gradient if self.divides_exactly(x.shape) else Gradient(gradient.value, gradient.bound)])


def _spread_over(
    x: np.ndarray, dy: np.ndarray, kernel: Pair, stride: Pair, padding: Padding
) -> tuple[np.ndarray, np.ndarray]:
    """dy ÷ n at every pixel of its window, added up; and the same of |dy|."""
    share = (dy.astype(np.float64) / prod(kernel))[..., None, None]
    shares = np.broadcast_to(share, (*dy.shape, *kernel))
    return scattered(shares, x.shape, kernel, stride, padding), scattered(
        np.abs(shares), x.shape, kernel, stride, padding
    )


@dataclass(frozen=True)
class AveragePool(Average, Windowed):
    """The mean of each window, which lies wholly inside the map."""

    channelwise: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        height, width = self._positions(inputs)
        return (inputs[0][0], height, width)

    def count(self, shape: Shape) -> int:
        return prod(self.window(shape)[0])

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        x = inputs[0].astype(np.float64)
        window, count = self.window(x.shape[1:]), self.count(x.shape[1:])
        value, magnitude = (over_windows(np.add, array, *window) / count for array in (x, np.abs(x)))
        return self.averaged(x.shape, value, magnitude)

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        (x,) = inputs
        return self._shared(x, *_spread_over(x, dy, *self.window(x.shape[1:])))

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        kernel, stride, _ = self.window(shape)
        return graph.node("AveragePool", name, *inputs, kernel_shape=kernel, strides=stride, pads=[0, 0, 0, 0])

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        (x,) = seen.inputs
        yield from window_mistakes(self, seen)
        kernel, stride, _ = self.window(x.shape[1:])
        maximum = MaxPool(self.kernel, self.stride, self.padding)
        yield "the maximum is taken, not the average", exchanged(seen, maximum)
        yield "the sum is taken, not the average", exchanged(seen).then(times(kernel[0] * kernel[1]))
        yield "the padding is not counted", exchanged(seen, self).then(average_inside)
        yield from position_mistakes(self, seen)
        adaptive = AdaptiveAveragePool(seen.output.shape[2])
        yield "the windows are spread evenly (adaptive average)", exchanged(seen, adaptive)
        over: Padding = ((0, stride[0] - 1), (0, stride[1] - 1))
        same, rounded_up = replace(self, padding=SAME), replace(self, padding=over)
        yield "the padding is TensorFlow's SAME, and not counted", exchanged(seen, same).then(average_inside)
        mistake = "the number of windows is rounded up, and the padding not counted"
        yield mistake, exchanged(seen, rounded_up).then(average_inside)
        for size in (2, 3):
            one, tf_same = (replace(self, kernel=size, padding=padding) for padding in (1, SAME))
            yield f"the average is over {size}×{size}, padded by 1, the padding counted", exchanged(seen, one)
            mistake = f"the average is over {size}×{size}, padded by 1, the padding not counted"
            yield mistake, exchanged(seen, one).then(average_inside)
            yield f"the average is over {size}×{size}, padded SAME, the padding counted", exchanged(seen, tf_same)
            mistake = f"the average is over {size}×{size}, padded SAME, the padding not counted"
            yield mistake, exchanged(seen, tf_same).then(average_inside)


def average_inside(evaluation: Evaluation, reference: Reference) -> Reference:
    """The mean over those pixels of each window that lie inside the map."""
    inside = evaluate(evaluation.operation, [np.ones_like(evaluation.inputs[0])], {}).value
    assert reference.bound is not None
    return Reference(reference.value / inside, reference.bound / inside)


@reads("GlobalAveragePool")
@dataclass(frozen=True)
class GlobalAveragePool(Average):
    """The mean of each channel: (C, H, W) to (C, 1, 1)."""

    channelwise: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        return (self._only(inputs, MAP)[0], 1, 1)

    def count(self, shape: Shape) -> int:
        return prod(shape[1:])

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        return self._mean(inputs[0], inputs[0], axes=(2, 3), keepdims=True)

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        height, width = inputs[0].shape[2:]
        return self._shared(inputs[0], *_spread_over(inputs[0], dy, (height, width), (1, 1), ((0, 0), (0, 0))))

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        return graph.node("GlobalAveragePool", name, *inputs)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        height, width = seen.inputs[0].shape[2:]
        count = height * width
        yield "the sum is taken, not the average", exchanged(seen).then(times(count))
        yield "the maximum is taken, not the average", exchanged(seen, MaxPool((height, width)))
        for divisor in (49, 64, 25, 36, 16, height**2, width**2, count - 1):
            if divisor not in (0, count):
                yield (
                    f"the sum is divided by {divisor}, not {count}",
                    exchanged(seen).then(times(count / divisor)),
                )
        yield "only the first pixel is taken", partial(Reference, seen.inputs[0][:, :, :1, :1].astype(np.float64))


@dataclass(frozen=True)
class AdaptiveAveragePool(Average):
    """The means of `positions`×`positions` windows, spread evenly and all of one size: (C, H, W) to (C, p, p).

    Source: torch.nn.AdaptiveAvgPool2d.
    """

    positions: int

    def windows(self, length: int) -> list[tuple[int, int]]:
        """Where the windows along an axis begin and end: from ⌊i·n / p⌋ to ⌈(i + 1)·n / p⌉."""
        bounds = [(i * length // self.positions, -(-(i + 1) * length // self.positions)) for i in range(self.positions)]
        if len({end - begin for begin, end in bounds}) != 1:
            raise TriptychError(f"{length} pixels give {self.positions} adaptive windows of different sizes")
        return bounds

    def output_shape(self, *inputs: Shape) -> Shape:
        channels, *lengths = self._only(inputs, MAP)
        for length in lengths:
            self.windows(length)
        return (channels, self.positions, self.positions)

    def count(self, shape: Shape) -> int:
        return prod(end - begin for length in shape[1:] for begin, end in self.windows(length)[:1])

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        (x,) = inputs
        rows, columns = (np.array([range(*window) for window in self.windows(n)]) for n in x.shape[2:])
        return self._mean(x, x[:, :, rows[:, None, :, None], columns[None, :, None, :]], axes=(4, 5))

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        (x,) = inputs
        rows, columns = (self.windows(length) for length in x.shape[2:])
        value, magnitude = np.zeros(x.shape), np.zeros(x.shape)
        for (i, (top, bottom)), (j, (left, right)) in ((r, c) for r in enumerate(rows) for c in enumerate(columns)):
            share = dy[:, :, i, j].astype(np.float64)[..., None, None] / self.count(x.shape[1:])
            value[:, :, top:bottom, left:right] += share
            magnitude[:, :, top:bottom, left:right] += np.abs(share)
        return self._shared(x, value, magnitude)

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        """The mean at every place, then the places that are wanted: ONNX has no operator for it."""
        rows, columns = (self.windows(length) for length in shape[1:])
        at_every_place = AveragePool((rows[0][1], columns[0][1]), (1, 1))
        means = at_every_place.to_onnx(graph, f"{name}/average", *inputs)
        starts = graph.constants(
            name,
            rows=np.array([begin for begin, _ in rows], np.int64),
            columns=np.array([begin for begin, _ in columns], np.int64),
        )
        chosen = graph.node("Gather", f"{name}/row_means", means, starts[0], axis=2)
        return graph.node("Gather", name, chosen, starts[1], axis=3)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        for size, stride in ((5, 3), (3, 3), (4, 3), (2, 3), (3, 4), (4, 4)):
            mistake = f"the average is over windows of {size}×{size} with stride {stride}"
            yield mistake, exchanged(seen, AveragePool(size, stride))
        begin = self.windows(seen.inputs[0].shape[2])[0]
        yield (
            "the maximum is taken, not the average",
            exchanged(seen, MaxPool(begin[1] - begin[0], begin[1] - begin[0])),
        )
