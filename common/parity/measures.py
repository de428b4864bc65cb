"""How far a layer's output is from its reference, and which verdict follows.

The bound decides; the size of the errors tells the precision that they were made in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from math import prod

import numpy as np

from common.operations.rounding import FP32, SMALLEST_NORMAL, UNIT_ROUNDOFF, Allowed, Piece, Place, Precision, Reference
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL, LayerVerdict

LARGEST_ERRORS = {"fp32": 180.0, "tf32": 18_500.0, "bf16": 400_000.0}
"""The largest RMS of error ÷ (u·√Σp²) of each precision.

Chosen, not derived: half-way, on a logarithmic scale, between what a prototype of this check measured over whole
networks, TF32 and bfloat16 simulated: 1.5–9.4, 3,300–5,700, 26,000–44,000. The table is in docs/proofs.md. TF32 by
cutting bits off instead of rounding gives 13,000, the largest that must still pass for it.
"""

UNIT = 6.0
"""How many times as large the RMS over one unit (a channel, a neuron) may be as that over a layer.

A layer of U units dilutes what one of them has by √U. The few elements of one unit scatter more than a layer's many,
and of thousands of honest units the worst must pass. An element's error is Σ δ_k s_k over its partial sums s_k, the δ_k
mean-zero and within u. Given the s_k it is sub-Gaussian (Hoeffding) with the variance V = Σ Var(δ_k) s_k². Of products
with random signs the s_k are a random walk, and V, an integral of its square, exceeds y times its mean with probability
exp(−0.62 y) (π²/16, from the Laplace transform of ∫W²: Cameron and Martin 1945). Together, by the best split,
P(error > x · RMS) ≤ exp(−1.1 x): below 10^-15 from x = 31 on, though a unit were a single element. The largest RMS of
an honest layer was 9.4, so that an honest unit stays below 290; TF32's have 3,300. 6 · 180 lies half-way, again on a
logarithmic scale; so do its multiples of the other limits, whose errors are sums of independent roundings, and scatter
less.
"""

_AS_PRECISE = {"fp32": ("fp32",), "tf32": ("fp32", "tf32"), "fp16": ("fp32", "tf32"), "bf16": tuple(LARGEST_ERRORS)}
"""The fingerprints that do for what was asked; float16 has as many significant bits as TF32."""


@dataclass(frozen=True)
class Measure:
    """How far some of a layer's output is from its reference."""

    elements: int
    same: bool = True
    """Whether it has the bits of the correctly rounded result."""
    must_be_same: bool = False
    """Whether its bits are required, by an exact probe or because nothing is computed."""
    ratio: float = 0.0
    ulp: int | None = 0
    histogram: tuple[int, ...] = ()
    squares: np.ndarray | float = 0.0
    """Of error ÷ (u·√Σp²), for each unit summed over the elements it is taken of; see `scaled_errors`."""
    counted: np.ndarray | float = 0.0
    """How many these are."""
    summed: bool = True
    """Whether the layer sums products, so that the size of errors tells the precision."""
    chosen: bool = False
    """Whether nothing is computed: its elements are among those that it was made of."""
    overflow: str | None = None
    """What is infinite or NaN is `right`; some is finite that must not be, `needed`; or it is `wrong`."""


def measure(output: np.ndarray, reference: Reference, *, must_be_exact: bool = False) -> Measure:
    """Compare some of a layer's output, float32, with what it should be.

    Where float32 overflows, what is infinite or NaN must be so, and the rest is compared.

    Args:
        output: of the shape of the reference.
        reference: value and bound.
        must_be_exact: whether nothing but the reference's bits will do, as where integers are summed.
    """
    if reference.allowed is not None:
        return _measure_overflowing(output, reference, reference.allowed)
    rounded = reference.value.astype(np.float32, copy=False)
    if reference.bound is None:
        return _measure_chosen(output, rounded, must_be_exact=must_be_exact)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        distance = output.astype(np.float64)
        distance -= reference.value
        error = distance.astype(reference.bound.dtype, copy=False)
        np.abs(error, out=error)
        ratio = float((error / reference.bound).max(initial=0.0))
        if np.isfinite(ratio) and np.isfinite(np.vdot(rounded, rounded)):  # then all numbers are
            ulp, histogram = _ulp_distances(output, rounded)
        else:  # 0 / 0 is no error where none is allowed; an error that is NaN stays one
            error = np.abs(distance)
            ratio = float(np.max(np.divide(error, reference.bound, out=np.zeros_like(error), where=error != 0)))
            ulp, histogram = _ulp_distances_if_finite(output, rounded)
    same = ulp == 0 and output.dtype == np.float32
    squares, counted = scaled_errors(error, rounded, reference)
    summed = reference.spread is not None
    # What is said of errors counts where another piece of the same output has not the same bits.
    return Measure(output.size, same, must_be_exact and not same, ratio, ulp, histogram, squares, counted, summed)


def _measure_chosen(output: np.ndarray, right: np.ndarray, *, must_be_exact: bool) -> Measure:
    """Of a choice between numbers; a subnormal one may have been flushed to zero."""
    if same_bits(output, right):
        return Measure(output.size, histogram=(output.size,), chosen=True)
    ulp, histogram = _ulp_distances_if_finite(output, right)
    flushed = (output == 0) & (np.abs(right) < SMALLEST_NORMAL)
    only_flushed = same_bits(output, np.where(flushed, np.float32(0), right))
    ratio = float(np.abs(right[flushed]).max() / SMALLEST_NORMAL) if only_flushed else np.inf
    required = must_be_exact or not only_flushed
    return Measure(output.size, False, required, ratio, ulp, histogram, summed=False, chosen=True)


def measure_in_pieces(output: np.ndarray, pieces: Iterable[Piece], *, must_be_exact: bool = False) -> Measure | None:
    """Compare a layer's output with what it should be, piece by piece; None if it does not have its shape.

    Args:
        output: float32.
        pieces: of its reference.
        must_be_exact: as for `measure`.
    """
    measures: list[Measure] = []
    places: list[Place] = []
    for place, reference in pieces:
        try:
            part = output[place]
        except IndexError:
            return None
        if part.shape != reference.value.shape:
            return None
        if place == (...,):  # all of it, in place of what was before
            measures.clear()
            places.clear()
        measures.append(measure(part, reference, must_be_exact=must_be_exact))
        places.append(place)
    if sum(measure.elements for measure in measures) != output.size:
        return None
    return _joined(measures, places, output.shape[1] if output.ndim > 1 else 1) if measures else Measure(0)


def _joined(measures: Sequence[Measure], places: Sequence[Place] | None = None, units: int = 0) -> Measure:
    """The measure of all of an output from those of its parts: pieces at places, or images with all units."""
    if len(measures) == 1:
        return measures[0]
    ulps = [measure.ulp for measure in measures]
    sums: dict[str, np.ndarray | float] = {"squares": 0.0, "counted": 0.0}
    for name in sums:
        if places is None:
            sums[name] = sum(np.asarray(getattr(measure, name)) for measure in measures)
        else:
            array = sums[name] = np.zeros(units)
            for measure, place in zip(measures, places, strict=True):
                array[place[1] if len(place) > 1 else slice(None)] += getattr(measure, name)
    return Measure(
        sum(measure.elements for measure in measures),
        all(measure.same for measure in measures),
        any(measure.must_be_same for measure in measures),
        float(np.max([measure.ratio for measure in measures])),
        None if None in ulps else max(ulp for ulp in ulps if ulp is not None),
        tuple(map(sum, zip_longest(*(measure.histogram for measure in measures), fillvalue=0))),
        sums["squares"],
        sums["counted"],
        all(measure.summed for measure in measures),
        all(measure.chosen for measure in measures),
        next((found for found in _OVERFLOWS if found in {measure.overflow for measure in measures}), None),
    )


_OVERFLOWS = ("needed", "wrong", "right")
"""What is told of overflow, the worst first."""


def _measure_overflowing(output: np.ndarray, reference: Reference, allowed: Allowed) -> Measure:
    right = allowed.of(output)
    if not right.all():
        wrong = np.isfinite(output[~right])
        kind = "needed" if wrong.all() else "wrong"
        chosen = reference.bound is None
        return Measure(output.size, False, ratio=np.inf, ulp=None, summed=False, chosen=chosen, overflow=kind)
    compared = np.isfinite(output) & ~allowed.open
    bound, spread = (array if array is None else array[compared] for array in (reference.bound, reference.spread))
    found = measure(output[compared], Reference(reference.value[compared], bound, spread=spread))
    return replace(found, elements=output.size, same=False, overflow="right" if not np.isfinite(output).all() else None)


def verdict_from(name: str, measures: Sequence[Measure], allowed: Precision) -> LayerVerdict:
    """The verdict on a layer from measures of its parts."""
    measured = _joined(measures)
    ulp, ratio, histogram = measured.ulp, measured.ratio, measured.histogram
    if measured.same:
        return LayerVerdict(name, IDENTICAL, ulp_histogram=histogram)
    verdict = partial(LayerVerdict, name, max_ulp=ulp, ulp_histogram=histogram if ulp is not None else ())
    if measured.overflow in ("needed", "wrong"):
        needed = measured.overflow == "needed"
        told = "does not overflow where float32 must" if needed else "overflows where float32 need not"
        return verdict(DIVERGED, None, "other", cause=f"{name} {told}", overflows=True)
    verdict = partial(verdict, overflows=measured.overflow == "right")
    if not np.isfinite(ratio):
        return verdict(DIVERGED, None, "other", cause=f"{name} holds NaN or infinity" if ulp is None else None)
    precision = _precision(measured)
    if ratio <= 1 and measured.must_be_same:
        cause = "integers are not summed exactly, as by a fast algorithm (Winograd, FFT) or a small wrong number"
        return verdict(DIVERGED, ratio, precision, cause=cause)
    enough = precision in _AS_PRECISE[allowed.name]
    return verdict(CERTIFIED if ratio <= 1 and enough else DIVERGED, ratio, precision)


def _precision(measured: Measure) -> str:
    """The precision whose rounding errors have this size; by the bound where nothing is summed."""
    if not measured.summed:
        return "fp32" if measured.ratio <= 1 else "other"
    size = max(sizes_of_errors(measured.squares, measured.counted))
    return next((name for name, largest in LARGEST_ERRORS.items() if size <= largest), "other")


def sizes_of_errors(squares: np.ndarray | float, counted: np.ndarray | float) -> tuple[float, float]:
    """The RMS of error ÷ (u·√Σp²) over a layer, and the largest of a unit, divided by `UNIT`."""
    of_units = np.divide(squares, counted, out=np.zeros_like(squares, np.float64), where=np.greater(counted, 0))
    of_layer = np.sum(squares) / max(np.sum(counted), 1)
    return float(np.sqrt(of_layer)), float(np.sqrt(np.max(of_units, initial=0.0)) / UNIT)


def scaled_errors(
    error: np.ndarray, rounded: np.ndarray, reference: Reference
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Σ (error ÷ (u·√Σp²))² over the elements that it says something about, and how many these are, of each unit.

    The worst-case bound of a long sum is far above the errors that occur, so a wrong bias can lie within it; the size
    of the errors gives it away. It is taken where the products cancel as random ones do: where they all have one sign,
    the partial sums, and with them honest rounding errors, are larger than √Σp² suggests.

    Args:
        error: |output − value|.
        rounded: the value in float32.
        reference: value and spread.
    """
    if reference.spread is None:
        return 0.0, 0.0
    units = (*error.shape[:2], *[1] * (2 - error.ndim), prod(error.shape[2:]))
    with np.errstate(over="ignore", invalid="ignore"):
        spread = reference.spread.astype(np.float32, copy=False)
        typical = np.abs(rounded) <= 4 * spread
        if not spread.min(initial=1) > _LEAST_SPREAD:
            typical &= spread > _LEAST_SPREAD
            spread = np.maximum(spread, _LEAST_SPREAD)
        counted = typical.astype(np.float32)  # which is multiplied with: to choose by truths takes ten times as long
        error = error.astype(np.float32, copy=False)
        scaled = error / spread
        scaled *= counted
        squares = np.einsum("ijk,ijk->j", *2 * [scaled.reshape(units)])
        if not squares.max(initial=0) < _MOST**2:
            scaled = np.minimum(error / spread, _MOST) * counted
            squares = np.einsum("ijk,ijk->j", *2 * [scaled.reshape(units)])
    number = np.einsum("ijk->j", counted.reshape(units))
    return squares.astype(np.float64) / UNIT_ROUNDOFF**2, number.astype(np.float64)


_LEAST_SPREAD = np.float32(SMALLEST_NORMAL / UNIT_ROUNDOFF**2)
_MOST = np.float32(2.0**50)
"""An error, in units of the spread, that is of no precision; and the square of which is finite."""


def _ulp_distances_if_finite(left: np.ndarray, right: np.ndarray) -> tuple[int | None, tuple[int, ...]]:
    """As `_ulp_distances`; of infinities and NaN there is none."""
    return _ulp_distances(left, right) if np.isfinite(left).all() and np.isfinite(right).all() else (None, ())


def _ulp_distances(left: np.ndarray, right: np.ndarray) -> tuple[int | None, tuple[int, ...]]:
    """The largest distance in units in the last place, and how many elements are 0, 1, 2–3, 4–7, … apart.

    Args:
        left, right: finite.
    """
    bits, others = (array.astype(np.float32, copy=False).view(np.int32) for array in (left, right))
    distances = (bits - others).reshape(-1)
    distances = np.abs(distances, out=distances).view(np.uint32)  # of one sign, float32 numbers have the order of bits
    counts, remaining = np.zeros(34, np.int64), distances.size
    for length in range(9):  # in bits: most distances are short, and counted fastest by comparing all of them
        longer = distances >= np.uint32(1 << length)
        before, remaining = remaining, int(np.count_nonzero(longer))
        counts[length] = before - remaining
        if remaining <= distances.size // 64:
            break
    places = np.flatnonzero(longer)
    long = distances[places].astype(np.int64)
    if long.max(initial=0) >= 1 << 23:
        # Finite numbers of opposite signs come out further apart than 2^23. Their distance is that through zero.
        one, other = (array.reshape(-1)[places].astype(np.int64) for array in (bits, others))
        through_zero = (one & 0x7FFFFFFF) + (other & 0x7FFFFFFF)
        long = np.where((one ^ other) < 0, through_zero, np.abs(one - other))
        distances[places] = 0
    counts += np.bincount(np.frexp(long.astype(np.float64))[1], minlength=34)
    largest = max(int(distances.max(initial=0)), int(long.max(initial=0)))
    return largest, tuple(counts[: largest.bit_length() + 1].tolist())


def certifies(output: np.ndarray, reference: Reference, must_be_exact: bool) -> bool:
    """Whether an output is what a reference says it should be, within its bound or, if it must, to the bit."""
    return verdict_from("", [measure(output, reference, must_be_exact=must_be_exact)], FP32).verdict != DIVERGED


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two float32 arrays hold the same bits, but for the sign of zero; NaN is the same as nothing.

    A sum that is zero is +0 or −0 depending on whether it starts at zero or with its first product: that is an order of
    summation, and no arithmetic of the network sees it.
    """
    if not left.dtype == right.dtype == np.float32 or left.shape != right.shape:
        return False
    order = sorted(range(right.ndim), key=lambda axis: -right.strides[axis])
    moved = left.transpose(order), right.transpose(order)
    # What a loop over an array with large steps touches is to be in the cache still when it is touched again.
    if _loop_over(right) > max(_LINES, _loop_over(moved[0])):
        left, right = moved[::-1]
    return bool((left == right).all())


_LINES = 512
"""How many lines of the cache a loop may touch: fewer than the smallest has."""


def _loop_over(array: np.ndarray) -> int:
    """How many elements at the end of an array are taken in equal steps."""
    length = 1
    for size, stride in zip(array.shape[::-1], array.strides[::-1], strict=True):
        if stride != length * array.strides[-1]:
            break
        length *= size
    return length
