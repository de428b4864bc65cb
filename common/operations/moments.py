"""Normalisation by the mean and the variance of the input itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, np
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation
from common.operations.rounding import CARRIED, ELEMENTARY_ULP, SMALLEST_NORMAL, Precision, Reference, gamma
from common.operations.wgsl import QUOTIENT, ROOT


@dataclass(frozen=True)
class Moments:
    """Mean and variance, float64, and how far a computation in float32 may be from them."""

    mean: np.ndarray
    variance: np.ndarray
    of_mean: np.ndarray
    of_variance: np.ndarray


def moments_of(x: np.ndarray, axes: tuple[int, ...], *, shader: bool = False) -> Moments:
    """Of the n values along `axes`, which are kept with length 1.

    Computed in float32, |m̂ − m| ≤ γ_n Σ|x|/n. The variance's worst form is Σx²/n − m̂², in which both terms are at most
    q = Σx²/n and wrong by γ_(2n+6) of that: |v̂ − v| ≤ 2 γ_(2n+6) q. In a WebGPU shader a division is off by 5u
    instead of u, and m̂² has two.
    """
    more = QUOTIENT - 1 if shader else 0
    values = x.astype(np.float64)
    count = prod(values.shape[axis] for axis in axes)
    mean, variance, square, size = (
        f(axis=axes, keepdims=True) for f in (values.mean, values.var, np.square(values).mean, np.abs(values).mean)
    )
    return Moments(mean, variance, gamma(count + more) * size, 2 * gamma(2 * count + 6 + 2 * more) * square)


def standardised(
    x: np.ndarray, moments: Moments, eps: float, scale: np.ndarray, shift: np.ndarray, more: float = 0
) -> Reference:
    """scale · (x − m) / √(v + eps) + shift, each broadcast.

    With d the variance's error, s = scale / √(v + eps) is wrong by a factor of at most (1 − d / (v + eps))^-½, and the
    result by |s| |m̂ − m|, by |s (x − m)| times that factor's excess, and by γ_(E+6) (|s| (|x| + |m|) + |shift|) for the
    rest, E = `ELEMENTARY_ULP`, as in a batch normalisation; by `more` in γ, if the inverse root is off by more than E.
    Where d reaches v + eps nothing is proved; the bound is then `SMALLEST_NORMAL`, which no other is as small as.
    """
    x = x.astype(np.float64)
    mean = moments.mean
    doubt = np.minimum(moments.of_variance / (moments.variance + eps), 1)
    with np.errstate(divide="ignore"):
        excess = np.where(doubt < 1, (1 - doubt) ** -0.5 - 1, 0)
    scale = scale / np.sqrt(moments.variance + eps)
    value = (x - mean) * scale + shift
    rounding = gamma(ELEMENTARY_ULP + 6 + more) * (np.abs(scale) * (np.abs(x) + np.abs(mean)) + np.abs(shift))
    bound = (rounding + 6 * SMALLEST_NORMAL * (1 + np.abs(scale))) * (1 + excess)
    bound = bound + np.abs(scale) * ((1 + excess) * moments.of_mean + np.abs(x - mean) * excess)
    return Reference(value, np.where(doubt < 1, bound, SMALLEST_NORMAL))


class Standardising(ArrayOperation):
    """A normalisation whose variance may be lost in rounding: its bound is `standardised`'s."""

    def at_precision(
        self, reference: Reference, precision: Precision, inputs: Arrays, parameters: Parameters
    ) -> Reference:
        """As `Operation.at_precision`.

        Raises:
            Unread: somewhere nothing is proved.
        """
        self._proved(reference)
        return super().at_precision(reference, precision, inputs, parameters)

    def _proved(self, reference: Reference) -> np.ndarray:
        """The bound, if there is one for each element."""
        assert reference.bound is not None
        if (reference.bound <= SMALLEST_NORMAL).any():
            raise Unread("its variance is smaller than what it may be off by, where it is computed as Σx²/n − m²")
        return reference.bound


def carried_by_moments(x: np.ndarray, errors: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    """How far (x − m) / √(v + eps) moves at most, if x is off by up to e.

    d = x − m is off by e + mean(e) at most. σ = √(mean(d²) + eps) is the length of a vector, so it is off by no more
    than s = √mean(e²), the length of the error, from which its mean takes nothing away but length. Hence σ̂ ≥ σ − s, and
    σ̂ ≥ √eps, and

    |d̂/σ̂ − d/σ| ≤ |d̂ − d| / σ̂ + |d| |σ̂ − σ| / (σ σ̂) ≤ (e + mean(e) + |d| s / σ) / σ̂.

    If σ̂ may be 0, nothing is known.
    """
    x = x.astype(np.float64)
    distance = np.abs(x - x.mean(axis=axes, keepdims=True))
    length = np.sqrt(np.square(distance).mean(axis=axes, keepdims=True) + eps)
    shift = np.sqrt(np.square(errors).mean(axis=axes, keepdims=True))
    least = np.maximum(length - shift, np.sqrt(eps))
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = (errors + errors.mean(axis=axes, keepdims=True) + distance * shift / length) / least
    return CARRIED * np.where(least > 0, moved, np.inf)


@reads("LayerNormalization")
@dataclass(frozen=True)
class LayerNorm(Standardising):
    """(x − mean) / √(variance + eps) · gamma + beta over the last axes, from `axis` on; or over `axis` alone.

    Source: Ba et al. 2016, equations 3 and 4; ONNX LayerNormalization.
    """

    eps: float = 1e-5
    axis: int = -1
    only: bool = False
    """Whether it is over this axis alone: the channels of maps with channels first."""

    integers_before: ClassVar[int] = 1
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """See `standardised`."""
        return self._reference(inputs, parameters)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """With moments of more error. WGSL's inverseSqrt is off by 4u, which is E."""
        return self._proved(self._reference(inputs, parameters, shader=True))

    def _reference(self, inputs: Arrays, parameters: Parameters, *, shader: bool = False) -> Reference:
        (x,) = inputs
        scale, shift = self._affine(x, parameters)
        return standardised(x, moments_of(x, self._axes(x), shader=shader), self.eps, scale, shift)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """See `carried_by_moments`."""
        (x,) = inputs
        return np.abs(self._affine(x, parameters)[0]) * carried_by_moments(x, errors[0], self._axes(x), self.eps)

    def _axes(self, x: np.ndarray) -> tuple[int, ...]:
        axis = self.axis % x.ndim
        return (axis,) if self.only else tuple(range(axis, x.ndim))

    def _affine(self, x: np.ndarray, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
        """gamma and beta, so that they are broadcast to the input."""
        scale = parameters["gamma"].astype(np.float64)
        shift = parameters["beta"].astype(np.float64) if "beta" in parameters else np.zeros(1)
        if self.only:
            after = [1] * (x.ndim - 1 - self.axis % x.ndim)
            scale, shift = (array.reshape(-1, *after) for array in (scale, shift))
        return scale, shift

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        norm = cls(node.attributes.get("epsilon", 1e-5), node.attributes.get("axis", -1))
        return Found(norm, parameters={"gamma": 1} | ({"beta": 2} if node.has(2) else {}))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield from eps_mistakes(self, seen)
        yield from affine_mistakes(seen)
        (x,) = seen.inputs
        for axis in range(1, x.ndim):
            if x.shape[axis] == x.shape[-1] and axis != self.axis % x.ndim:
                yield f"the statistics are those of axis {axis}", exchanged(seen, replace(self, axis=axis))


@reads("GroupNormalization", "InstanceNormalization")
@dataclass(frozen=True)
class GroupNorm(Standardising):
    """As `LayerNorm` over each of `groups` groups of channels with their pixels; gamma and beta of each channel.

    With as many groups as channels it is the instance normalisation.

    Source: Wu and He 2018, section 3; Ulyanov et al. 2016; ONNX GroupNormalization and InstanceNormalization.
    """

    eps: float
    groups: int | None = None
    """None: as many as there are channels."""

    integers_before: ClassVar[int] = 1
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """See `standardised`."""
        return self._reference(inputs, parameters)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """With moments of more error. A kernel for instances takes WGSL's inverseSqrt; of groups there is none, and the
        nodes that it is made of take a root and a quotient, off by 14u, which is 10u more than E."""
        return self._proved(self._reference(inputs, parameters, shader=True))

    def _reference(self, inputs: Arrays, parameters: Parameters, *, shader: bool = False) -> Reference:
        (x,) = inputs
        by_group = self._by_group(x)
        scale, shift = (self._of_pixels(parameters[name], x) for name in ("gamma", "beta"))
        moments = moments_of(by_group, (2,), shader=shader)
        more = ROOT + QUOTIENT - ELEMENTARY_ULP if shader else 0
        found = standardised(by_group, moments, self.eps, scale, shift, more)
        assert found.bound is not None
        return Reference(found.value.reshape(x.shape), found.bound.reshape(x.shape))

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """See `carried_by_moments`."""
        (x,) = inputs
        moved = carried_by_moments(self._by_group(x), self._by_group(errors[0]), (2,), self.eps)
        found: np.ndarray = (np.abs(self._of_pixels(parameters["gamma"], x)) * moved).reshape(x.shape)
        return found

    def _by_group(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), self.groups or x.shape[1], -1)

    def _of_pixels(self, parameter: np.ndarray, x: np.ndarray) -> np.ndarray:
        """A parameter of each channel as one of each channel and pixel, by group."""
        of_channels = parameter.astype(np.float64).reshape(1, -1, *[1] * (x.ndim - 2))
        return self._by_group(np.broadcast_to(of_channels, (1, *x.shape[1:])))

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        if node.kind == "GroupNormalization" and node.opset < 21:
            raise Unread("before opset 21 it has one scale for each group")
        groups = node.attributes["num_groups"] if node.kind == "GroupNormalization" else None
        return Found(cls(node.attributes.get("epsilon", 1e-5), groups), parameters={"gamma": 1, "beta": 2})

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield from eps_mistakes(self, seen)
        yield from affine_mistakes(seen)
        channels = seen.inputs[0].shape[1]
        for groups in (1, 2, 4, 8, 16, 32, channels):
            if groups != (self.groups or channels) and channels % groups == 0:
                yield f"there are {groups} groups", exchanged(seen, replace(self, groups=groups))


def eps_mistakes(operation: LayerNorm | GroupNorm, seen: Observation) -> Iterator[Hypothesis]:
    for eps in (1e-5, 1e-6, 1e-3, 1e-12, 1e-4, 0.0):
        if not np.isclose(eps, operation.eps, rtol=1e-6, atol=0):
            yield f"eps is {eps:g}, not {operation.eps:.4g}", exchanged(seen, replace(operation, eps=eps))


def affine_mistakes(seen: Observation) -> Iterator[Hypothesis]:
    """gamma or beta left out, or taken for each other."""
    own = seen.parameters
    yield "gamma is missing", exchanged(seen, gamma=np.ones_like(own["gamma"]))
    if "beta" in own:
        yield "beta is missing", exchanged(seen, beta=np.zeros_like(own["beta"]))
        yield "gamma and beta are exchanged", exchanged(seen, gamma=own["beta"], beta=own["gamma"])
        both = {"gamma": np.ones_like(own["gamma"]), "beta": np.zeros_like(own["beta"])}
        yield "gamma and beta are missing", exchanged(seen, **both)
