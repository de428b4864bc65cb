"""Known porting mistakes in normalisation: across channels, and with statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import permutations
from math import prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.oracle import ELEMENTARY_ULP, SMALLEST_NORMAL, UNIT_ROUNDOFF, Reference, evaluate, gamma, lrn_factor
from common.parity.hypotheses import Hypothesis, Observation, exchanged, mistakes
from common.specs.architecture import LRN, BatchNorm


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
    yield "the window runs over height and width, not the channels", partial(_lrn_in_space, operation, seen)
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


def _lrn_in_space(operation: LRN, seen: Observation) -> Reference:
    """Within each channel, as Caffe's WITHIN_CHANNEL: size² squares, so that their sum has as many roundings."""
    (x,) = seen.inputs
    before = (operation.size - 1) // 2
    over = (before, operation.size - 1 - before)
    padded = np.pad(np.square(x.astype(np.float64)), ((0, 0), (0, 0), over, over))
    squares = sliding_window_view(padded, (operation.size, operation.size), (2, 3)).sum((-2, -1))
    scale = operation.k + operation.alpha / operation.size**2 * squares
    value = x * scale**-operation.beta
    power = UNIT_ROUNDOFF * (ELEMENTARY_ULP + 2) * (1 + np.abs(operation.beta * np.log(scale)))
    relative = 1.001 * (operation.beta * gamma(operation.size**2 + 5) + power)
    return Reference(value, relative * np.abs(value) + (1 + np.abs(x)) * SMALLEST_NORMAL)


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
    yield "the stored variance is missing", exchanged(seen, variance=ones)
    yield "the stored variance is taken for 0", exchanged(seen, variance=zeros)
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
    squared = (variance.astype(np.float64) + operation.eps) ** 2 - operation.eps
    yield "the root of the variance is missing", exchanged(seen, variance=squared)
    for factor in (1000.0, 999.98236):
        what = f"mean and variance are not divided by their scale factor {factor:g} (Caffe's third blob)"
        yield what, exchanged(seen, mean=mean * np.float32(factor), variance=variance * np.float32(factor))
    for step in (1, -1):
        rolled = {name: np.roll(array, step) for name, array in zip(_STATISTICS, own, strict=True)}
        yield "the parameters are a neighbouring channel's", exchanged(seen, **rolled)
        for name in _STATISTICS:
            yield f"{name} is a neighbouring channel's", exchanged(seen, **{name: rolled[name]})
    yield from _of_the_input(operation, seen)


def _of_the_input(operation: BatchNorm, seen: Observation) -> Iterator[Hypothesis]:
    """Statistics of what the layer is given. Where there is one image, its own and the batch's are the same."""
    (x,), batch = seen.inputs, seen.batch[0]
    over = tuple(range(2, x.ndim))
    whole, each = (0, *over), over
    yield "the statistics are the batch's, as in training", partial(_own_statistics, operation, seen, batch, whole)
    mean_only = partial(_own_statistics, operation, seen, batch, whole, stored="variance")
    yield "the mean is the batch's, the variance the stored one", mean_only
    variance_only = partial(_own_statistics, operation, seen, batch, whole, stored="mean")
    yield "the variance is the batch's, the mean the stored one", variance_only
    if not over:
        return
    plain = replace(seen, parameters={"gamma": np.ones(x.shape[1]), "beta": np.zeros(x.shape[1])})
    yield (
        "the statistics are each image's own (instance normalisation)",
        partial(_own_statistics, operation, seen, x, each),
    )
    yield (
        "the statistics are each image's own, gamma and beta are missing (instance normalisation)",
        partial(_own_statistics, operation, plain, x, each),
    )
    for groups in (1, 2, 4, 8, 16, 32):
        if groups < x.shape[1] and x.shape[1] % groups == 0:
            what = f"group normalisation, {groups} groups" if groups > 1 else "layer normalisation"
            mistake = f"the statistics are each image's own, over many channels ({what})"
            yield mistake, partial(_own_statistics, operation, seen, x, each, groups=groups)
    yield (
        "the statistics are each pixel's own, over all channels (layer normalisation)",
        partial(_own_statistics, operation, seen, x, (1,)),
    )


def _own_statistics(
    operation: BatchNorm,
    seen: Observation,
    x: np.ndarray,
    axes: tuple[int, ...],
    stored: str | None = None,
    groups: int | None = None,
) -> Reference:
    """Normalised with the mean m and the variance v of the n values along `axes` of `x`, or along a group's channels.

    Computed in float32, |m̂ − m| ≤ γ_n Σ|x|/n. The variance's worst form is Σx²/n − m̂², in which both terms are at most
    q = Σx²/n and wrong by γ_(2n+6) of that: |v̂ − v| ≤ 2 γ_(2n+6) q =: d. The scale s is then wrong by a factor of at
    most (1 − d / (v + eps))^-½, and the result by |s| |m̂ − m|, by |s (x − m)| times that factor's excess, and by what
    `evaluate` allows for the rest. Where d reaches v + eps nothing is proved, and nothing certified.

    Args:
        operation: the normalisation that it should have been.
        seen: the layer; `gamma` and `beta` are its own.
        x: what the statistics are of: the layer's input, or the batch that it is from.
        axes: of (N, C, …).
        stored: which statistic is the stored one after all: `mean` or `variance`.
        groups: how many groups of channels are each normalised together, if any are.
    """
    given = seen.inputs[0].astype(np.float64)
    per_channel = (1, -1, *[1] * (given.ndim - 2))
    values = x.astype(np.float64)
    if groups:
        values = values.reshape(len(x), groups, -1)
        axes = (2,)
    count = prod(values.shape[axis] for axis in axes)

    def spread(statistic: np.ndarray) -> np.ndarray:
        """One for each element of the input, or that can be broadcast to it."""
        if groups:
            return np.repeat(statistic[..., 0], given.shape[1] // groups, axis=1).reshape(
                *statistic.shape[:1], -1, *per_channel[2:]
            )
        return statistic

    mean, variance, square, size = (
        spread(f(axis=axes, keepdims=True))
        for f in (values.mean, values.var, np.square(values).mean, np.abs(values).mean)
    )
    moved, doubt = gamma(count) * size, 2 * gamma(2 * count + 6) * square
    if stored == "mean":
        mean, moved = seen.parameters["mean"].astype(np.float64).reshape(per_channel), np.zeros(1)
    if stored == "variance":
        variance, doubt = seen.parameters["variance"].astype(np.float64).reshape(per_channel), np.zeros(1)
    scale, shift = (seen.parameters[name].astype(np.float64).reshape(per_channel) for name in ("gamma", "beta"))
    doubt = np.minimum(doubt / (variance + operation.eps), 1)
    with np.errstate(divide="ignore"):
        excess = np.where(doubt < 1, (1 - doubt) ** -0.5 - 1, 0)
    scale = scale / np.sqrt(variance + operation.eps)
    value = (given - mean) * scale + shift
    rounding = gamma(ELEMENTARY_ULP + 6) * (np.abs(scale) * (np.abs(given) + np.abs(mean)) + np.abs(shift))
    bound = (rounding + 6 * SMALLEST_NORMAL * (1 + np.abs(scale))) * (1 + excess)
    bound += np.abs(scale) * ((1 + excess) * moved + np.abs(given - mean) * excess)
    return Reference(value, np.where(doubt < 1, bound, SMALLEST_NORMAL))
