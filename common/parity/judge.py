"""Judging what a backend recorded, layer by layer, against the oracle.

Each layer is evaluated in float64 on the backend's *own* recorded input of that layer, so that an error is found in the
layer that makes it and not in those behind it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest

import numpy as np

from common.errors import TriptychError
from common.names import layer_of, parameters_of
from common.operations import Conv, Dropout, Operation, Shape, evaluate, shapes_of
from common.operations.overflow import Allowed, with_overflow
from common.operations.rounding import FP32, SMALLEST_NORMAL, UNIT_ROUNDOFF, Precision, Reference
from common.parity.causes import UNTRACED, Finding, Traced, alternatives, find_cause, observe
from common.parity.later_images import sums_are_right
from common.parity.shapes import explain_shape
from common.probes import Probe
from common.recording import Unnamed
from common.specs.architecture import IMAGE, Architecture, Layer

IDENTICAL, CERTIFIED, DIVERGED = "identical", "certified", "diverged"

PRECISIONS = {"fp32": 180.0, "tf32": 18_500.0, "bf16": 400_000.0}
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

_AS_PRECISE = {"fp32": ("fp32",), "tf32": ("fp32", "tf32"), "fp16": ("fp32", "tf32"), "bf16": tuple(PRECISIONS)}
"""The fingerprints that do for what was asked; float16 has as many significant bits as TF32."""


@dataclass(frozen=True)
class LayerVerdict:
    """What is known about one layer of one backend."""

    name: str
    verdict: str
    """`identical`: the oracle's bits; `certified`: within the derived bound; `diverged`: neither."""
    bound_ratio: float | None = 0.0
    """The largest error ÷ bound over all elements; None if it is not a finite number."""
    precision: str = "fp32"
    max_ulp: int | None = 0
    """The largest distance from the correctly rounded result in units in the last place; None if not comparable."""
    ulp_histogram: tuple[int, ...] = ()
    """How many elements are 0, 1, 2–3, 4–7, … units in the last place from the correctly rounded result."""
    cause: str | None = None
    """Where it diverged, what explains it here, and what is seen of it besides."""
    excluded: tuple[str, ...] = ()
    """Where it diverged, the mistakes that were tried and do not explain it (see `common.parity.causes`)."""
    place: str | None = None
    """Where it ran, `cpu` or `gpu`; None where nobody tells."""
    overflows: bool = False
    """Whether some of it is infinite or NaN where float32 overflows; or is, or is not, wrongly."""
    untried: tuple[str, ...] = ()
    """The mistakes that could not be tried, because the hypothesis itself failed, each with its traceback."""
    explanations: tuple[str, ...] = ()
    """Where it diverged, all the mistakes that explain it on this probe, the likeliest first."""
    fact: str | None = None
    """What is seen of the divergence whatever made it: another shape, NaN, integers that are not summed exactly."""


@dataclass(frozen=True)
class Between:
    """What stands between the layers of a backend's model, and what those behind it were given; see `Recording`."""

    unnamed: Unnamed = field(default_factory=dict)
    given: Mapping[str, np.ndarray] = field(default_factory=dict)


Memory = MutableMapping[tuple[str, tuple[bytes, ...]], LayerVerdict]
"""Verdicts by layer and the digests of what went in and came out, for one probe."""


def judge(
    spec: Architecture,
    probe: Probe,
    recorded: Mapping[str, np.ndarray],
    memory: Memory | None = None,
    precision: Precision = FP32,
    between: Between = Between(),
    traced: Traced = UNTRACED,
) -> list[LayerVerdict]:
    """Judge every layer of one backend.

    Args:
        spec: the network.
        probe: what the backend was given.
        recorded: what it computed, (N, C, H, W) or (N, features) by canonical layer name, in the order in which it did.
            A dropout may be absent.
        memory: verdicts on the same probe; a layer for which another backend had the very same input and output is
            not judged again.
        precision: what the backend was asked for; the bounds are those of this precision.
        between: what stands between the layers of its model.
        traced: what the structure of its model says, which causes are held against.
    """
    return list(judge_in_order(spec, probe, recorded, memory, precision, between, traced))


def judge_in_order(
    spec: Architecture,
    probe: Probe,
    recorded: Mapping[str, np.ndarray],
    memory: Memory | None = None,
    precision: Precision = FP32,
    between: Between = Between(),
    traced: Traced = UNTRACED,
) -> Iterator[LayerVerdict]:
    """As `judge`, each layer when it is asked for: whoever wants the first divergence need not wait for the rest."""
    memory = {} if memory is None else memory
    values: dict[str, np.ndarray] = {IMAGE: probe.image}
    digests = {IMAGE: _digest(probe.image)}
    fit = {name: array for name, array in recorded.items() if not _unfit(name, array, len(probe.image))}
    diverged = False
    for layer in spec.layers:
        inputs = [values[name] for name in layer.inputs if name in values]
        output = recorded.get(layer.name)
        if output is None and isinstance(layer.operation, Dropout) and inputs:
            values[layer.name], digests[layer.name] = inputs[0], digests[layer.inputs[0]]
            continue
        if output is None:
            diverged = True
            yield divergence(layer.name, f"{layer.name} was not computed")
            continue
        if unfit := _unfit(layer.name, output, len(probe.image)):
            diverged = True
            yield divergence(layer.name, unfit)
            continue
        made = _digest(output)
        values[layer.name] = probe.injected.get(layer.name, output)
        digests[layer.name] = _digest(values[layer.name]) if layer.name in probe.injected else made
        key = (layer.name, (*(digests.get(name, b"") for name in layer.inputs), made))
        if key not in memory:
            verdict = _judge_layer(layer, probe, inputs, output, precision)
            if verdict.verdict == DIVERGED and not diverged:
                diverged = True
                if verdict.overflows:  # a bound that large would certify anything
                    yield verdict
                    continue
                finding = find_cause(observe(spec, layer, probe, inputs, output, fit, traced), certifies)
                given = between.given.get(layer.name)
                if given is not None and _right_on(layer, probe, given, output, precision):
                    cause = stands_between(layer.inputs[0], "it", between.unnamed[layer.name])
                    finding = replace(finding, seen=f"{cause}, and on what that gives it is right")
                yield _explained(verdict, finding)
                continue
            memory[key] = verdict
        diverged = diverged or memory[key].verdict == DIVERGED
        yield memory[key]


def stands_between(before: str, behind: str, operations: Sequence[str]) -> str:
    """For a message: that something is in the model which the specification does not have."""
    verb = "stand" if len(operations) > 1 else "stands"
    return f"{' and '.join(operations)} {verb} between {before} and {behind}"


def _right_on(layer: Layer, probe: Probe, given: np.ndarray, output: np.ndarray, precision: Precision) -> bool:
    """Whether a layer's output follows from what it was really given."""
    bare = replace(probe, expected={})
    return _judge_layer(layer, bare, [given], output, precision).verdict != DIVERGED


def _explained(verdict: LayerVerdict, finding: Finding) -> LayerVerdict:
    """A divergence with what was found of its cause."""
    facts = [finding.seen, verdict.cause]
    if finding.untried:
        error = finding.untried[0].strip().splitlines()[-1]
        facts.append(f"{len(finding.untried)} of the known mistakes could not be tried, since triptych failed: {error}")
    fact = "; ".join(filter(None, facts))
    return replace(
        verdict,
        cause="; ".join(filter(None, (alternatives(finding.causes), fact))) or None,
        fact=fact or None,
        explanations=finding.causes,
        excluded=finding.excluded,
        untried=finding.untried,
    )


def _unfit(name: str, output: np.ndarray, images: int) -> str | None:
    """Why something recorded cannot be a layer's output at all: only batches of float32 can be evaluated."""
    if output.dtype != np.float32:
        found = "bfloat16" if output.dtype == "V2" else output.dtype  # which NumPy does not know
        return f"{name} is {found}, expected float32"
    if output.ndim < 2 or len(output) != images:
        return f"{name} has shape {shapes_of([output])}, expected a batch of {images}"
    return None


def certifies(output: np.ndarray, reference: Reference, must_be_exact: bool) -> bool:
    """Whether an output is what a reference says it should be, within its bound or, if it must, to the bit."""
    return verdict_from("", [measure(output, reference, must_be_exact=must_be_exact)], FP32).verdict != DIVERGED


def _digest(array: np.ndarray) -> bytes:
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.digest()


def judge_structure(
    spec: Architecture, shapes: Mapping[str, Sequence[int]], parameter_shapes: Mapping[str, Sequence[int]]
) -> list[LayerVerdict]:
    """The layers that are missing or have another shape than specified, which no numbers are needed to see.

    Args:
        spec: the network.
        shapes: of each layer's output for one image, (C, H, W) or (features,).
        parameter_shapes: of each parameter in the canonical layout.
    """
    problems: list[LayerVerdict] = []
    for layer in spec.layers:
        found = [
            _mismatch(name, given.get(name), expected)
            for given, wanted in ((shapes, spec.shapes), (parameter_shapes, spec.parameter_shapes))
            for name, expected in wanted.items()
            if name == layer.name or (given is parameter_shapes and layer_of(name) == layer.name)
        ]
        if cause := next(filter(None, found), None):
            unexplained = problems or tuple(shapes.get(layer.name, ())) in ((), spec.shapes[layer.name])
            mistake = None if unexplained else explain_shape(spec, layer, {k: tuple(v) for k, v in shapes.items()})
            problems.append(divergence(layer.name, f"{cause}, as if {mistake}" if mistake else cause))
    unexpected = [name for name in parameter_shapes if name not in spec.parameter_shapes]
    return problems + [divergence(layer_of(name), f"{name} is not in the specification") for name in unexpected]


def _mismatch(name: str, found: Sequence[int] | None, expected: Shape) -> str | None:
    if found is None:
        return f"{name} is missing"
    if tuple(found) != expected:
        return f"{name} has shape {'×'.join(map(str, found))}, expected {'×'.join(map(str, expected))}"
    return None


def first_divergence(verdicts: Iterable[LayerVerdict]) -> LayerVerdict | None:
    """The first layer that diverged, in the order of computation."""
    return next((verdict for verdict in verdicts if verdict.verdict == DIVERGED), None)


def overall(verdicts: list[LayerVerdict], probe: Probe) -> str:
    """A backend's verdict on one probe.

    `identical` asks for the oracle's bits in every layer, but for those that an exact probe lists as bounded, which
    must be certified.
    """
    found = {
        verdict.verdict for verdict in verdicts if verdict.name not in probe.bounded or verdict.verdict == DIVERGED
    }
    return next((verdict for verdict in (DIVERGED, CERTIFIED) if verdict in found), IDENTICAL)


def divergence(name: str, cause: str | None) -> LayerVerdict:
    """A verdict that no numbers are needed for."""
    return LayerVerdict(name, DIVERGED, None, "other", None, cause=cause)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two float32 arrays hold the same bits, but for the sign of zero; NaN is the same as nothing.

    A sum that is zero is +0 or −0 depending on whether it starts at zero or with its first product: that is an order of
    summation, and no arithmetic of the network sees it.
    """
    return left.dtype == right.dtype == np.float32 and np.array_equal(left, right)


def _judge_layer(
    layer: Layer, probe: Probe, inputs: list[np.ndarray], output: np.ndarray, precision: Precision
) -> LayerVerdict:
    expected = probe.expected.get(layer.name)
    if expected is not None and same_bits(output, expected):
        return LayerVerdict(layer.name, IDENTICAL, ulp_histogram=(output.size,))
    if len(inputs) < len(layer.inputs):
        return divergence(layer.name, None)
    # On an exact probe, a layer that was given the expected input must give the expected bits.
    given_expected = expected is not None and all(
        same_bits(array, probe.injected.get(name, probe.expected.get(name, probe.image)))
        for name, array in zip(layer.inputs, inputs, strict=True)
    )
    parameters = parameters_of(layer.name, probe.weights)
    # Large maps are taken image by image: arrays that stay small are not given back to the system, and fetched again.
    # The convolutions of real probes too; of these, images after the first are judged by sums over their filters.
    quick = isinstance(layer.operation, Conv) and not probe.expected and precision == FP32
    together = not quick and (output.ndim < 4 or output.size < _LARGE)
    together = together or len({len(array) for array in (*inputs, output)}) > 1
    parts = [slice(None)] if together else [slice(image, image + 1) for image in range(len(output))]
    measures = []
    for part in parts:
        given = [array[part] for array in inputs]
        if quick and part.start and _sums_are_right(layer.operation, given[0], parameters, output[part]):
            measures.append(Measure(output[part].size, same=False))
            continue
        try:
            reference = evaluate(layer.operation, given, parameters)
        except TriptychError:  # the input has a shape that this layer cannot take
            return divergence(layer.name, f"{layer.name} cannot follow from what precedes it, {shapes_of(inputs)}")
        if output[part].shape != reference.value.shape:
            found, expectation = shapes_of([output[part]]), shapes_of([reference.value])
            return divergence(layer.name, f"{layer.name} has shape {found}, expected {expectation}")
        reference = with_overflow(layer.operation, given, parameters, reference)
        reference = layer.operation.at_precision(reference, precision)
        measures.append(measure(output[part], reference, must_be_exact=given_expected))
    return verdict_from(layer.name, measures, precision)


def _sums_are_right(
    operation: Operation, x: np.ndarray, parameters: Mapping[str, np.ndarray], output: np.ndarray
) -> bool:
    return isinstance(operation, Conv) and sums_are_right(operation, x, parameters, output, PRECISIONS["fp32"])


_LARGE = 1 << 20
"""Elements of a batch of maps from which on images are judged one by one."""


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
    """The precision whose rounding errors have this size (see `PRECISIONS`); where nothing is summed, by the bound."""
    if not all(measure.summed for measure in measures):
        return "fp32" if ratio <= 1 else "other"
    size = max(sizes_of_errors(measures))
    return next((name for name, largest in PRECISIONS.items() if size <= largest), "other")


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
