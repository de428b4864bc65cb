"""Batch normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.mistake import ENOUGH, exchanged
from common.operations.moments import Moments, moments_of, standardised
from common.operations.onnx_node import OnnxGraph, OnnxNode, Parameter, Unread
from common.operations.onnx_table import reads
from common.operations.operation import Fit, Found, Hypothesis, Observation, Operation, in_double
from common.operations.overflow import sums_that_overflow
from common.operations.rounding import (
    CARRIED,
    ELEMENTARY_ULP,
    SECOND_ORDER,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Gradient,
    Gradients,
    Reference,
    gamma,
    summed,
)

STATISTICS = ("gamma", "beta", "mean", "variance")


def _line(x: np.ndarray, slope: np.ndarray, least: np.ndarray) -> np.ndarray:
    """x · slope + least, not negative: in float32 where that has the range.

    Its three roundings are less than that by which γ_10 exceeds what it bounds.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if x.dtype == np.float32 and ((slope == 0) | (slope > 2.0**-60)).all():
            line: np.ndarray = x * slope.astype(np.float32)
            line += least.astype(np.float32)
            if line.max(initial=0) < 2.0**60:
                return line
        return x.astype(np.float64) * slope + least


@reads("BatchNormalization")
@dataclass(frozen=True)
class BatchNorm(Operation):
    """gamma · (x − mean) / √(variance + eps) + beta for each channel, with stored statistics."""

    eps: float

    integers_before: ClassVar[int] = 1
    channelwise: ClassVar[bool] = True
    rounds_once: ClassVar[bool] = False

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return dict.fromkeys(STATISTICS, self._only(inputs)[:1])

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """With s = gamma / √(variance + eps): |ŷ − y| ≤ γ_(E+6) (|s| (|x| + |mean|) + |beta|), E = `ELEMENTARY_ULP`.

        The sum under the root and the rounding of eps are halved by it, together one u; the inverse root takes E, or 2
        as a root and a quotient; the product with gamma one: s has E + 2. Computed as (x − mean)·s + beta, three more;
        computed as x·s + (beta − mean·s), four at most after mean·s.

        Integers do not make it exact: TensorFlow's vectorised inverse root of 1 is 1 − 2^-23 on a CPU.
        """
        (x,) = inputs
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale, shift, mean, variance = (
            parameters[name].astype(np.float64).reshape(shape) for name in ("gamma", "beta", "mean", "variance")
        )
        scale = scale / np.sqrt(variance + self.eps)
        relative = gamma(ELEMENTARY_ULP + 6)
        least = relative * (np.abs(scale * mean) + np.abs(shift)) + 6 * SMALLEST_NORMAL * (1 + np.abs(scale))
        bound = _line(np.abs(x), relative * np.abs(scale), least)
        value = x.astype(np.float64)
        value *= scale
        value += shift - mean * scale
        return Reference(value, bound)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """WGSL's inverseSqrt is off by 4u, which is E."""
        return bound

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        """Implementations choose which operand is where."""
        return sums_that_overflow(self.reference, inputs, parameters, largest=self._largest_intermediate)

    def _largest_intermediate(self, x: np.ndarray, parameters: Parameters) -> np.ndarray:
        shape = (1, -1, *[1] * (x.ndim - 2))
        gammas, beta, mean, variance = (
            np.abs(parameters[name].astype(np.float64)).reshape(shape) for name in STATISTICS
        )
        factor = gammas / np.sqrt(variance + self.eps)
        return (np.abs(x) + mean) * np.maximum(factor, 1) + beta + factor + gammas

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """With r = 1 / √(variance + eps), x̂ = (x − mean) r, g = gamma.

        Stored statistics: ∂x = dy·g·r, ∂g = Σ dy·x̂, ∂b = Σ dy. Statistics of the batch: ∂x = g·r (dy − m(dy) − x̂
        m(dy·x̂)), m being the mean over images and positions. There the variance may be computed as m(x²) − m(x)²,
        whose rounding is relative to m(x²); through r it reaches everything.
        """
        x, dy, g = in_double(inputs[0], dy, parameters["gamma"])
        over, shape = tuple(axis for axis in range(x.ndim) if axis != 1), (1, -1, *[1] * (x.ndim - 2))
        count = dy.size // dy.shape[1]

        def average(array: np.ndarray) -> np.ndarray:
            return array.mean(axis=over, keepdims=True)

        if training:
            mean, square = average(x), average(np.square(x))
            variance = average(np.square(x - mean))
            of_mean = gamma(count + 2) * average(np.abs(x))
            of_variance = gamma(count + 5) * 2 * square / (variance + self.eps)
        else:
            mean, variance = (parameters[name].astype(np.float64).reshape(shape) for name in ("mean", "variance"))
            of_mean, of_variance = np.zeros(mean.shape), np.full(mean.shape, UNIT_ROUNDOFF * 2)
        r = 1 / np.sqrt(variance + self.eps)
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
            "beta": summed(count, dy.sum(over), np.abs(dy).sum(over)),
        }
        return Gradients([Gradient(value, SECOND_ORDER * bound + 6 * SMALLEST_NORMAL)], parameters_)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """|s|·e with the scale s = gamma / √(variance + eps)."""
        scale = parameters["gamma"].astype(np.float64) / np.sqrt(parameters["variance"].astype(np.float64) + self.eps)
        return CARRIED * np.abs(scale).reshape(1, -1, *[1] * (errors[0].ndim - 2)) * errors[0]

    def carried_from(self, inputs: Arrays, errors: Arrays, parameters: Parameters, doubts: Parameters) -> np.ndarray:
        """With errors e of x, and e_g, e_b, e_m, e_v of the parameters, such as statistics of the batch.

        The inverse root r = 1 / √(v + eps) falls and is convex, so it moves most if v is smaller: to
        R = 1 / √(v − e_v + eps). With s = gamma · r and S = (|gamma| + e_g) R

        |ŝ (x̂ − m̂) + b̂ − s (x − m) − b| ≤ S (e + e_m) + (e_g R + |gamma| (R − r)) |x − m| + e_b.

        `reference` rounds relative to |s| (|x| + |m|) + |b|. With these errors that is larger by up to
        (S − |s|) (|x| + |m|) + S (e + e_m) + e_b, of which γ_(E+6) is added.
        """
        if not doubts:
            return self.carried(inputs, errors, parameters)
        x, error = inputs[0].astype(np.float64), errors[0]
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale, _, mean, variance = (parameters[name].astype(np.float64).reshape(shape) for name in STATISTICS)
        scale = np.abs(scale)
        none = np.zeros(scale.shape)
        of_scale, of_shift, of_mean, of_variance = (
            doubts[name].reshape(shape) if name in doubts else none for name in STATISTICS
        )
        least = variance - of_variance + self.eps
        if (least <= 0).any():
            raise Unread("its variance may be 0 or less, by the errors of what it is computed from")
        largest = 1 / np.sqrt(least)
        excess = largest - 1 / np.sqrt(variance + self.eps)
        wider = of_scale * largest + scale * excess
        moved = (scale + of_scale) * largest * (error + of_mean) + of_shift
        rounding = gamma(ELEMENTARY_ULP + 6) * (moved + wider * (np.abs(x) + np.abs(mean)))
        found: np.ndarray = CARRIED * (moved + wider * np.abs(x - mean) + rounding)
        return found

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        if node.attributes.get("training_mode"):
            raise Unread("it is in training mode")
        parameters = {"gamma": 1, "beta": 2, "mean": 3, "variance": 4}
        return Found(cls(node.attributes.get("epsilon", 1e-5)), parameters=parameters)

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        stored = graph.constants(name, **{kind: parameters[kind] for kind in ("gamma", "beta", "mean", "variance")})
        return graph.node("BatchNormalization", name, *inputs, *stored, epsilon=float(self.eps))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        own = [seen.parameters[name] for name in STATISTICS]
        ones, zeros = np.ones_like(own[0]), np.zeros_like(own[1])
        for eps in (1e-5, 1.001e-5, 1e-3, 1e-4, 2e-5, 1e-6, 0.0):
            if eps != self.eps:
                yield f"eps is {eps:g}", exchanged(seen, replace(self, eps=eps))
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
            names = ", ".join(STATISTICS[place] for place in order)
            moved = [place for place in range(4) if order[place] != place]
            if moved and (own[order[3]] + self.eps > 0).all():
                exchange = " and ".join(STATISTICS[place] for place in moved)
                mistake = f"{exchange} are exchanged" if len(moved) == 2 else f"the parameters are taken as {names}"
                taken = {name: own[place] for name, place in zip(STATISTICS, order, strict=True)}
                yield mistake, exchanged(seen, **taken)
        mean, variance = own[2:]
        deviation = np.sqrt(variance.astype(np.float64)) + self.eps
        yield "eps is added after the root", exchanged(seen, variance=deviation**2 - self.eps)
        yield "the variance is taken for a standard deviation", exchanged(seen, variance=variance**2)
        squared = (variance.astype(np.float64) + self.eps) ** 2 - self.eps
        yield "the root of the variance is missing", exchanged(seen, variance=squared)
        for factor in (1000.0, 999.98236):
            what = f"mean and variance are not divided by their scale factor {factor:g} (Caffe's third blob)"
            yield what, exchanged(seen, mean=mean * np.float32(factor), variance=variance * np.float32(factor))
        for step in (1, -1):
            rolled = {name: np.roll(array, step) for name, array in zip(STATISTICS, own, strict=True)}
            yield "the parameters are a neighbouring channel's", exchanged(seen, **rolled)
            for name in STATISTICS:
                yield f"{name} is a neighbouring channel's", exchanged(seen, **{name: rolled[name]})
        yield from _of_the_input(self, seen)

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        """If the scale found in a channel is gamma / √(variance + eps), it gives eps, for which people write round
        numbers.
        """
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
            if eps != self.eps:
                evaluation = exchanged(seen, type(self)(eps))
                yield "eps is another", f"eps is {eps:g}", evaluation()


def _of_the_input(operation: BatchNorm, seen: Observation) -> Iterator[Hypothesis]:
    """Statistics of the layer's input. For one image, its own and the batch's are the same."""
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
    """Normalised with the mean and the variance along `axes` of `x`, or along a group's channels; see `moments`.

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

    def spread(statistic: np.ndarray) -> np.ndarray:
        """One for each element of the input, or that can be broadcast to it."""
        if groups:
            return np.repeat(statistic[..., 0], given.shape[1] // groups, axis=1).reshape(
                *statistic.shape[:1], -1, *per_channel[2:]
            )
        return statistic

    found = moments_of(values, axes)
    mean, variance, of_mean, of_variance = map(spread, (found.mean, found.variance, found.of_mean, found.of_variance))
    if stored == "mean":
        mean, of_mean = seen.parameters["mean"].astype(np.float64).reshape(per_channel), np.zeros(1)
    if stored == "variance":
        variance, of_variance = seen.parameters["variance"].astype(np.float64).reshape(per_channel), np.zeros(1)
    scale, shift = (seen.parameters[name].astype(np.float64).reshape(per_channel) for name in ("gamma", "beta"))
    return standardised(given, Moments(mean, variance, of_mean, of_variance), operation.eps, scale, shift)
