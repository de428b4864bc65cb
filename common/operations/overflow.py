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
and a softmax of +∞, or of −∞ alone, may be anything, since what overflows there is divided by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from common.operations.arrays import Arrays, Parameters, np
from common.operations.rounding import Allowed, Reference

LARGEST = (2 - 2.0**-23) * 2.0**127
"""The largest number of float32."""
OVERFLOWS = 2.0**128 - 2.0**103
"""The smallest magnitude that rounding to nearest makes infinity of."""

Computation: TypeAlias = "Callable[[Arrays, Parameters], Reference]"
"""`Operation.reference`: of inputs and parameters, what they give."""


def as_it_is(value: np.ndarray) -> Allowed:
    """Each element is of the kind that it is."""
    return Allowed(np.isfinite(value), value == np.inf, value == -np.inf, np.isnan(value))


def opened(reference: Reference, where: np.ndarray) -> Reference:
    """Nothing is claimed there, and elsewhere each element is of the kind that it is."""
    kinds = as_it_is(reference.value)
    return replace(reference, allowed=Allowed(*(kind | where for kind in vars(kinds).values())))


def sums_that_overflow(
    computed: Computation,
    inputs: Arrays,
    parameters: Parameters,
    *,
    scale: int = 1,
    largest: Callable[[np.ndarray, Parameters], np.ndarray] | None = None,
) -> Reference:
    """With what the sum of the module's description may be.

    Args:
        computed: adds up products of inputs and weights, or inputs.
        inputs: float32.
        parameters: float32, in the canonical layout.
        scale: what is divided by afterwards: an average may be added up first.
        largest: at least the magnitude of anything that is computed on the way to each element, where implementations
            choose in which order they multiply and add.
    """
    finite = [np.where(np.isfinite(x), x, 0) for x in inputs]
    rest = computed(finite, parameters)
    assert rest.bound is not None
    if largest is not None:
        plus = minus = largest(finite[0], parameters) >= OVERFLOWS / 2
    else:
        plus, minus = (1.01 * part >= OVERFLOWS for part in _parts(computed, finite, parameters, scale))
    allowed = Allowed(np.abs(rest.value) - rest.bound <= LARGEST, plus, minus, plus & minus)
    if not all(np.isfinite(x).all() for x in inputs):
        allowed = _with_infinite_terms(computed, inputs, parameters, allowed)
    return replace(rest, allowed=allowed)


def _parts(computed: Computation, inputs: Arrays, parameters: Parameters, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """P and N, each a sum of terms of one sign, so that float64 loses nothing to cancellation.

    They are multiplied by 1.01 then, which is more than 1 + γ_n for any n below 160,000.
    """

    def value(sign_of_input: int, sign_of_weight: int, bias: int) -> np.ndarray:
        signed = [np.maximum(sign_of_input * x, 0) for x in inputs]
        weights = {
            name: np.maximum((bias if name == "bias" else sign_of_weight) * array, 0) * (name != "bias" or bias != 0)
            for name, array in parameters.items()
        }
        return scale * computed(signed, weights).value

    if not parameters:
        return value(1, 1, 0), value(-1, 1, 0)
    return value(1, 1, 1) + value(-1, -1, 0), value(1, -1, -1) + value(-1, 1, 0)


def _with_infinite_terms(computed: Computation, inputs: Arrays, parameters: Parameters, rest: Allowed) -> Allowed:
    """Of sums that have infinite terms, or NaN, beside finite ones; `rest` is what the finite ones may sum to."""

    def counted(marks: Callable[[np.ndarray], np.ndarray], factors: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Marked inputs added up, each with a mark of its weight."""
        marked = {name: factors(array).astype(np.float32) for name, array in parameters.items()}
        marked |= {name: np.zeros_like(marked[name]) for name in ("bias", "beta", "mean") if name in marked}
        if "variance" in marked:
            marked["variance"] = np.ones_like(marked["variance"])
        return computed([marks(x).astype(np.float32) for x in inputs], marked).value

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
