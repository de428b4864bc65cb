"""The oracle of the backward pass: every operation's gradients in float64, and how far float32 may be from them.

Like `common.oracle`, this is about one layer at a time: given the layer's own input and the gradient by its output,
both as a backend recorded them in float32, it says what the gradients by its inputs and parameters are. Nothing
accumulates over the depth of a network. Bounds are of first order, with what products of two errors add covered by
`SECOND_ORDER`; u, γ_n and E are those of `common.oracle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from math import prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.errors import TriptychError
from common.oracle import (
    ELEMENTARY_ULP,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    binary_exponent,
    evaluated_shape,
    gamma,
    lrn_factor,
)
from common.specs.architecture import (
    LRN,
    AdaptiveAveragePool,
    Add,
    AveragePool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Operation,
    Padding,
    Pair,
    ReLU,
    ScaledTanh,
    SelectChannels,
    Sigmoid,
    SubSampling,
)

SECOND_ORDER = 1.01
"""Products of two rounding errors are below a hundredth of the larger."""

Arrays = list[np.ndarray]
Parameters = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Gradient:
    """One gradient; all arrays have its shape."""

    value: np.ndarray
    """float64."""
    bound: np.ndarray
    """float64, the largest |computed − value| that float32 explains."""
    magnitude: np.ndarray | None = None
    """Σ|product| of each element, where it is a sum of products and of nothing else: with integers it is exact then."""
    choice: np.ndarray | None = None
    """How much of it may go elsewhere instead, or come from elsewhere, where that is left to the framework."""


@dataclass(frozen=True)
class Gradients:
    """What an operation hands back."""

    inputs: list[Gradient]
    parameters: dict[str, Gradient] = field(default_factory=dict)


def backward(
    operation: Operation, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """The gradients of Σ dy · y by the inputs and parameters of y = operation(inputs).

    Args:
        operation: from a specification.
        inputs: float32, (N, C, H, W) or (N, features).
        parameters: float32, in the canonical layout, keyed `weight`, `bias`, ….
        dy: float32, the gradient by the output.
        training: whether batch normalisation uses the statistics of the batch.

    Raises:
        TriptychError: the operation does not take arrays of these shapes.
    """
    expected = evaluated_shape(operation, inputs, parameters)
    if dy.shape != expected:
        found, of_output = ("×".join(map(str, shape)) for shape in (dy.shape, expected))
        raise TriptychError(f"the gradient by the output of {operation.kind} is {found}, expected {of_output}")
    return _backward(operation, inputs, parameters, dy, training)


@singledispatch
def _backward(
    operation: Operation, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    raise NotImplementedError(f"the oracle does not know the gradient of {operation.kind}")


def _summed(terms: int, value: np.ndarray, magnitude: np.ndarray) -> Gradient:
    """A sum of products: γ_n Σ|product|, in every order."""
    return Gradient(value, gamma(terms + 1) * magnitude + terms * SMALLEST_NORMAL, magnitude)


def _chosen(value: np.ndarray) -> Gradient:
    """A choice or a copy: nothing is rounded."""
    return Gradient(value, np.zeros_like(value), np.abs(value))


def _double(*arrays: np.ndarray) -> Arrays:
    return [array.astype(np.float64) for array in arrays]


# Sums of products


def _windows(image: np.ndarray, kernel: Pair, stride: Pair, padding: Padding, fill: float = 0.0) -> np.ndarray:
    """A view of every window: (N, C, output height, output width, kernel height, kernel width)."""
    padded = np.pad(image, ((0, 0), (0, 0), *padding), constant_values=fill)
    return sliding_window_view(padded, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]


def _scattered(windows: np.ndarray, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Padding) -> np.ndarray:
    """The transpose of `_windows`: every element of every window added to where it came from."""
    (top, bottom), (left, right) = padding
    image = np.zeros((*shape[:2], shape[2] + top + bottom, shape[3] + left + right))
    height, width = windows.shape[2:4]
    for i, j in np.ndindex(*kernel):
        rows = slice(i, i + stride[0] * (height - 1) + 1, stride[0])
        columns = slice(j, j + stride[1] * (width - 1) + 1, stride[1])
        image[:, :, rows, columns] += windows[..., i, j]
    return image[:, :, top : top + shape[2], left : left + shape[3]]


@_backward.register
def _conv(operation: Conv, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False) -> Gradients:
    """∂x sums over filters and the windows an element lies in; ∂w and ∂b over all positions of all images."""
    x, w = inputs[0], parameters["weight"]
    dx, dw = _products(operation, *_double(x, w, dy))
    # What scales the bounds is computed in float32, on factors divided by powers of two so that nothing overflows.
    exponents = [binary_exponent(array) for array in (x, w, dy)]
    of_dx, of_dw = _products(operation, *(np.abs(np.ldexp(a, -e)) for a, e in zip((x, w, dy), exponents, strict=True)))
    of_x, of_w, of_dy = exponents
    kernel, _, _ = operation.window(x.shape[1:])
    positions, fan_out = dy.size // operation.filters, operation.filters // operation.groups * prod(kernel)
    gradients = {"weight": _summed_in_float32(positions, dw, of_dw, of_x + of_dy)}
    if operation.bias:
        dy = dy.astype(np.float64)
        gradients["bias"] = _summed(positions, dy.sum((0, 2, 3)), np.abs(dy).sum((0, 2, 3)))
    return Gradients([_summed_in_float32(fan_out, dx, of_dx, of_w + of_dy)], gradients)


_ELEMENTS_AT_ONCE = 1 << 18
"""How many factors are laid out at once: few enough to stay in the processor's cache."""


def _products(operation: Conv, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """∂x and ∂w in the precision of the factors, a few rows at a time."""
    kernel, stride, padding = operation.window(x.shape[1:])
    windows = _windows(x, kernel, stride, padding)
    batch, channels, height, width = windows.shape[:4]
    w_by_group = w.reshape(operation.groups, operation.filters // operation.groups, -1)
    (top, bottom), (left, right) = padding
    dx = np.zeros((batch, channels, x.shape[2] + top + bottom, x.shape[3] + left + right), x.dtype)
    dw = np.zeros_like(w_by_group)
    rows_at_once = max(1, _ELEMENTS_AT_ONCE // (channels * prod(kernel) * width))
    for image in range(batch):
        for first in range(0, height, rows_at_once):
            block = windows[image, :, first : first + rows_at_once]
            rows = block.shape[1]
            columns = block.transpose(0, 3, 4, 1, 2).reshape(operation.groups, w_by_group.shape[2], rows * width)
            dy_by_group = dy[image, :, first : first + rows].reshape(operation.groups, -1, rows * width)
            dw += dy_by_group @ columns.transpose(0, 2, 1)
            spread = (w_by_group.transpose(0, 2, 1) @ dy_by_group).reshape(channels, *kernel, rows, width)
            for i, j in np.ndindex(*kernel):
                top_row = first * stride[0] + i
                down = slice(top_row, top_row + stride[0] * (rows - 1) + 1, stride[0])
                across = slice(j, j + stride[1] * (width - 1) + 1, stride[1])
                dx[image, :, down, across] += spread[:, i, j]
    return dx[:, :, top : top + x.shape[2], left : left + x.shape[3]], dw.reshape(w.shape)


def _summed_in_float32(terms: int, value: np.ndarray, magnitude: np.ndarray, exponent: int) -> Gradient:
    """`_summed`, for a magnitude in float32 that was divided by a power of two.

    It is at least (1 − γ_n) of the true one; what underflow took from it is added.
    """
    scale = 2.0**exponent
    whole = magnitude * np.float64(scale / (1 - 2 * gamma(terms))) + terms * SMALLEST_NORMAL * (1 + scale)
    return _summed(terms, value, whole)


@_backward.register
def _dense(
    operation: Dense, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    x, dy = _double(inputs[0], dy)
    weight, batch = parameters["weight"], len(x)
    dx, magnitude = np.zeros_like(x), np.zeros_like(x)
    units_at_once = max(1, _ELEMENTS_AT_ONCE // weight.shape[1])
    for first in range(0, operation.units, units_at_once):
        units = slice(first, first + units_at_once)
        w = weight[units].astype(np.float64)
        dx += dy[:, units] @ w
        magnitude += np.abs(dy[:, units]) @ np.abs(w)
    return Gradients(
        [_summed(operation.units, dx, magnitude)],
        {
            "weight": _summed(batch, dy.T @ x, np.abs(dy.T) @ np.abs(x)),
            "bias": _summed(batch, dy.sum(0), np.abs(dy).sum(0)),
        },
    )


@_backward.register
def _sub_sampling(
    operation: SubSampling, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """The window's sum may be four times its mean: two products more, both by powers of two."""
    x, w, dy = _double(inputs[0], parameters["weight"], dy)
    sums, magnitudes = (_windows(array, (2, 2), (2, 2), ((0, 0), (0, 0))).sum(axis=(4, 5)) for array in (x, np.abs(x)))
    spread = np.zeros_like(x)
    height, width = dy.shape[2:]
    spread[:, :, : 2 * height, : 2 * width] = (dy * w).repeat(2, axis=2).repeat(2, axis=3)
    over, count = (0, 2, 3), dy.size // dy.shape[1]
    return Gradients(
        [_summed(3, spread, np.abs(spread))],
        {
            "weight": _summed(
                count + 4, (dy * sums).sum(over).reshape(w.shape), (np.abs(dy) * magnitudes).sum(over).reshape(w.shape)
            ),
            "bias": _summed(count, dy.sum(over).reshape(w.shape), np.abs(dy).sum(over).reshape(w.shape)),
        },
    )


# Choices and copies


@_backward.register
def _relu(operation: ReLU, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False) -> Gradients:
    """Every framework takes 0 as the derivative at 0."""
    return Gradients([_chosen(np.where(inputs[0] > 0, dy, 0).astype(np.float64))])


@_backward.register
def _max_pool(
    operation: MaxPool, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """To the largest of each window; where that stands in it more than once, to any of these.

    Frameworks choose differently then. Behind a ReLU, whose zeros are what most ties are made of, a padding of zeros is
    as good as none, and takes the gradient too; nothing is lost by it, since the derivative there is 0.
    """
    kernel, stride, padding = operation.window(inputs[0].shape[1:])
    windows = _windows(inputs[0].astype(np.float64), kernel, stride, padding, fill=-np.inf)
    flat = windows.reshape(*windows.shape[:4], kernel[0] * kernel[1])
    routed = np.zeros(flat.shape)
    np.put_along_axis(routed, flat.argmax(-1)[..., None], dy.astype(np.float64)[..., None], -1)
    largest = windows.max((4, 5), keepdims=True)
    among = _windows(inputs[0].astype(np.float64), kernel, stride, padding) == largest
    tied = (windows == largest) & (among.sum((4, 5), keepdims=True) > 1)
    value, magnitude, open_to_choice = (
        _scattered(array, inputs[0].shape, kernel, stride, padding)
        for array in (
            routed.reshape(windows.shape),
            np.abs(routed).reshape(windows.shape),
            tied * np.abs(dy.astype(np.float64))[..., None, None],
        )
    )
    if not tied.any():
        return Gradients([_summed(kernel[0] * kernel[1], value, magnitude)])
    bound = _summed(kernel[0] * kernel[1], value, magnitude + open_to_choice).bound
    return Gradients([Gradient(value, bound, choice=open_to_choice)])


@_backward.register
def _add(operation: Add, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False) -> Gradients:
    return Gradients([_chosen(dy.astype(np.float64)) for _ in inputs])


@_backward.register
def _concat(
    operation: Concat, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    ends = np.cumsum([x.shape[1] for x in inputs])[:-1]
    return Gradients([_chosen(part) for part in np.split(dy.astype(np.float64), ends, axis=1)])


@_backward.register
def _select_channels(
    operation: SelectChannels, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    value = np.zeros(inputs[0].shape)
    value[:, list(operation.channels)] = dy
    return Gradients([_chosen(value)])


@_backward.register
def _flatten(
    operation: Flatten, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    return Gradients([_chosen(dy.astype(np.float64).reshape(inputs[0].shape))])


@_backward.register
def _dropout(
    operation: Dropout, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """Turned off."""
    return Gradients([_chosen(dy.astype(np.float64))])


# Averages


@_backward.register
def _average_pool(
    operation: AveragePool, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    kernel, stride, padding = operation.window(inputs[0].shape[1:])
    return Gradients([_averaged(inputs[0], dy, kernel, stride, padding)])


@_backward.register
def _global_average_pool(
    operation: GlobalAveragePool, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    height, width = inputs[0].shape[2:]
    return Gradients([_averaged(inputs[0], dy, (height, width), (1, 1), ((0, 0), (0, 0)))])


@_backward.register
def _adaptive_average_pool(
    operation: AdaptiveAveragePool, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    rows, columns = (operation.windows(length) for length in inputs[0].shape[2:])
    value, magnitude = np.zeros(inputs[0].shape), np.zeros(inputs[0].shape)
    count = (rows[0][1] - rows[0][0]) * (columns[0][1] - columns[0][0])
    for (i, (top, bottom)), (j, (left, right)) in ((r, c) for r in enumerate(rows) for c in enumerate(columns)):
        share = dy[:, :, i, j].astype(np.float64)[..., None, None] / count
        value[:, :, top:bottom, left:right] += share
        magnitude[:, :, top:bottom, left:right] += np.abs(share)
    return Gradients([_inexact_unless_power_of_two(count, _summed(count + 1, value, magnitude))])


def _averaged(x: np.ndarray, dy: np.ndarray, kernel: Pair, stride: Pair, padding: Padding) -> Gradient:
    """dy ÷ n, or times a rounded 1/n, added up over the windows an element lies in."""
    count = kernel[0] * kernel[1]
    shares = np.broadcast_to((dy.astype(np.float64) / count)[..., None, None], (*dy.shape, *kernel))
    value, magnitude = (_scattered(array, x.shape, kernel, stride, padding) for array in (shares, np.abs(shares)))
    return _inexact_unless_power_of_two(count, _summed(count + 1, value, magnitude))


def _inexact_unless_power_of_two(count: int, gradient: Gradient) -> Gradient:
    return gradient if count & (count - 1) == 0 else Gradient(gradient.value, gradient.bound)


# Functions that round whatever they are given


@_backward.register
def _sigmoid(
    operation: Sigmoid, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """dy · y (1 − y), where y has the error of the forward pass, u (E + 3) (y + 1/2), and 1 − y one rounding more."""
    x, dy = _double(inputs[0], dy)
    y = 1 / (1 + np.exp(-x))
    of_y = UNIT_ROUNDOFF * (ELEMENTARY_ULP + 3) * (y + 0.5)
    bound = np.abs(dy) * (of_y * (np.abs(1 - 2 * y) + of_y) + 4 * UNIT_ROUNDOFF * y)
    return Gradients([Gradient(dy * y * (1 - y), SECOND_ORDER * bound + 4 * SMALLEST_NORMAL)])


@_backward.register
def _scaled_tanh(
    operation: ScaledTanh, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """dy · A·s (1 − t²), where t has relative error (E + 2) u, and the difference is rounded at the scale of 1."""
    x, dy = _double(inputs[0], dy)
    t = np.tanh(operation.slope * x)
    factor = np.abs(dy) * operation.amplitude * operation.slope
    bound = factor * UNIT_ROUNDOFF * (2 * t * t * (ELEMENTARY_ULP + 3) + 2 + 6 * (1 - t * t))
    value = dy * operation.amplitude * operation.slope * (1 - t * t)
    return Gradients([Gradient(value, SECOND_ORDER * bound + 6 * SMALLEST_NORMAL)])


@_backward.register
def _lrn(operation: LRN, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False) -> Gradients:
    """dy_j s_j^-β − 2αβ/n · x_j Σ dy_c x_c s_c^(−β−1), the sum over the channels c whose window holds j.

    The first term has the relative error of the forward pass; each term of the sum that of its power, and a few
    products more.
    """
    x, dy = _double(inputs[0], dy)
    first, error = lrn_factor(operation, x)
    steeper = LRN(operation.size, operation.alpha, operation.beta + 1, operation.k)
    second, second_error = lrn_factor(steeper, x)
    before = (operation.size - 1) // 2
    padding = ((0, 0), (operation.size - 1 - before, before), (0, 0), (0, 0))

    def spread(terms: np.ndarray) -> np.ndarray:
        return sliding_window_view(np.pad(terms, padding), operation.size, axis=1).sum(-1)

    scale = 2 * operation.alpha * operation.beta / operation.size
    term = dy * x * second
    value = dy * first - scale * x * spread(term)
    own, others = np.abs(dy) * first, scale * np.abs(x)
    bound = (error + 2 * UNIT_ROUNDOFF) * own + others * spread(
        np.abs(term) * (second_error + error + gamma(operation.size + 10))
    )
    return Gradients([Gradient(value, SECOND_ORDER * bound + 10 * SMALLEST_NORMAL)])


@_backward.register
def _batch_norm(
    operation: BatchNorm, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool = False
) -> Gradients:
    """With r = 1 / √(variance + eps), x̂ = (x − mean) r, g = gamma.

    Stored statistics: ∂x = dy·g·r, ∂g = Σ dy·x̂, ∂b = Σ dy. Statistics of the batch: ∂x = g·r (dy − m(dy) − x̂ m(dy·x̂)),
    m being the mean over images and positions. There the variance may be computed as m(x²) − m(x)², whose rounding is
    relative to m(x²); through r it reaches everything.
    """
    x, dy, g = _double(inputs[0], dy, parameters["gamma"])
    over, shape = tuple(axis for axis in range(x.ndim) if axis != 1), (1, -1, *[1] * (x.ndim - 2))
    count = dy.size // dy.shape[1]

    def average(array: np.ndarray) -> np.ndarray:
        return array.mean(axis=over, keepdims=True)

    if training:
        mean, square = average(x), average(np.square(x))
        variance = average(np.square(x - mean))
        of_mean = gamma(count + 2) * average(np.abs(x))
        of_variance = gamma(count + 5) * 2 * square / (variance + operation.eps)
    else:
        mean, variance = (parameters[name].astype(np.float64).reshape(shape) for name in ("mean", "variance"))
        of_mean, of_variance = np.zeros(mean.shape), np.full(mean.shape, UNIT_ROUNDOFF * 2)
    r = 1 / np.sqrt(variance + operation.eps)
    of_r = of_variance / 2 + (ELEMENTARY_ULP + 3) * UNIT_ROUNDOFF  # relative
    x_hat = (x - mean) * r
    of_x_hat = r * (of_mean + 2 * UNIT_ROUNDOFF * (np.abs(x) + np.abs(mean))) + np.abs(x_hat) * of_r
    g = g.reshape(shape)
    weighted, of_weighted = (np.abs(dy) * array for array in (np.abs(x_hat), of_x_hat))
    if training:
        m, mx = average(dy), average(dy * x_hat)
        value = g * r * (dy - m - x_hat * mx)
        whole = np.abs(dy) + average(np.abs(dy)) + np.abs(x_hat) * average(weighted)
        inner = gamma(count + 8) * whole + of_x_hat * average(weighted) + np.abs(x_hat) * average(of_weighted)
        bound = np.abs(g) * r * (inner + of_r * whole)
    else:
        value = dy * g * r
        bound = np.abs(value) * (of_r + 3 * UNIT_ROUNDOFF)
    gamma_bound = gamma(count + 3) * weighted.sum(over) + of_weighted.sum(over)
    parameters_ = {
        "gamma": Gradient((dy * x_hat).sum(over), SECOND_ORDER * gamma_bound + count * SMALLEST_NORMAL),
        "beta": _summed(count, dy.sum(over), np.abs(dy).sum(over)),
    }
    return Gradients([Gradient(value, SECOND_ORDER * bound + 6 * SMALLEST_NORMAL)], parameters_)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> Gradient:
    """The gradient of the mean cross-entropy by the logits, (softmax − one-hot) / N.

    The largest logit is subtracted first, exactly up to one rounding of each difference, which moves its exponential by
    |difference|·u; the sum of C exponentials and the quotient add γ_(C+1), and the exponential E.
    """
    z = logits.astype(np.float64)
    difference = z - z.max(1, keepdims=True)
    p = np.exp(difference)
    p /= p.sum(1, keepdims=True)
    spread = UNIT_ROUNDOFF * (np.abs(difference) + ELEMENTARY_ULP)
    relative = spread + (spread * p).sum(1, keepdims=True) + gamma(z.shape[1] + 4)
    # A softmax may also come as exp(log-softmax), whose logarithm is rounded at its own size.
    relative += UNIT_ROUNDOFF * (np.abs(np.log(np.maximum(p, 1e-300))) + ELEMENTARY_ULP)
    one_hot = np.eye(z.shape[1])[labels]
    bound = SECOND_ORDER * (p * relative + 3 * UNIT_ROUNDOFF * np.abs(p - one_hot)) / len(z)
    return Gradient((p - one_hot) / len(z), bound + 4 * SMALLEST_NORMAL)
