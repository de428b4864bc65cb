"""Overflow: when float32 must, when it may, and what IEEE 754 lets come of it.

Rounding to nearest makes infinity of every result of 2^128 − 2^103 and more (T); the largest number is M < T. Let
y = Σ t be a sum of n terms, P the sum of the positive ones and N that of the others' magnitudes. Whatever the order of
summation, as long as nothing has overflowed a partial sum is Σ t (1 + θ) over some of the terms, |θ| ≤ γ_n for each
(Higham, section 4.2), so that it lies between −(1 + γ_n) N and (1 + γ_n) P. Therefore

- a partial sum can become +∞ only if (1 + γ_n) P ≥ T, and −∞ only if (1 + γ_n) N ≥ T. Infinity stays what it is,
  whatever finite is added, and becomes NaN only where the other one is added: NaN needs both.
- If nothing overflows, the result is a number of float32 within the bound of y. If |y| − bound > M there is no such
  number: something must overflow, and no finite result is right.

Between the two, finite and infinite are both right: a wider accumulator, or another order, does not overflow.

Where an input is infinite or NaN already, so is a term: NaN, and 0 · ∞, make NaN; +∞ and −∞ together do; one of them
alone makes itself, unless what is finite overflows to the other. These are properties of every order, too.

No more is claimed than that: a ReLU of NaN may be NaN or 0, and the maximum of a window that holds NaN may be anything
(IEEE 754 has both kinds of maximum, and frameworks take either); a local response normalisation whose squares overflow,
and a softmax of infinity, may be anything, since what overflows there is divided by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from common.oracle import UNIT_ROUNDOFF, Reference, evaluate
from common.specs.architecture import (
    LRN,
    AdaptiveAveragePool,
    AveragePool,
    BatchNorm,
    GlobalAveragePool,
    MaxPool,
    Operation,
    ReLU,
    Softmax,
    SubSampling,
)

LARGEST = float(np.finfo(np.float32).max)
OVERFLOWS = 2.0**128 - 2.0**103
"""The smallest magnitude that rounding to nearest makes infinity of."""

_Parameters = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Allowed:
    """What each element of a result may be; bool, of its shape. Where all is True, nothing is claimed."""

    finite: np.ndarray
    """A number within the bound; any number where all is True."""
    plus: np.ndarray
    """+∞."""
    minus: np.ndarray
    """−∞."""
    nan: np.ndarray

    @property
    def open(self) -> np.ndarray:
        """Where nothing is claimed."""
        return self.finite & self.plus & self.minus & self.nan

    def of(self, output: np.ndarray) -> np.ndarray:
        """Whether each element is of a kind that it may be."""
        return (
            (np.isfinite(output) & self.finite)
            | ((output == np.inf) & self.plus)
            | ((output == -np.inf) & self.minus)
            | (np.isnan(output) & self.nan)
        )


def with_overflow(
    operation: Operation, inputs: list[np.ndarray], parameters: _Parameters, reference: Reference
) -> Reference:
    """What `evaluate` gave, with what may be infinite or NaN, if anything may; see the module's description."""
    largest = max(np.maximum(x.max(initial=0), -x.min(initial=0)) for x in inputs)  # NaN is below nothing
    if largest < _FAR and (reference.bound is None or reference.bound.max(initial=0) < UNIT_ROUNDOFF * _FAR):
        return reference
    if isinstance(operation, LRN | Softmax):
        return _open(reference, _overflowed_before(operation, inputs[0]))
    if isinstance(operation, MaxPool):
        return _open(reference, np.isnan(reference.value))
    if isinstance(operation, ReLU):
        nan = np.isnan(reference.value)
        value = np.where(nan, 0, reference.value)
        return replace(reference, value=value, allowed=replace(_as_it_is(value), nan=nan))
    if reference.magnitude is None and not isinstance(operation, _SUMS):
        return replace(reference, allowed=_as_it_is(reference.value))
    rest = _of_finite_terms(operation, [np.where(np.isfinite(x), x, 0) for x in inputs], parameters)
    if np.isfinite(largest):
        return rest
    assert rest.allowed is not None
    return replace(rest, allowed=_with_infinite_terms(operation, inputs, parameters, rest.allowed))


_FAR = 2.0**60
"""Far from overflow: a bound is u times the sum of all magnitudes at least; squares, and sums of 2^30, stay finite."""

_SUMS = (AveragePool, GlobalAveragePool, AdaptiveAveragePool, BatchNorm)
"""What adds up without saying of what magnitude, besides those that do."""


def _as_it_is(value: np.ndarray) -> Allowed:
    return Allowed(np.isfinite(value), value == np.inf, value == -np.inf, np.isnan(value))


def _open(reference: Reference, where: np.ndarray) -> Reference:
    """Nothing is claimed there, and elsewhere each element is of the kind that it is."""
    kinds = _as_it_is(reference.value)
    return replace(reference, allowed=Allowed(*(kind | where for kind in vars(kinds).values())))


def _overflowed_before(operation: LRN | Softmax, x: np.ndarray) -> np.ndarray:
    """Where something that is divided by may have overflowed: the sum of squares, carried from channel to channel, or
    a sum of exponentials."""
    size = np.square(x.astype(np.float64)) if isinstance(operation, LRN) else np.abs(x.astype(np.float64))
    largest = np.where(np.isfinite(x), size, np.inf).sum(axis=1, keepdims=True)
    share = max(operation.alpha, 1.0) if isinstance(operation, LRN) else 1.0
    return np.broadcast_to(share * largest >= LARGEST / 2, x.shape)


def _of_finite_terms(operation: Operation, inputs: list[np.ndarray], parameters: _Parameters) -> Reference:
    """With what the sum of the module's description may be, if all inputs are finite."""
    reference = evaluate(operation, inputs, parameters)
    assert reference.bound is not None
    if isinstance(operation, BatchNorm | SubSampling):
        # Implementations choose which operand is where; a window may be added up before its coefficient is applied.
        plus = minus = _largest_intermediate(operation, inputs[0], parameters) >= OVERFLOWS / 2
    else:
        plus, minus = (1.01 * part >= OVERFLOWS for part in _parts(operation, inputs, parameters))
    allowed = Allowed(np.abs(reference.value) - reference.bound <= LARGEST, plus, minus, plus & minus)
    return replace(reference, allowed=allowed)


def _parts(operation: Operation, inputs: list[np.ndarray], parameters: _Parameters) -> tuple[np.ndarray, np.ndarray]:
    """P and N, each a sum of terms of one sign, so that float64 loses nothing to cancellation.

    They are multiplied by 1.01 then, which is more than 1 + γ_n for any n below 160,000. An average may be added up
    first and divided then.
    """
    scale = 1
    if isinstance(operation, AveragePool | GlobalAveragePool | AdaptiveAveragePool):
        scale = _count(operation, inputs[0].shape[1:])

    def value(sign_of_input: int, sign_of_weight: int, bias: int) -> np.ndarray:
        signed = [np.maximum(sign_of_input * x, 0) for x in inputs]
        weights = {
            name: np.maximum((bias if name == "bias" else sign_of_weight) * array, 0) * (name != "bias" or bias != 0)
            for name, array in parameters.items()
        }
        return scale * evaluate(operation, signed, weights).value

    if not parameters:
        return value(1, 1, 0), value(-1, 1, 0)
    return value(1, 1, 1) + value(-1, -1, 0), value(1, -1, -1) + value(-1, 1, 0)


def _largest_intermediate(operation: BatchNorm | SubSampling, x: np.ndarray, parameters: _Parameters) -> np.ndarray:
    """At least the magnitude of anything that is computed on the way to each element."""
    size, sizes = np.abs(x), {name: np.abs(array.astype(np.float64)) for name, array in parameters.items()}
    if isinstance(operation, SubSampling):
        sums = evaluate(
            operation, [size], {"weight": np.ones_like(parameters["weight"]), "bias": 0 * parameters["bias"]}
        )
        return 4 * np.maximum(sizes["weight"], 1) * sums.value + sizes["bias"]
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    gamma, beta, mean, variance = (sizes[name].reshape(per_channel) for name in ("gamma", "beta", "mean", "variance"))
    factor = gamma / np.sqrt(variance + operation.eps)
    return (size + mean) * np.maximum(factor, 1) + beta + factor + gamma


def _count(operation: AveragePool | GlobalAveragePool | AdaptiveAveragePool, shape: tuple[int, ...]) -> int:
    """How many values an average is of."""
    if isinstance(operation, AveragePool):
        height, width = operation.window(shape)[0]
    elif isinstance(operation, AdaptiveAveragePool):
        height, width = (end - begin for begin, end in (operation.windows(length)[0] for length in shape[1:]))
    else:
        _, height, width = shape
    return height * width


def _with_infinite_terms(
    operation: Operation, inputs: list[np.ndarray], parameters: _Parameters, rest: Allowed
) -> Allowed:
    """Of sums that have infinite terms, or NaN, beside finite ones; `rest` is what the finite ones may sum to."""

    def counted(marks: Callable[[np.ndarray], np.ndarray], factors: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Marked inputs added up, each with a mark of its weight."""
        marked = {name: factors(array).astype(np.float32) for name, array in parameters.items()}
        marked |= {name: np.zeros_like(marked[name]) for name in ("bias", "beta", "mean") if name in marked}
        if isinstance(operation, BatchNorm):
            marked["variance"] = np.ones_like(marked["variance"])
        return evaluate(operation, [marks(x).astype(np.float32) for x in inputs], marked).value

    def infinite(x: np.ndarray) -> np.ndarray:
        return np.where(np.isinf(x), np.sign(x), 0)

    signed = counted(infinite, np.sign)
    unsigned = counted(lambda x: np.abs(infinite(x)), lambda weight: np.abs(np.sign(weight)))
    few = 1e-6  # an average of one infinity among many is no less, and what is rounded in float64 no more
    plus, minus = unsigned + signed > few, unsigned - signed > few
    nan = counted(np.isnan, np.ones_like) > few
    nan |= plus & minus
    if parameters:  # 0 · ∞
        nan |= counted(lambda x: np.abs(infinite(x)), lambda weight: weight == 0) > few
    special = nan | plus | minus
    return Allowed(
        rest.finite & ~special,
        np.where(special, plus & ~nan, rest.plus),
        np.where(special, minus & ~nan, rest.minus),
        np.where(special, nan | (plus & rest.minus) | (minus & rest.plus), rest.nan),
    )
