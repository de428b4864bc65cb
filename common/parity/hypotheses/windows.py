"""Known porting mistakes in what slides a window: padding, stride, rounding, and what is made of each window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.oracle import SMALLEST_NORMAL, Reference, evaluate, gamma
from common.parity.hypotheses import Hypothesis, Observation, exchanged, mistakes, multiple
from common.specs.architecture import (
    SAME,
    AdaptiveAveragePool,
    AveragePool,
    Conv,
    GlobalAveragePool,
    MaxPool,
    Padding,
    SubSampling,
)


def window_mistakes(operation: Conv | MaxPool | AveragePool, seen: Observation) -> Iterator[Hypothesis]:
    """Another padding, stride or rounding of the number of windows."""
    kernel, stride, padding = operation.window(seen.inputs[0].shape[1:])
    over: Padding = ((0, stride[0] - 1), (0, stride[1] - 1))
    pools = not isinstance(operation, Conv)
    same = replace(operation, padding=SAME)
    if same.window(seen.inputs[0].shape[1:])[2] != padding:
        yield "the padding is TensorFlow's SAME", exchanged(seen, same)
    if any(map(any, padding)):
        down = pools and padding == over
        yield (
            "the number of windows is rounded down, not up" if down else "the padding is missing",
            exchanged(seen, replace(operation, padding=0)),
        )
        (top, bottom), (left, right) = padding
        for step, side in ((1, "the bottom and right"), (-1, "the top and left")):
            shifted: Padding = ((top - step, bottom + step), (left - step, right + step))
            if min(map(min, shifted)) >= 0:
                mistake = f"the padding is shifted by a pixel to {side}"
                yield mistake, exchanged(seen, replace(operation, padding=shifted))
    for pixels in range(1, max(kernel)):
        if padding != ((pixels, pixels), (pixels, pixels)):
            yield f"the padding is {pixels}", exchanged(seen, replace(operation, padding=pixels))
    if pools and max(stride) > 1 and padding != over:
        mistake = "the number of windows is rounded up, not down"
        yield mistake, exchanged(seen, replace(operation, padding=over))
    for step in range(1, 6):
        if stride != (step, step):
            yield f"the stride is {step}", exchanged(seen, replace(operation, stride=step))
    for size in range(1, 8) if pools else ():
        if kernel != (size, size):
            yield f"the window is {size}×{size}", exchanged(seen, replace(operation, kernel=size))


def position_mistakes(operation: Conv | MaxPool | AveragePool, seen: Observation) -> Iterator[Hypothesis]:
    """The windows begin at another pixel, or the map is turned over before they do."""
    (x,) = seen.inputs
    height, width = x.shape[2:]
    for down, right in ((0, 1), (1, 0), (1, 1), (0, -1), (-1, 0), (-1, -1)):
        ways = [way for way, step in {"down": down, "right": right, "up": -down, "left": -right}.items() if step > 0]
        mistake = f"what it reads is shifted by a pixel {' and '.join(ways)}"
        rolled = np.roll(x, (down, right), (2, 3))
        yield f"{mistake}, what leaves it comes back opposite", exchanged(seen, None, [rolled])
        modes: dict[str, Literal["constant", "edge"]] = {
            "zeros": "constant",
            "a copy of its border": "edge",
        }
        for beside, mode in modes.items():
            larger = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode=mode)
            moved = larger[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
            yield f"{mistake}, {beside} in its place", exchanged(seen, None, [moved])
    (top, bottom), (left, right) = operation.window(x.shape[1:])[2]
    for step in (1, 2):
        if (top, left) == (0, 0):
            later = replace(operation, padding=((0, bottom + step), (0, right + step)))
            yield f"the windows begin at pixel {step}, not 0", exchanged(seen, later, [x[:, :, step:, step:]])
    if seen.preprocessing is None:  # an image has hypotheses of its own
        yield "what it reads has height and width exchanged", exchanged(seen, None, [x.swapaxes(2, 3)])
        yield "what it reads is mirrored from left to right", exchanged(seen, None, [x[..., ::-1]])
        yield "what it reads is upside down", exchanged(seen, None, [x[:, :, ::-1]])
        what = "the channels of what it reads, or of its kernels," if seen.parameters else "its channels"
        yield f"{what} are in reverse order", exchanged(seen, None, [x[:, ::-1]])


def border_mistakes(operation: Conv | MaxPool, seen: Observation) -> Iterator[Hypothesis]:
    """Something else than nothing around the map."""
    (x,) = seen.inputs
    padding = operation.window(x.shape[1:])[2]
    if not np.any(padding):
        return
    kinds: list[tuple[str, Literal["constant", "reflect", "edge", "wrap"]]] = [
        ("the map is padded with zeros, which can win", "constant"),
        ("the border is reflected", "reflect"),
        ("the border is repeated", "edge"),
        ("the map goes on at its opposite side", "wrap"),
    ]
    for mistake, mode in kinds[isinstance(operation, Conv) :]:
        if mode == "reflect" and max(map(max, padding)) >= min(x.shape[2:]):
            continue
        padded = np.pad(x, ((0, 0), (0, 0), *padding), mode=mode)
        yield mistake, exchanged(seen, replace(operation, padding=0), [padded])


@mistakes.register
def _max_pool(operation: MaxPool, seen: Observation) -> Iterator[Hypothesis]:
    yield from border_mistakes(operation, seen)
    yield from window_mistakes(operation, seen)
    average = AveragePool(operation.kernel, operation.stride, operation.padding)
    yield "the average is taken, not the maximum", exchanged(seen, average)
    if np.any(operation.window(seen.inputs[0].shape[1:])[2]):
        mistake = "the average is taken, not the maximum, and the padding not counted"
        yield mistake, partial(average_inside, seen, average)
    yield "the minimum is taken, not the maximum", partial(_minimum, operation, seen)
    for step in (2, 3):
        yield f"the window is dilated by {step}", partial(_dilated_maximum, operation, seen, step)
        for pads in (1, 2):
            padded = replace(operation, padding=pads)
            yield f"the window is dilated by {step}, the padding {pads}", partial(_dilated_maximum, padded, seen, step)
    yield from position_mistakes(operation, seen)


def _minimum(operation: MaxPool, seen: Observation) -> Reference:
    reference = evaluate(operation, [-seen.inputs[0]], {})
    return Reference(-reference.value)


def _dilated_maximum(operation: MaxPool, seen: Observation, step: int) -> Reference:
    """Of every `step`th pixel of a window that is larger by as much."""
    (x,) = seen.inputs
    kernel, stride, padding = operation.window(x.shape[1:])
    padded = np.pad(x, ((0, 0), (0, 0), *padding), constant_values=-np.inf)
    larger = tuple(step * (length - 1) + 1 for length in kernel)
    windows = sliding_window_view(padded, larger, axis=(2, 3))[:, :, :: stride[0], :: stride[1], ::step, ::step]
    return Reference(windows.max(axis=(4, 5)))


@mistakes.register
def _average_pool(operation: AveragePool, seen: Observation) -> Iterator[Hypothesis]:
    (x,) = seen.inputs
    yield from window_mistakes(operation, seen)
    kernel, stride, _ = operation.window(x.shape[1:])
    maximum = MaxPool(operation.kernel, operation.stride, operation.padding)
    yield "the maximum is taken, not the average", exchanged(seen, maximum)
    yield "the sum is taken, not the average", partial(multiple, exchanged(seen), kernel[0] * kernel[1])
    yield "the padding is not counted", partial(average_inside, seen, operation)
    yield from position_mistakes(operation, seen)
    adaptive = AdaptiveAveragePool(seen.output.shape[2])
    yield "the windows are spread evenly (adaptive average)", exchanged(seen, adaptive)
    over: Padding = ((0, stride[0] - 1), (0, stride[1] - 1))
    same, rounded_up = replace(operation, padding=SAME), replace(operation, padding=over)
    yield "the padding is TensorFlow's SAME, and not counted", partial(average_inside, seen, same)
    mistake = "the number of windows is rounded up, and the padding not counted"
    yield mistake, partial(average_inside, seen, rounded_up)
    for size in (2, 3):
        one, tf_same = (replace(operation, kernel=size, padding=padding) for padding in (1, SAME))
        yield f"the average is over {size}×{size}, padded by 1, the padding counted", exchanged(seen, one)
        mistake = f"the average is over {size}×{size}, padded by 1, the padding not counted"
        yield mistake, partial(average_inside, seen, one)
        yield f"the average is over {size}×{size}, padded SAME, the padding counted", exchanged(seen, tf_same)
        mistake = f"the average is over {size}×{size}, padded SAME, the padding not counted"
        yield mistake, partial(average_inside, seen, tf_same)


def average_inside(seen: Observation, operation: AveragePool) -> Reference:
    """The mean over those pixels of each window that lie inside the map."""
    (x,) = seen.inputs
    reference = evaluate(operation, [x], {})
    inside = evaluate(operation, [np.ones_like(x)], {}).value
    assert reference.bound is not None
    return Reference(reference.value / inside, reference.bound / inside)


@mistakes.register
def _global_average_pool(operation: GlobalAveragePool, seen: Observation) -> Iterator[Hypothesis]:
    height, width = seen.inputs[0].shape[2:]
    count = height * width
    yield "the sum is taken, not the average", partial(multiple, exchanged(seen), count)
    yield "the maximum is taken, not the average", exchanged(seen, MaxPool((height, width)))
    for divisor in (49, 64, 25, 36, 16, height**2, width**2, count - 1):
        if divisor not in (0, count):
            yield f"the sum is divided by {divisor}, not {count}", partial(multiple, exchanged(seen), count / divisor)
    yield "only the first pixel is taken", partial(Reference, seen.inputs[0][:, :, :1, :1].astype(np.float64))


@mistakes.register
def _adaptive_average_pool(operation: AdaptiveAveragePool, seen: Observation) -> Iterator[Hypothesis]:
    for size, stride in ((5, 3), (3, 3), (4, 3), (2, 3), (3, 4), (4, 4)):
        mistake = f"the average is over windows of {size}×{size} with stride {stride}"
        yield mistake, exchanged(seen, AveragePool(size, stride))
    begin = operation.windows(seen.inputs[0].shape[2])[0]
    yield "the maximum is taken, not the average", exchanged(seen, MaxPool(begin[1] - begin[0], begin[1] - begin[0]))


@mistakes.register
def _sub_sampling(operation: SubSampling, seen: Observation) -> Iterator[Hypothesis]:
    weight, bias = seen.parameters["weight"], seen.parameters["bias"]
    yield "coefficient and bias are exchanged", exchanged(seen, weight=bias, bias=weight)
    yield "the mean is taken, not the sum", exchanged(seen, weight=weight / 4)
    yield "the coefficient is missing", exchanged(seen, weight=np.ones_like(weight))
    yield (
        "coefficient and bias are missing, and the mean is taken",
        exchanged(seen, weight=np.full_like(weight, 0.25), bias=0 * bias),
    )
    yield "the bias is missing", exchanged(seen, bias=0 * bias)
    yield "the bias is added before the coefficient is applied", exchanged(seen, bias=weight * bias)
    for factor, what in ((1.0, "the maximum is taken, not the sum"), (4.0, "four times the maximum is taken")):
        yield what, partial(_scaled_maximum, seen, factor)


def _scaled_maximum(seen: Observation, factor: float) -> Reference:
    """The maximum, exact, times a coefficient, plus a bias: two operations, and one with the factor."""
    weight, bias = (seen.parameters[name].astype(np.float64) for name in ("weight", "bias"))
    product = factor * weight * evaluate(MaxPool(2, 2), seen.inputs, {}).value
    return Reference(product + bias, gamma(3) * (np.abs(product) + np.abs(bias)) + SMALLEST_NORMAL)
