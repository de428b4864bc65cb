"""How far a layer's output is from its reference, and which verdict follows.

The bound decides; the size of the errors tells the precision that they were made in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

import numpy as np

from common.operations.rounding import FP32, SMALLEST_NORMAL, UNIT_ROUNDOFF, Allowed, Precision, Reference
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
    if same_bits(output, rounded):
        return Measure(output.size, histogram=(output.size,))
    ulp, histogram = _ulp_distances(output, rounded)
    if reference.bound is None:
        # A choice between numbers; a subnormal one may have been flushed to zero.
        flushed = (output == 0) & (np.abs(rounded) < SMALLEST_NORMAL)
        only_flushed = same_bits(output, np.where(flushed, np.float32(0), rounded))
        ratio = float(np.abs(rounded[flushed]).max() / SMALLEST_NORMAL) if only_flushed else np.inf
        required = must_be_exact or not only_flushed
        return Measure(output.size, False, required, ratio, ulp, histogram, summed=False)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs(output - reference.value)
        ratio = float(np.max(error / reference.bound, initial=0.0))
    squares, counted = scaled_errors(error, reference)
    summed = reference.spread is not None
    return Measure(output.size, False, must_be_exact, ratio, ulp, histogram, squares, counted, summed)


def _measure_overflowing(output: np.ndarray, reference: Reference, allowed: Allowed) -> Measure:
    right = allowed.of(output)
    if not right.all():
        wrong = np.isfinite(output[~right])
        return Measure(
            output.size, False, ratio=np.inf, ulp=None, summed=False, overflow="needed" if wrong.all() else "wrong"
        )
    compared = np.isfinite(output) & ~allowed.open
    bound, spread = (array if array is None else array[compared] for array in (reference.bound, reference.spread))
    found = measure(output[compared], Reference(reference.value[compared], bound, spread=spread))
    return replace(found, elements=output.size, same=False, overflow="right" if not np.isfinite(output).all() else None)


def verdict_from(name: str, measures: Sequence[Measure], allowed: Precision) -> LayerVerdict:
    """The verdict on a layer from measures of its parts."""
    histogram = tuple(map(sum, zip_longest(*(measure.histogram for measure in measures), fillvalue=0)))
    if all(measure.same for measure in measures):
        return LayerVerdict(name, IDENTICAL, ulp_histogram=histogram)
    ulps = [measure.ulp for measure in measures]
    ulp = None if None in ulps else max(ulp for ulp in ulps if ulp is not None)
    ratio = float(np.max([measure.ratio for measure in measures]))
    verdict = partial(LayerVerdict, name, max_ulp=ulp, ulp_histogram=histogram if ulp is not None else ())
    overflow = {measure.overflow for measure in measures}
    if "needed" in overflow or "wrong" in overflow:
        told = "does not overflow where float32 must" if "needed" in overflow else "overflows where float32 need not"
        return verdict(DIVERGED, None, "other", cause=f"{name} {told}", overflows=True)
    verdict = partial(verdict, overflows="right" in overflow)
    if not np.isfinite(ratio):
        chosen = any(measure.must_be_same and measure.ratio == np.inf for measure in measures) and ulp is not None
        return verdict(DIVERGED, None, "other", cause=None if chosen else f"{name} holds NaN or infinity")
    precision = _precision(measures, ratio)
    if ratio <= 1 and any(measure.must_be_same for measure in measures):
        cause = "integers are not summed exactly, as by a fast algorithm (Winograd, FFT) or a small wrong number"
        return verdict(DIVERGED, ratio, precision, cause=cause)
    enough = precision in _AS_PRECISE[allowed.name]
    return verdict(CERTIFIED if ratio <= 1 and enough else DIVERGED, ratio, precision)


def _precision(measures: Sequence[Measure], ratio: float) -> str:
    """The precision whose rounding errors have this size; by the bound where nothing is summed."""
    if not all(measure.summed for measure in measures):
        return "fp32" if ratio <= 1 else "other"
    size = max(sizes_of_errors(measures))
    return next((name for name, largest in LARGEST_ERRORS.items() if size <= largest), "other")


def sizes_of_errors(measures: Sequence[Measure]) -> tuple[float, float]:
    """The RMS of error ÷ (u·√Σp²) over a layer, and the largest of a unit, divided by `UNIT`."""
    squares, counted = (sum(np.asarray(getattr(m, name)) for m in measures) for name in ("squares", "counted"))
    of_units = np.divide(squares, counted, out=np.zeros_like(squares, np.float64), where=np.greater(counted, 0))
    of_layer = np.sum(squares) / max(np.sum(counted), 1)
    return float(np.sqrt(of_layer)), float(np.sqrt(np.max(of_units, initial=0.0)) / UNIT)


def scaled_errors(error: np.ndarray, reference: Reference) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Σ (error ÷ (u·√Σp²))² over the elements that it says something about, and how many these are, of each unit.

    The worst-case bound of a long sum is far above the errors that occur, so a wrong bias can lie within it; the size
    of the errors gives it away. It is taken where the products cancel as random ones do: where they all have one sign,
    the partial sums, and with them honest rounding errors, are larger than √Σp² suggests.
    """
    if reference.spread is None:
        return 0.0, 0.0
    typical = (np.abs(reference.value) <= 4 * reference.spread) & (
        reference.spread > SMALLEST_NORMAL / UNIT_ROUNDOFF**2
    )
    over = (0, *range(2, error.ndim))
    with np.errstate(over="ignore"):
        scaled = np.divide(error, UNIT_ROUNDOFF * reference.spread, out=np.zeros(error.shape), where=typical)
        return np.square(scaled).sum(axis=over), typical.sum(axis=over, dtype=np.float64)


def _ulp_distances(left: np.ndarray, right: np.ndarray) -> tuple[int | None, tuple[int, ...]]:
    """The largest distance in units in the last place, and how many elements are 0, 1, 2–3, 4–7, … apart."""
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return None, ()
    bits, others = (np.ascontiguousarray(array, np.float32).view(np.int32) for array in (left, right))
    distances = np.abs(bits - others)  # of one sign, float32 numbers are in the order of their bits
    opposite = (bits ^ others) < 0
    apart = np.array([], np.int64)
    if opposite.any():
        below, above = (array[opposite].astype(np.int64) & 0x7FFFFFFF for array in (bits, others))
        apart = below + above  # through zero
        distances[opposite] = 0
    far = distances >= _COUNTED
    counts = np.bincount(distances[~far] if far.any() else distances.ravel(), minlength=1)
    counts[0] -= apart.size
    apart = np.concatenate([apart, distances[far]])
    bins = Counter({0: int(counts[0])})
    for low in (1 << bit for bit in range((len(counts) - 1).bit_length())):
        bins[low.bit_length()] += int(counts[low : 2 * low].sum())
    bins.update(distance.bit_length() for distance in apart.tolist())
    largest = max(int(apart.max(initial=0)), len(counts) - 1)
    return largest, tuple(bins[number] for number in range(max(bins) + 1))


_COUNTED = 1 << 16
"""Distances below this are counted each for itself."""


def certifies(output: np.ndarray, reference: Reference, must_be_exact: bool) -> bool:
    """Whether an output is what a reference says it should be, within its bound or, if it must, to the bit."""
    return verdict_from("", [measure(output, reference, must_be_exact=must_be_exact)], FP32).verdict != DIVERGED


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two float32 arrays hold the same bits, but for the sign of zero; NaN is the same as nothing.

    A sum that is zero is +0 or −0 depending on whether it starts at zero or with its first product: that is an order of
    summation, and no arithmetic of the network sees it.
    """
    return left.dtype == right.dtype == np.float32 and np.array_equal(left, right)
