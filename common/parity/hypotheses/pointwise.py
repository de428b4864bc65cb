"""Known porting mistakes in layers that do not sum products: normalisation, activation, what moves values about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np

from common.oracle import ELEMENTARY_ULP, SMALLEST_NORMAL, UNIT_ROUNDOFF, Reference, evaluate, gamma, lrn_factor
from common.parity.hypotheses import ORDERS, Hypothesis, Observation, exchanged, mistakes
from common.specs.architecture import (
    LRN,
    Add,
    BatchNorm,
    Concat,
    Dropout,
    Flatten,
    ReLU,
    ScaledTanh,
    SelectChannels,
    Sigmoid,
)


@mistakes.register
def _lrn(operation: LRN, seen: Observation) -> Iterator[Hypothesis]:
    size, alpha = operation.size, operation.alpha
    alphas = {
        "alpha is not divided by the size": alpha * size,
        "alpha is divided by the size twice": alpha / size,
        "alpha is ten times too large": alpha * 10,
        "alpha is ten times too small": alpha / 10,
        "alpha is ten times too small and not divided by the size": alpha * size / 10,
    }
    for mistake, value in alphas.items():
        yield mistake, exchanged(seen, replace(operation, alpha=value))
    for window, mistake in {
        2 * size + 1: "the size is taken for a radius",
        size // 2 | 1: "a radius is taken for the size",
    }.items():
        if window != size:
            # In TensorFlow alpha / size is one number, which the window does not change; elsewhere alpha is.
            yield mistake, exchanged(seen, replace(operation, size=window, alpha=alpha * window / size))
            yield f"{mistake}, and alpha divided by it", exchanged(seen, replace(operation, size=window))
    for k in (0.5, 1.0, 2.0):
        if k != operation.k:
            yield f"k is {k:g}", exchanged(seen, replace(operation, k=k))
            undivided, divided = (replace(operation, k=k, alpha=value) for value in (alpha * size, alpha / size))
            yield f"k is {k:g} and alpha is not divided by the size", exchanged(seen, undivided)
            yield f"k is {k:g} and alpha is divided by the size twice", exchanged(seen, divided)
    defaults = LRN(size=11, alpha=11.0, beta=0.5, k=1.0)
    yield "radius 5, bias 1, alpha 1 and beta 0.5 are TensorFlow's defaults", exchanged(seen, defaults)
    for beta in (0.5, 0.75, 1.0):
        if beta != operation.beta:
            yield f"beta is {beta:g}", exchanged(seen, replace(operation, beta=beta))
    for shift in (-1, 1):
        yield f"the window is {shift:+d} channel off", partial(_shifted_lrn, operation, seen.inputs[0], shift)
    for axis, name in ((2, "height"), (3, "width")):
        yield f"the window runs along the {name}, not the channels", partial(_lrn_along, operation, seen, axis)
    yield "the normalisation is missing", partial(Reference, seen.inputs[0].astype(np.float64))


def _shifted_lrn(operation: LRN, x: np.ndarray, shift: int) -> Reference:
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    moved = slice(1 + shift, 1 + shift + x.shape[1])
    factor, relative = (array[:, moved] for array in lrn_factor(operation, padded))
    value = x * factor
    return Reference(value, relative * np.abs(value) + SMALLEST_NORMAL)


def _lrn_along(operation: LRN, seen: Observation, axis: int) -> Reference:
    turned = evaluate(operation, [seen.inputs[0].swapaxes(1, axis)], {})
    assert turned.bound is not None
    return Reference(turned.value.swapaxes(1, axis), turned.bound.swapaxes(1, axis))


_STATISTICS = ("gamma", "beta", "mean", "variance")


@mistakes.register
def _batch_norm(operation: BatchNorm, seen: Observation) -> Iterator[Hypothesis]:
    own = [seen.parameters[name] for name in _STATISTICS]
    ones, zeros = np.ones_like(own[0]), np.zeros_like(own[1])
    for eps in (1e-5, 1.001e-5, 1e-3, 1e-4, 2e-5, 1e-6, 0.0):
        if eps != operation.eps:
            yield f"eps is {eps:g}", exchanged(seen, replace(operation, eps=eps))
    yield "gamma is missing", exchanged(seen, gamma=ones)
    yield "beta is missing", exchanged(seen, beta=zeros)
    yield "gamma and beta are missing", exchanged(seen, gamma=ones, beta=zeros)
    initial = {"gamma": ones, "beta": zeros, "mean": zeros, "variance": ones}
    yield "the parameters are the initial ones", exchanged(seen, **initial)
    yield "the stored mean is missing", exchanged(seen, mean=zeros)
    yield "the stored statistics are missing", exchanged(seen, mean=zeros, variance=ones)
    yield "the normalisation is missing", partial(Reference, seen.inputs[0].astype(np.float64))
    for order in permutations(range(4)):
        names = ", ".join(_STATISTICS[place] for place in order)
        moved = [place for place in range(4) if order[place] != place]
        if moved and (own[order[3]] + operation.eps > 0).all():
            exchange = " and ".join(_STATISTICS[place] for place in moved)
            mistake = f"{exchange} are exchanged" if len(moved) == 2 else f"the parameters are taken as {names}"
            taken = {name: own[place] for name, place in zip(_STATISTICS, order, strict=True)}
            yield mistake, exchanged(seen, **taken)
    mean, variance = own[2:]
    deviation = np.sqrt(variance.astype(np.float64)) + operation.eps
    yield "eps is added behind the root", exchanged(seen, variance=deviation**2 - operation.eps)
    yield "the variance is taken for a standard deviation", exchanged(seen, variance=variance**2)
    for factor in (1000.0, 999.98236):
        what = f"mean and variance are not divided by their scale factor {factor:g} (Caffe's third blob)"
        yield what, exchanged(seen, mean=mean * np.float32(factor), variance=variance * np.float32(factor))
    for step in (1, -1):
        rolled = {name: np.roll(array, step) for name, array in zip(_STATISTICS, own, strict=True)}
        yield "the parameters are a neighbouring channel's", exchanged(seen, **rolled)
        for name in _STATISTICS:
            yield f"{name} is a neighbouring channel's", exchanged(seen, **{name: rolled[name]})
    yield "the statistics are the batch's, as in training", partial(_training_mode, operation, seen)


def _training_mode(operation: BatchNorm, seen: Observation) -> Reference:
    """Normalised with the mean m and the variance v of the n values of each channel in the batch.

    Computed in float32, |m̂ − m| ≤ γ_n Σ|x|/n. The variance's worst form is Σx²/n − m̂², in which both terms are at most
    q = Σx²/n and wrong by γ_(2n+6) of that: |v̂ − v| ≤ 2 γ_(2n+6) q =: d. The scale s is then wrong by a factor of at
    most (1 − d / (v + eps))^-½, and the result by |s| |m̂ − m|, by |s (x − m)| times that factor's excess, and by what
    `evaluate` allows. A channel in which d reaches v + eps proves nothing and certifies nothing.
    """
    x = seen.batch[0].astype(np.float64)
    axes = (0, *range(2, x.ndim))
    count = x.size // x.shape[1]
    mean, variance, square = x.mean(axis=axes), x.var(axis=axes), np.square(x).mean(axis=axes)
    reference = evaluate(operation, seen.inputs, {**seen.parameters, "mean": mean, "variance": variance})
    wide = operation.eps + variance
    doubt = np.minimum(2 * gamma(2 * count + 6) * square / wide, 1)
    with np.errstate(divide="ignore"):
        excess = np.where(doubt < 1, (1 - doubt) ** -0.5 - 1, 0)
    scale = np.abs(seen.parameters["gamma"]) / np.sqrt(wide)
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    scale, shift, excess, known = (
        array.reshape(per_channel)
        for array in (scale, (1 + excess) * gamma(count) * np.abs(x).mean(axis=axes), excess, doubt < 1)
    )
    assert reference.bound is not None
    spreads = np.abs(seen.inputs[0] - mean.reshape(per_channel))
    bound = reference.bound * (1 + excess) + scale * (shift + spreads * excess)
    return Reference(reference.value, np.where(known, bound, SMALLEST_NORMAL))


@mistakes.register
def _relu(operation: ReLU, seen: Observation) -> Iterator[Hypothesis]:
    (x,) = (array.astype(np.float64) for array in seen.inputs)
    yield "the ReLU is missing", partial(Reference, x)
    yield "the ReLU is capped at 6", partial(Reference, x.clip(0, 6))
    for slope in (0.01, 0.1, 0.2, 0.25, 0.3):
        leaky = np.where(x > 0, x, slope * x)
        yield f"the ReLU is leaky, slope {slope}", partial(Reference, leaky, gamma(3) * np.abs(leaky) + SMALLEST_NORMAL)
    yield "the absolute value is taken", partial(Reference, np.abs(x))
    yield "a sigmoid is taken, not a ReLU", exchanged(seen, Sigmoid())
    yield "a hyperbolic tangent is taken, not a ReLU", exchanged(seen, ScaledTanh(1.0, 1.0))
    exponential = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    yield (
        "an ELU is taken, not a ReLU",
        partial(Reference, exponential, UNIT_ROUNDOFF * (ELEMENTARY_ULP + 2) * (np.abs(exponential) + (x < 0))),
    )


@mistakes.register
def _sigmoid(operation: Sigmoid, seen: Observation) -> Iterator[Hypothesis]:
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


@mistakes.register
def _scaled_tanh(operation: ScaledTanh, seen: Observation) -> Iterator[Hypothesis]:
    amplitude, slope = operation.amplitude, operation.slope
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


@mistakes.register
def _flatten(operation: Flatten, seen: Observation) -> Iterator[Hypothesis]:
    """Where maps are (N, H, W, C), what is recorded has been put into the order C, H, W as if it had been H, W, C."""
    (x,) = seen.inputs
    if x.ndim != 4:
        return
    batch, channels, height, width = x.shape
    for order, axes in ORDERS.items():
        flat = x.transpose(axes).reshape(batch, -1).astype(np.float64)
        if order != "C, H, W":
            yield f"the order is {order}, not C, H, W", partial(Reference, flat)
        if order != "H, W, C":
            canonical = flat.reshape(batch, height, width, channels).transpose(0, 3, 1, 2).reshape(batch, -1)
            yield f"the order is {order}, not H, W, C", partial(Reference, canonical)


@mistakes.register
def _dropout(operation: Dropout, seen: Observation) -> Iterator[Hypothesis]:
    (x,) = (array.astype(np.float64) for array in seen.inputs)
    for keep in {1 - operation.rate, operation.rate, 0.75, 0.25}:
        scaled = x / keep
        bound = gamma(3) * np.abs(scaled) + SMALLEST_NORMAL
        yield f"every value is divided by {keep:g}", partial(Reference, scaled, bound)
        dropped = np.where(seen.output == 0, 0, scaled)
        yield f"dropout is active, and divides what it keeps by {keep:g}", partial(Reference, dropped, bound)
    for factor in {1 - operation.rate, operation.rate}:
        yield f"every value is multiplied by {factor:g}", partial(Reference, x * factor, gamma(2) * np.abs(x))
    yield "dropout is active, and does not scale", partial(Reference, np.where(seen.output == 0, 0, x))


@mistakes.register
def _add(operation: Add, seen: Observation) -> Iterator[Hypothesis]:
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
        yield "the operands are multiplied", partial(Reference, left * right, gamma(1) * np.abs(left * right))
        yield "the larger operand is taken", partial(Reference, np.maximum(left, right))
        half = (left + right) / 2
        yield "the operands are averaged", partial(Reference, half, gamma(2) * (np.abs(left) + np.abs(right)))


@mistakes.register
def _concat(operation: Concat, seen: Observation) -> Iterator[Hypothesis]:
    order = _order_of_pieces(seen)
    if order and order != sorted(order):
        numbers = ", ".join(str(place + 1) for place in order)
        in_order = [seen.inputs[place] for place in order]
        reverse = order == sorted(order, reverse=True)
        mistake = "the inputs are in reverse order" if reverse else f"the inputs are in the order {numbers}"
        yield mistake, exchanged(seen, None, in_order)


def _order_of_pieces(seen: Observation) -> list[int] | None:
    """Which input each piece of the output is, if every one is one of them."""
    order: list[int] = []
    begin = 0
    while begin < seen.output.shape[1]:
        for place, x in enumerate(seen.inputs):
            if place not in order and np.array_equal(seen.output[:, begin : begin + x.shape[1]], x):
                order.append(place)
                begin += x.shape[1]
                break
        else:
            return None
    return order


@mistakes.register
def _select_channels(operation: SelectChannels, seen: Observation) -> Iterator[Hypothesis]:
    """Each channel of the output is looked up in the input: a choice can be told from what was chosen."""
    (x,) = seen.inputs
    found = [
        next((number for number in range(x.shape[1]) if np.array_equal(x[:, number], channel)), None)
        for channel in seen.output.swapaxes(0, 1)
    ]
    chosen = tuple(number for number in found if number is not None)
    if len(chosen) == len(found):
        mistake = f"the channels {chosen} are taken, not {operation.channels}"
        yield mistake, exchanged(seen, SelectChannels(chosen))
