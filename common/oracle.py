"""The oracle: every operation in float64, and how far a correct float32 implementation may be from it.

A bound here is derived; its one assumption is how well elementary functions are computed (`ELEMENTARY_ULP`). With unit
roundoff u = 2^-24, one float32 operation returns the exact result times (1 + δ), |δ| ≤ u (plus at most 2^-126 in
absolute terms if an operand or the result underflows and is flushed), and n such factors multiply to 1 + θ,
|θ| ≤ γ_n = n·u / (1 − n·u). Source: Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd edition, sections
2.1, 2.2 and 3.1.

Each function takes float32 inputs of any batch size, (N, C, H, W) or (N, features), and parameters in the canonical
layout. The bound is about one layer, given that layer's own input: nothing accumulates over the depth of a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.errors import TriptychError
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
    Softmax,
    SubSampling,
)

if TYPE_CHECKING:
    from common.overflow import Allowed

UNIT_ROUNDOFF = 2.0**-24
"""u of float32, rounding to nearest."""

SMALLEST_NORMAL = 2.0**-126
"""The most that one float32 operation can lose to underflow, subnormals flushed or not."""

ELEMENTARY_ULP = 4
"""The allowance for exp, log, pow, tanh and the like, in units of u; one unit in the last place is at most 2u.

An assumption about the libraries in use, not a derivation: nothing in IEEE 754 bounds these functions. No CPU backend
has been seen to need more, nor has one on an NVIDIA H100, but for tanh through WebGPU (`FP32_IN_WGSL`); it has not been
checked against the libraries' documentation.
"""


@dataclass(frozen=True)
class Precision:
    """How a backend keeps and multiplies numbers; sums of products are taken to be in float32 always."""

    name: str
    stored: float
    """Unit roundoff of what passes from layer to layer."""
    factors: float = 0.0
    """The largest relative change of each factor before convolutions and dense layers multiply them."""
    smallest_normal: float = SMALLEST_NORMAL
    """Of the stored type: the most that storing a number can lose to underflow."""
    quotient: float = 0.0
    """By how much more than one rounding a quotient may be off, relatively."""
    tanh: float = 0.0
    """By how much more than an elementary function tanh may be off, in absolute terms."""


FP32 = Precision("fp32", UNIT_ROUNDOFF)
TF32 = Precision("tf32", UNIT_ROUNDOFF, factors=2.0**-10)
"""11 significant bits of each factor; hardware may cut the others off instead of rounding."""
FP32_IN_WGSL = Precision("fp32", UNIT_ROUNDOFF, quotient=4 * UNIT_ROUNDOFF, tanh=4 * UNIT_ROUNDOFF)
"""float32 as WebGPU's language promises it (https://www.w3.org/TR/WGSL/#floating-point-accuracy).

A quotient may be off by 2.5 units in the last place, 5u. An exponential may be off by 3 + 2|x| of them, and ONNX
Runtime computes tanh as (1 − e) / (1 + e) with e = exp(−2|x|): an error ε e moves that by 2e / (1 + e)² ε at most,
which with ε = (6 + 8|x|) u is below 4u for every x, however small tanh is.
"""
PRECISIONS = {precision.name: precision for precision in (FP32, TF32)}
"""Those that a backend computes in; the others are those of stored numbers."""

FP16 = Precision("fp16", 2.0**-11, smallest_normal=2.0**-14)
BF16 = Precision("bf16", 2.0**-8)


def gamma(operations: float) -> float:
    """γ_n for n float32 operations (Higham, section 3.1)."""
    return operations * UNIT_ROUNDOFF / (1 - operations * UNIT_ROUNDOFF)


@dataclass(frozen=True)
class Reference:
    """What an operation should give, element by element; all arrays have the output's shape."""

    value: np.ndarray
    """float64, the result in real arithmetic (but for float64's own rounding, which `bound` covers); float32 where each
    element is one of the inputs'."""
    bound: np.ndarray | None = None
    """float64, the largest |computed − value| that float32 arithmetic explains; None: the bits must be the same."""
    magnitude: np.ndarray | None = None
    """Σ|product| + |bias| of each element, for operations that sum products."""
    spread: np.ndarray | None = None
    """√Σ product² of each element: the scale of rounding errors, which tells precisions apart."""
    allowed: Allowed | None = None
    """Of which kind each element may be, where some may be infinite or NaN; None: all must be finite."""


def at_precision(operation: Operation, reference: Reference, precision: Precision) -> Reference:
    """What `evaluate` gives, its bound widened to a precision below float32's.

    Factors that are changed by at most t each: a product changes by (2t + t²) |w·a|, and the bound on the sum's own
    rounding grows by (1 + t)². Results stored with unit roundoff v add v (|y| + bound). Where a layer is several
    operations on an element, each may be stored so: the bound, at most fourteen roundings, is then that of float32
    arithmetic with v in place of u, but for (1 − 14u) / (1 − 14v) < 1.06.
    """
    if reference.bound is None or precision == FP32:
        return reference
    value, bound, magnitude = reference.value, reference.bound, reference.magnitude
    if isinstance(operation, AveragePool | GlobalAveragePool | AdaptiveAveragePool | ScaledTanh):
        bound = bound + precision.quotient * np.abs(value)
    if isinstance(operation, ScaledTanh):
        bound = bound + precision.tanh * abs(operation.amplitude)
    if precision.factors and isinstance(operation, Conv | Dense) and magnitude is not None:
        change = precision.factors
        bound = (1 + change) ** 2 * bound + (2 * change + change**2) * magnitude
    if precision.stored > UNIT_ROUNDOFF:
        if isinstance(operation, LRN | BatchNorm | Add | Sigmoid | ScaledTanh | SubSampling | Softmax):
            bound = 1.06 * precision.stored / UNIT_ROUNDOFF * bound
        else:
            bound = bound + precision.stored * (np.abs(value) + bound)
        bound = bound + 6 * precision.smallest_normal
    return replace(reference, bound=bound)


def evaluate(operation: Operation, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """Evaluate one operation in float64.

    Args:
        operation: from a specification.
        inputs: float32, (N, C, H, W) or (N, features).
        parameters: float32, in the canonical layout, keyed `weight`, `bias`, ….

    Raises:
        TriptychError: the operation does not take inputs and parameters of these shapes.
    """
    evaluated_shape(operation, inputs, parameters)
    return _evaluate(operation, inputs, parameters)


def evaluated_shape(
    operation: Operation, inputs: Sequence[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> tuple[int, ...]:
    """The shape of what `evaluate` gives, (N, C, H, W) or (N, features), found without evaluating anything.

    Raises:
        TriptychError: the operation does not take inputs and parameters of these shapes.
    """
    if not all(array.ndim for array in inputs) or len({len(array) for array in inputs}) > 1:
        raise TriptychError(f"{operation.kind} takes batches of equally many images, but is given {shapes_of(inputs)}")
    shapes = [array.shape[1:] for array in inputs]
    output = operation.output_shape(*shapes)
    for name, shape in operation.parameter_shapes(*shapes).items():
        if name not in parameters or parameters[name].shape != shape:
            found = shapes_of([parameters[name]]) if name in parameters else "missing"
            raise TriptychError(f"the {name} of {operation.kind} is {found}, expected {'×'.join(map(str, shape))}")
    return (len(inputs[0]), *output)


def shapes_of(arrays: Iterable[np.ndarray]) -> str:
    """For a message: `2×3×8×8 and 2×10`."""
    return " and ".join("×".join(map(str, array.shape)) or "a scalar" for array in arrays)


@singledispatch
def _evaluate(operation: Operation, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    raise NotImplementedError(f"the oracle does not know {operation.kind}")


@_evaluate.register
def _conv(operation: Conv, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """A sum of n − 1 products and a bias: |ŷ − y| ≤ γ_n (Σ|w·a| + |b|), n = fan-in + 1.

    Valid for every order of summation, with and without fused multiply-add (Higham, section 3.1). It also holds behind
    a ReLU, which brings no two numbers further apart.
    """
    windows = _windows(inputs[0], *operation.window(inputs[0].shape[1:]), fill=0.0)
    batch, _, height, width = windows.shape[:4]
    weight = parameters["weight"]
    terms = prod(weight.shape[1:])
    sums = _Sums((batch, operation.filters, height, width), weight, inputs[0])
    kernels = [sums.scaled_weight(group) for group in np.split(weight.reshape(-1, terms), operation.groups)]
    per_group = operation.filters // operation.groups
    rows_at_once = max(1, _ELEMENTS_AT_ONCE // (terms * width))
    for image in range(batch):
        for top in range(0, height, rows_at_once):
            rows = slice(top, top + rows_at_once)
            columns = windows[image, :, rows].transpose(0, 3, 4, 1, 2).reshape(operation.groups, terms, -1)
            for group, kernel in enumerate(kernels):
                filters = slice(group * per_group, (group + 1) * per_group)
                sums.fill((image, filters, rows), kernel, columns[group])
    return sums.reference(parameters.get("bias"), terms)


@_evaluate.register
def _dense(operation: Dense, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """As a convolution: |ŷ − y| ≤ γ_n (Σ|w·a| + |b|), n = fan-in + 1."""
    (features,) = inputs
    weight = parameters["weight"]
    sums = _Sums((len(features), operation.units), weight, features)
    units_at_once = max(1, _ELEMENTS_AT_ONCE // weight.shape[1])
    for first in range(0, operation.units, units_at_once):
        units = slice(first, first + units_at_once)
        sums.fill((slice(None), units), sums.scaled_weight(weight[units]), features.T)
    return sums.reference(parameters.get("bias"), terms=weight.shape[1])


_ELEMENTS_AT_ONCE = 1 << 18
"""How many factors are laid out at once: few enough to stay in the processor's cache."""

_Scaled = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Factors in float64; their magnitudes, and the squares of these, in float32 and divided by a power of two."""


class _Sums:
    """Sums of products Σ w·a in float64, with Σ|w·a| and Σ (w·a)² beside them.

    The last two only scale a bound and a statistic, so they are computed in float32, on operands divided by a power of
    two so that nothing overflows; `reference` makes up for what their rounding may lose.
    """

    def __init__(self, shape: tuple[int, ...], weight: np.ndarray, operand: np.ndarray) -> None:
        self.value = np.empty(shape, np.float64)
        self.magnitude = np.empty(shape, np.float32)
        self.squares = np.empty(shape, np.float32)
        self.exponents = binary_exponent(weight), binary_exponent(operand)

    def scaled_weight(self, weight: np.ndarray) -> _Scaled:
        """Weights (units, terms), prepared for `fill`."""
        return _scaled(weight, self.exponents[0])

    def fill(self, where: tuple, weight: _Scaled, columns: np.ndarray) -> None:
        """Multiply prepared weights by columns (terms, positions) into the elements at `where`."""
        targets: tuple[np.ndarray, ...] = (self.value, self.magnitude, self.squares)
        for target, left, right in zip(targets, weight, _scaled(columns, self.exponents[1]), strict=True):
            place = target[where]
            product = left @ right
            place[...] = (product if target.ndim == 4 else product.T).reshape(place.shape)

    def reference(self, bias: np.ndarray | None, terms: int) -> Reference:
        scale = 2.0 ** sum(self.exponents)
        magnitude = self.magnitude * np.float64(scale)
        if bias is not None:
            per_unit = bias.astype(np.float64).reshape(-1, *[1] * (self.value.ndim - 2))
            self.value += per_unit
            magnitude += np.abs(per_unit)
        operations = terms + 1
        # The float32 magnitude is at least (1 − γ_n) of the true one; the second γ_n more than covers float64's errors.
        bound = gamma(operations) / (1 - 2 * gamma(operations)) * magnitude
        # What underflow takes from a product or a sum, from a factor that is flushed, from the magnitude itself.
        bound += operations * SMALLEST_NORMAL * (1 + sum(2.0**exponent for exponent in self.exponents) + scale)
        return Reference(self.value, bound, magnitude, np.sqrt(self.squares) * np.float64(scale))


def _scaled(array: np.ndarray, exponent: int) -> _Scaled:
    magnitude = np.abs(np.ldexp(array, -exponent))
    return array.astype(np.float64), magnitude, np.square(magnitude)


def binary_exponent(array: np.ndarray) -> int:
    """The e for which the largest |element| lies in [2^(e−1), 2^e)."""
    return int(np.frexp(max(array.max(initial=0.0), -array.min(initial=0.0)))[1])


def _windows(image: np.ndarray, kernel: Pair, stride: Pair, padding: Padding, *, fill: float) -> np.ndarray:
    """A view of every window: (N, C, output height, output width, kernel height, kernel width)."""
    padded = np.pad(image, ((0, 0), (0, 0), *padding), constant_values=fill) if np.any(padding) else image
    return sliding_window_view(padded, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]


@_evaluate.register
def _lrn(operation: LRN, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """y = x · s^-beta with s = k + alpha / size · Σ x², and |ŷ − y| ≤ ρ |y|.

    Summed directly, all terms of s are positive, so relative errors do not grow: `size` squares and size − 1 additions,
    three operations for alpha / size · Σ in whichever order, two for k and its addition give |ŝ − s| ≤ γ_(size+5) s.
    As nodes (`GraphBuilder`), alpha, alpha / size and k are rounded first, and a term meets size + 4 roundings at most.
    Caffe and ONNX Runtime instead carry s from channel to channel, adding the term that enters the window and
    subtracting the one that leaves it; both are rounded terms that were computed alike, so only the two roundings of
    each step remain, at most 3u s of each channel passed. The bound allows for both: |ŝ − s| ≤ ε s with
    ε s_c = γ_(size+5) s_c + 3u Σ_(j ≤ c) s_j.

    Raising to −beta gives (1 − ε)^-beta − 1 at most. The power itself, computed directly or as exp(−beta · log s), adds
    E·u for each elementary function, that of the logarithm multiplied by |beta · log s|; the product (or quotient) with
    x and the roundings of −beta and of its product add the rest:
    ρ = (1 − ε)^-beta − 1 + u (E + 2) (1 + |beta · log s|), E = `ELEMENTARY_ULP`.
    """
    (x,) = inputs
    factor, relative = lrn_factor(operation, x)
    value = x * factor
    return Reference(value, relative * np.abs(value) + (1 + factor) * SMALLEST_NORMAL)


def lrn_factor(operation: LRN, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What LRN multiplies x by, s^-beta, and the bound ρ of the product's relative error; see `_lrn`."""
    before = (operation.size - 1) // 2
    padding = ((0, 0), (before, operation.size - 1 - before), (0, 0), (0, 0))
    squares = np.pad(np.square(x.astype(np.float64)), padding)
    scale = operation.k + operation.alpha / operation.size * sliding_window_view(squares, operation.size, 1).sum(-1)
    error_of_scale = gamma(operation.size + 5) + 3 * UNIT_ROUNDOFF * np.cumsum(scale, axis=1) / scale
    with np.errstate(divide="ignore"):
        relative = np.maximum(1 - error_of_scale, 0) ** -operation.beta - 1
    relative += UNIT_ROUNDOFF * (ELEMENTARY_ULP + 2) * (1 + np.abs(operation.beta * np.log(scale)))
    # Products of two of these errors are below a thousandth of the larger.
    return scale**-operation.beta, 1.001 * relative


@_evaluate.register
def _max_pool(operation: MaxPool, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """A choice among float32 values: nothing is rounded."""
    windows = _windows(inputs[0], *operation.window(inputs[0].shape[1:]), fill=-np.inf)
    return Reference(windows.max(axis=(4, 5)))


@_evaluate.register
def _average_pool(operation: AveragePool, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """See `_mean`."""
    windows = _windows(inputs[0], *operation.window(inputs[0].shape[1:]), fill=0.0)
    return _mean(windows, axes=(4, 5), keepdims=False)


@_evaluate.register
def _global_average_pool(
    operation: GlobalAveragePool, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> Reference:
    """See `_mean`."""
    return _mean(inputs[0], axes=(2, 3), keepdims=True)


@_evaluate.register
def _adaptive_average_pool(
    operation: AdaptiveAveragePool, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> Reference:
    """See `_mean`."""
    rows, columns = (np.array([range(*window) for window in operation.windows(n)]) for n in inputs[0].shape[2:])
    windows = inputs[0][:, :, rows[:, None, :, None], columns[None, :, None, :]]
    return _mean(windows, axes=(4, 5), keepdims=False)


def _mean(x: np.ndarray, axes: tuple[int, int], keepdims: bool) -> Reference:
    """n − 1 additions and a division, or a product with a rounded 1/n: |ŷ − y| ≤ γ_(n+1) Σ|x| / n.

    Dividing by a power of two is exact, so that only then the mean of integers can be required to the bit.
    """
    count = prod(x.shape[axis] for axis in axes)
    value = x.mean(axis=axes, dtype=np.float64, keepdims=keepdims)
    magnitude = np.abs(x).mean(axis=axes, dtype=np.float64, keepdims=keepdims)
    bound = gamma(count + 1) * magnitude + count * SMALLEST_NORMAL
    return Reference(value, bound, magnitude if count & (count - 1) == 0 else None)


@_evaluate.register
def _sub_sampling(operation: SubSampling, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """Three additions, the product and the bias, or one factor of four more: |ŷ − y| ≤ γ_6 (|w| Σ|x| + |b|)."""
    windows = _windows(inputs[0], (2, 2), (2, 2), ((0, 0), (0, 0)), fill=0.0)
    weight, bias = (parameters[name].astype(np.float64) for name in ("weight", "bias"))
    value = weight * windows.sum(axis=(4, 5), dtype=np.float64) + bias
    magnitude = np.abs(weight) * np.abs(windows).sum(axis=(4, 5), dtype=np.float64) + np.abs(bias)
    return Reference(value, gamma(6) * magnitude + 6 * SMALLEST_NORMAL * (1 + np.abs(weight)), magnitude)


@_evaluate.register
def _batch_norm(operation: BatchNorm, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """With s = gamma / √(variance + eps): |ŷ − y| ≤ γ_(E+6) (|s| (|x| + |mean|) + |beta|), E = `ELEMENTARY_ULP`.

    The sum under the root and the rounding of eps are halved by it, together one u; the inverse root takes E, or 2 as a
    root and a quotient; the product with gamma one: s has E + 2. Computed as (x − mean)·s + beta, three more; computed
    as x·s + (beta − mean·s), four at most behind mean·s.

    Integers do not make it exact: TensorFlow's vectorised inverse root of 1 is 1 − 2^-23 on a CPU.
    """
    (x,) = inputs
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale, shift, mean, variance = (
        parameters[name].astype(np.float64).reshape(shape) for name in ("gamma", "beta", "mean", "variance")
    )
    scale = scale / np.sqrt(variance + operation.eps)
    value = x.astype(np.float64)
    relative = gamma(ELEMENTARY_ULP + 6)
    bound = np.abs(value) * (relative * np.abs(scale))
    bound += relative * (np.abs(scale * mean) + np.abs(shift)) + 6 * SMALLEST_NORMAL * (1 + np.abs(scale))
    value *= scale
    value += shift - mean * scale
    return Reference(value, bound)


@_evaluate.register
def _add(operation: Add, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """m − 1 additions of m inputs: |ŷ − y| ≤ γ_(m−1) Σ|x|."""
    value = np.sum([x.astype(np.float64) for x in inputs], axis=0)
    magnitude = np.sum([np.abs(x.astype(np.float64)) for x in inputs], axis=0)
    return Reference(value, gamma(len(inputs) - 1) * magnitude + len(inputs) * SMALLEST_NORMAL, magnitude)


@_evaluate.register
def _sigmoid(operation: Sigmoid, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """|ŷ − y| ≤ u (E + 3) (y + 1/2), E = `ELEMENTARY_ULP`.

    As 1 / (1 + exp(−x)), the exponential's relative error E·u reaches y by a factor below 1, and the sum and the
    quotient add one each. As (1 + tanh(x / 2)) / 2, the hyperbolic tangent's error is (E / 2)·u in absolute terms,
    however small y is.
    """
    x = inputs[0].astype(np.float64)
    value = np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))  # overflows for no x
    return Reference(value, UNIT_ROUNDOFF * (ELEMENTARY_ULP + 3) * (value + 0.5))


@_evaluate.register
def _scaled_tanh(operation: ScaledTanh, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """|ŷ − y| ≤ γ_(E+5) |y|, E = `ELEMENTARY_ULP`.

    The rounding of the slope and its product change tanh's argument by 2u, which tanh does not enlarge (its condition
    number |z| / (sinh|z| cosh|z|) is at most 1); tanh adds E, the amplitude's rounding and product two.
    """
    value = operation.amplitude * np.tanh(operation.slope * inputs[0].astype(np.float64))
    underflow = SMALLEST_NORMAL * (1 + abs(operation.amplitude) * (2 + abs(operation.slope)))
    return Reference(value, gamma(ELEMENTARY_ULP + 5) * np.abs(value) + underflow)


@_evaluate.register
def _softmax(operation: Softmax, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """y = exp(d) / Σ exp(d), d = x − (the largest of the n inputs): |ŷ − y| ≤ u (|d| + 2E + n (1 + 1/e) + 1) y.

    Rounding d changes its exponential by u |d|, and the exponential adds E·u. The sum of n positive terms adds n − 1
    and inherits the errors of its terms, weighted by their shares: E, and Σ |d| exp(d) / Σ exp(d), which is below n / e
    because no |d| exp(d) exceeds 1/e and the largest term is 1. The quotient adds one. Without the subtraction there is
    less to round. E = `ELEMENTARY_ULP`.
    """
    x = inputs[0].astype(np.float64)
    shifted = x - x.max(axis=1, keepdims=True)
    terms = np.exp(shifted)
    value = terms / terms.sum(axis=1, keepdims=True)
    count = x.shape[1]
    operations = np.abs(shifted) + 2 * ELEMENTARY_ULP + count * (1 + 1 / np.e) + 1
    return Reference(value, 1.001 * operations * UNIT_ROUNDOFF * value + 2 * SMALLEST_NORMAL)


@_evaluate.register
def _concat(operation: Concat, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """A change of place: nothing is rounded."""
    return Reference(np.concatenate(inputs, axis=1))


@_evaluate.register
def _select_channels(
    operation: SelectChannels, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> Reference:
    """A choice: nothing is rounded."""
    return Reference(inputs[0][:, list(operation.channels)])


@_evaluate.register
def _relu(operation: ReLU, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """A choice between x and 0: nothing is rounded."""
    return Reference(np.maximum(inputs[0], 0))


@_evaluate.register
def _flatten(operation: Flatten, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """A change of shape: nothing is rounded."""
    return Reference(inputs[0].reshape(len(inputs[0]), prod(inputs[0].shape[1:])))


@_evaluate.register
def _dropout(operation: Dropout, inputs: list[np.ndarray], parameters: Mapping[str, np.ndarray]) -> Reference:
    """The identity when not training: nothing is rounded."""
    return Reference(inputs[0])


def parameters_of(layer: str, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One layer's parameters, keyed `weight`, `bias`, …"""
    prefix = f"{layer}/"
    return {
        name.removeprefix(prefix): array
        for name, array in weights.items()
        if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
    }
