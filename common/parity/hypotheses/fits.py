"""Mistakes with a number in them that is read off the output: a factor that does not belong there, another slope.

They are tried where no mistake without such a number explains a layer: one number is chosen for the output's sake, and
all other values must bear it out (`common.parity.hypotheses.fitted`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common.oracle import Reference
from common.parity.hypotheses import ENOUGH, Observation, exchanged, fitted
from common.specs.architecture import Add, BatchNorm, Conv, Dense, ReLU

Fit = tuple[str, str, Reference]
"""A summary without the number; the mistake in words; what the layer gives with it."""


def fitted_mistakes(seen: Observation) -> Iterator[Fit]:
    """The factors, slopes and epsilons that explain as much of a layer's output as one number can."""
    right = exchanged(seen)()
    if not np.isfinite(seen.output).all():
        return
    if isinstance(seen.operation, Conv | Dense) and "bias" in seen.parameters:
        yield from _weights_or_bias(seen, right)
    elif isinstance(seen.operation, Add):
        for number, x in enumerate(seen.inputs, start=1):
            others = Reference(right.value - x, right.bound)
            yield from _factor(seen, others, x.astype(np.float64), f"operand {number} is")
    elif isinstance(seen.operation, BatchNorm):
        yield from _eps(seen.operation, seen)
    elif isinstance(seen.operation, ReLU):
        x = seen.inputs[0].astype(np.float64)
        above = Reference(np.maximum(x, 0))
        for _, mistake, reference in _factor(seen, above, np.minimum(x, 0), "negative values are"):
            yield "the ReLU is leaky", f"the ReLU is leaky: {mistake}", reference
        yield from _cap(seen, x)
    whole = Reference(np.zeros(right.value.shape), right.bound)
    yield from _factor(seen, whole, right.value.astype(np.float64), "the result is")


def _factor(seen: Observation, base: Reference, direction: np.ndarray, what: str) -> Iterator[Fit]:
    found = fitted(seen.output, base, direction)
    if found:
        factor, reference = found
        yield f"{what} multiplied by a number", f"{what} multiplied by {factor:.4g}", reference


def _weights_or_bias(seen: Observation, right: Reference) -> Iterator[Fit]:
    bias = seen.parameters["bias"].astype(np.float64).reshape(-1, *[1] * (right.value.ndim - 2))
    products = right.value - bias
    yield from _factor(seen, Reference(bias + 0 * products, right.bound), products, "the weights are")
    yield from _factor(seen, Reference(products, right.bound), bias + 0 * products, "the bias is")


def _eps(operation: BatchNorm, seen: Observation) -> Iterator[Fit]:
    """Where the scale found in a channel is gamma / √(variance + eps), eps is what is left; people write round ones."""
    x, y = seen.inputs[0].astype(np.float64), seen.output.astype(np.float64)
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    gammas, beta, mean, variance = (
        seen.parameters[name].astype(np.float64) for name in ("gamma", "beta", "mean", "variance")
    )
    axes = (0, *range(2, x.ndim))
    centred = x - mean.reshape(per_channel)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = ((y - beta.reshape(per_channel)) * centred).sum(axis=axes) / np.square(centred).sum(axis=axes)
        found = np.square(gammas / scale) - variance
    # The smaller the variance, the more eps counts.
    usable = np.isfinite(found) & (found > 0)
    if not usable.any() or usable.sum() < ENOUGH // 2:
        return
    channel = np.flatnonzero(usable)[np.argmin(variance[usable])]
    for digits in (1, 2, 4):
        eps = float(f"{found[channel]:.{digits}g}")
        if eps != operation.eps:
            evaluation = exchanged(seen, type(operation)(eps))
            yield "eps is another", f"eps is {eps:g}", evaluation()


def _cap(seen: Observation, x: np.ndarray) -> Iterator[Fit]:
    """The largest value, where several are as large."""
    cap = float(seen.output.max(initial=0))
    if int((seen.output == cap).sum()) >= ENOUGH and len(np.unique(x[x > cap])) >= ENOUGH:
        yield "the ReLU is capped", f"the ReLU is capped at {cap:g}", Reference(x.clip(0, cap))
