"""Sums of products, Σ w·a + b: the common part of convolutions and dense layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from common.operations.arrays import Arrays, Parameters, np
from common.operations.mistake import exchanged, factor_fits, given, rounded_to
from common.operations.operation import Fit, Hypothesis, Observation, Operation
from common.operations.rounding import CARRIED, SMALLEST_NORMAL, Precision, Reference, gamma, unit_of, upwards

Scaled = tuple["np.ndarray", ...]
"""Some of a factor, prepared in each way in which it is multiplied."""


class Summing(Protocol):
    """Sums of products of a weight and an operand, of which an operation hands over one piece after the other."""

    def scaled(self, array: np.ndarray, factor: int) -> Scaled:
        """Some of the first factor, 0, or the second, 1, prepared to be multiplied."""

    def reference(self, products: Sequence[np.ndarray], bias: np.ndarray | None, terms: int) -> Reference:
        """Of what the prepared factors, each with its like, were multiplied to.

        Args:
            products: (N, units, …) each, which are changed.
            bias: of the units, if there is one.
            terms: how many products an element sums.
        """


class Sums(Summing):
    """Sums of products Σ w·a in float64, with Σ|w·a| and Σ (w·a)² beside them.

    The last two only scale a bound and a statistic, so they are computed in float32, on operands divided by a power of
    two where something might overflow; `reference` makes up for what their rounding may lose.
    """

    def __init__(self, weight: np.ndarray, operand: np.ndarray) -> None:
        lowest = weight.min(initial=0.0), operand.min(initial=0.0)
        self.negative = lowest[0] < 0, lowest[1] < 0
        self.exponents = _exponent_of(weight, lowest[0]), _exponent_of(operand, lowest[1])
        moderate = all(abs(exponent) <= _MODERATE for exponent in self.exponents)
        self.shifts = (0, 0) if moderate else self.exponents

    def scaled(self, array: np.ndarray, factor: int) -> Scaled:
        """In float64; its magnitudes, and their squares, in float32 and divided by a power of two."""
        shift, magnitude = self.shifts[factor], array.astype(np.float32, copy=False)
        if shift:
            # A product with a power of two is as exact as `ldexp`, and faster, where float32 has that power.
            magnitude = magnitude * np.float32(2.0**-shift) if abs(shift) < 126 else np.ldexp(magnitude, -shift)
        if self.negative[factor]:
            magnitude = np.abs(magnitude)
        return array.astype(np.float64), magnitude, np.square(magnitude)

    def reference(self, products: Sequence[np.ndarray], bias: np.ndarray | None, terms: int) -> Reference:
        value, magnitude, squares = map(np.asarray, products)  # two vectors make a scalar
        spread = np.sqrt(squares, out=squares)
        scale = 2.0 ** sum(self.shifts)
        per_unit = None if bias is None else bias.astype(np.float64).reshape(-1, *[1] * (value.ndim - 2))
        largest = 0.0 if per_unit is None else np.abs(per_unit).max(initial=0)
        in_range = 2.0**-60 < scale < 2.0**60 and largest < 2.0**60
        number: type[np.floating] = np.float32 if in_range else np.float64
        if scale != 1 or not in_range:
            magnitude, spread = magnitude * number(scale), spread * number(scale)
        if per_unit is not None:
            value += per_unit
            magnitude += np.abs(per_unit).astype(number)
        # What underflow takes from a product or a sum, from a factor that is flushed, from the magnitude itself.
        underflow = (terms + 1) * SMALLEST_NORMAL * (1 + sum(2.0**exponent for exponent in self.exponents) + scale)
        bound = magnitude * number(relative_bound(terms))
        bound += underflow
        return Reference(value, bound, magnitude, spread)


class SumsAlone(Summing):
    """Sums of products Σ w·a in float64, where nothing is asked of their rounding."""

    def scaled(self, array: np.ndarray, factor: int) -> Scaled:
        return (array.astype(np.float64),)

    def reference(self, products: Sequence[np.ndarray], bias: np.ndarray | None, terms: int) -> Reference:
        (value,) = products
        if bias is not None:
            value += bias.reshape(-1, *[1] * (value.ndim - 2))
        return Reference(value)


def relative_bound(terms: int) -> float:
    """What the bound of a sum is of its magnitude in float32.

    That is at least (1 − γ_n) of the true one; what is more than covers the rounding of float64, of the bound itself,
    which float32 holds where it has the range, and of the error that is divided by it.
    """
    operations = terms + 1
    return gamma(operations) / (1 - 2 * gamma(operations + 3))


_MODERATE = 12
"""A binary exponent whose fourth power, and sums of 2^30 of such, float32 has; as it has its inverse."""


def binary_exponent(array: np.ndarray) -> int:
    """The e for which the largest |element| lies in [2^(e−1), 2^e)."""
    return _exponent_of(array, array.min(initial=0.0))


def _exponent_of(array: np.ndarray, lowest: float) -> int:
    return int(np.frexp(max(array.max(initial=0.0), -lowest))[1])


def unit_of_products(inputs: Arrays, parameters: Parameters) -> float:
    """See `Operation.unit`."""
    unit = unit_of(inputs[0]) * unit_of(parameters["weight"])
    return min(unit, unit_of(parameters["bias"])) if "bias" in parameters else unit


def of_shorter_factors(reference: Reference, bound: np.ndarray, precision: Precision) -> np.ndarray:
    """The bound with factors that are changed by at most t each.

    A product changes by (2t + t²) |w·a|, and the bound on the sum's own rounding grows by (1 + t)².
    """
    change = precision.factors
    assert reference.magnitude is not None
    return (1 + change) ** 2 * bound + (2 * change + change**2) * reference.magnitude


def carried_by_products(operation: Operation, errors: Arrays, parameters: Parameters) -> np.ndarray:
    """|W|·e, and as much of it again as the rounding of these products makes: γ_n |W|·e."""
    weight = np.abs(parameters["weight"])
    without = {"weight": weight, "bias": np.zeros(len(weight), np.float32)}
    return (1 + gamma(weight[0].size + 1)) * CARRIED * operation.reference([upwards(errors[0])], without).value


# Mistakes


def unit_mistakes(seen: Observation, unit: str) -> Iterator[Hypothesis]:
    """Filters, units or their inputs in another order."""
    own = {name: seen.parameters[name] for name in ("weight", "bias") if name in seen.parameters}
    for name, array in own.items():
        what = "bias" if name == "bias" else "weights"
        for step in (1, -1):
            neighbour = "previous" if step == 1 else "next"
            mistake = f"the {what} of each {unit} {'is' if name == 'bias' else 'are'} the {neighbour} {unit}'s"
            yield mistake, exchanged(seen, **{name: np.roll(array, step, axis=0)})
        plural = "biases" if name == "bias" else "weights"
        yield f"the {plural} of the {unit}s are in reverse order", exchanged(seen, **{name: array[::-1]})
    if len(own) > 1:
        for step in (1, -1):
            rolled = {name: np.roll(array, step, axis=0) for name, array in own.items()}
            neighbour = "previous" if step == 1 else "next"
            yield f"weights and bias of each {unit} are the {neighbour} {unit}'s", exchanged(seen, **rolled)
        yield f"the {unit}s are in reverse order", exchanged(seen, **{name: array[::-1] for name, array in own.items()})


def bias_mistakes(seen: Observation) -> Iterator[Hypothesis]:
    if "bias" in seen.parameters:
        yield "the bias is missing", exchanged(seen, bias=0 * seen.parameters["bias"])
        yield "the bias is added twice", exchanged(seen, bias=2 * seen.parameters["bias"])
        yield "the bias is subtracted", exchanged(seen, bias=-seen.parameters["bias"])


def precision_mistakes(seen: Observation) -> Iterator[Hypothesis]:
    (x,), weight = seen.inputs, seen.parameters["weight"]
    for name, bits, ties in (
        ("TF32", 11, "even"),
        ("TF32 (ties away from zero)", 11, "away"),
        ("TF32 (towards zero)", 11, "none"),
        ("bfloat16", 8, "even"),
        ("bfloat16 (towards zero)", 8, "none"),
    ):
        evaluation = given(seen, rounded(x, bits, ties), weight=rounded(weight, bits, ties))
        yield f"factors are rounded to {name}", evaluation
        yield f"factors and result are rounded to {name}", evaluation.then(rounded_to(bits))
    # As many bits as TF32, but a smaller range: where no factor leaves that, no number tells the two apart.
    halves = given(seen, _float16(x), weight=_float16(weight))
    yield "factors are rounded to float16", halves
    yield "factors and result are rounded to float16", halves.then(rounded_to(11))
    yield "the weights are rounded to bfloat16", exchanged(seen, weight=rounded(weight, 8))
    yield "the weights are rounded to bfloat16 (towards zero)", exchanged(seen, weight=rounded(weight, 8, "none"))
    yield "the weights are rounded to float16", exchanged(seen, weight=_float16(weight))
    yield "the weights are rounded to TF32", exchanged(seen, weight=rounded(weight, 11))
    yield "what it reads is rounded to float16", given(seen, _float16(x))
    yield "what it reads is rounded to TF32", given(seen, rounded(x, 11))
    yield "what it reads is rounded to bfloat16", given(seen, rounded(x, 8))
    for over, what in ((None, "all"), (tuple(range(1, weight.ndim)), "each unit")):
        scale = np.maximum(np.abs(weight).max(axis=over, keepdims=True), SMALLEST_NORMAL).astype(np.float64) / 127
        eight_bits = np.rint(weight / scale) * scale
        yield f"the weights are rounded to int8, one scale for {what}", exchanged(seen, weight=eight_bits)


def _float16(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def rounded(array: np.ndarray, bits: int, ties: str = "even") -> np.ndarray:
    """Float32 numbers with that many significant bits: rounded to nearest, ties to even or away; or cut ("none")."""
    dropped = np.uint64(24 - bits)
    words = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    half = np.uint64(1) << (dropped - np.uint64(1))
    if ties == "even":
        words += half - np.uint64(1) + ((words >> dropped) & np.uint64(1))
    elif ties == "away":
        words += half
    return (words >> dropped << dropped).astype(np.uint32).view(np.float32)


def weights_or_bias_fits(seen: Observation, right: Reference) -> Iterator[Fit]:
    """The weights, or the biases, are multiplied by a number."""
    if "bias" not in seen.parameters:
        return
    bias = seen.parameters["bias"].astype(np.float64).reshape(-1, *[1] * (right.value.ndim - 2))
    products = right.value - bias
    yield from factor_fits(seen, Reference(bias + 0 * products, right.bound), products, "the weights are")
    yield from factor_fits(seen, Reference(products, right.bound), bias + 0 * products, "the bias is")
