"""Judging what a backend recorded, layer by layer, against the oracle.

Each layer is evaluated in float64 on the backend's *own* recorded input of that layer, so that an error is found in the
layer that makes it and not in those behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.names import layer_of
from common.oracle import SMALLEST_NORMAL, UNIT_ROUNDOFF, Reference, evaluate, parameters_of
from common.parity.causes import explain_shape, find_cause, observe
from common.probes import Probe
from common.specs.architecture import IMAGE, Architecture, Dropout, Layer, Shape

IDENTICAL, CERTIFIED, DIVERGED = "identical", "certified", "diverged"

PRECISIONS = {"fp32": 180.0, "tf32": 13_000.0, "bf16": 400_000.0}
"""The largest RMS of error ÷ (u·√Σp²) of each precision.

Chosen, not derived: half-way, on a logarithmic scale, between what a prototype of this check measured over whole
networks, TF32 and bfloat16 simulated: 1.5–9.4, 3,300–5,700, 26,000–44,000. The table is in docs/proofs.md.
"""


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
    cause: str | None = None
    excluded: tuple[str, ...] = ()
    """Where it diverged, the mistakes that were tried and do not explain it (see `common.parity.causes`)."""


Memory = MutableMapping[tuple[str, bytes], LayerVerdict]
"""Verdicts by layer and digest of what went in and came out, for one probe."""


def judge(
    spec: Architecture, probe: Probe, recorded: Mapping[str, np.ndarray], memory: Memory | None = None
) -> list[LayerVerdict]:
    """Judge every layer of one backend.

    Args:
        spec: the network.
        probe: what the backend was given.
        recorded: what it computed, (N, C, H, W) or (N, features) by canonical layer name. A dropout may be absent.
        memory: verdicts on the same probe; a layer for which another backend had the very same input and output is
            not judged again.
    """
    memory = {} if memory is None else memory
    values: dict[str, np.ndarray] = {IMAGE: probe.image}
    verdicts = []
    for layer in spec.layers:
        inputs = [values[name] for name in layer.inputs if name in values]
        output = recorded.get(layer.name)
        if output is None and isinstance(layer.operation, Dropout) and inputs:
            values[layer.name] = inputs[0]
            continue
        if output is None:
            verdicts.append(_diverged(layer.name, f"{layer.name} was not computed"))
            continue
        values[layer.name] = probe.injected.get(layer.name, output)
        key = (layer.name, _digest([*inputs, output]))
        if key not in memory:
            verdict = _judge_layer(layer, probe, inputs, output)
            if verdict.verdict == DIVERGED and not any(v.verdict == DIVERGED for v in verdicts):
                finding = find_cause(observe(spec, layer, probe.weights, inputs, output), _certifies)
                causes = [cause for cause in (finding.cause, verdict.cause) if cause]
                verdict = replace(verdict, cause="; ".join(causes) or None, excluded=tuple(finding.excluded))
            memory[key] = verdict
        verdicts.append(memory[key])
    return verdicts


def _certifies(output: np.ndarray, reference: Reference) -> bool:
    rounded = reference.value.astype(np.float32)
    return same_bits(output, rounded) or _measure("", output, rounded, reference, False).verdict == CERTIFIED


def _digest(arrays: Sequence[np.ndarray]) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
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
            given, made = spec.input_shapes(layer)[0], tuple(shapes.get(layer.name, ()))
            unexplained = problems or made in ((), spec.shapes[layer.name])
            mistake = None if unexplained else explain_shape(layer.operation, given, made)
            problems.append(_diverged(layer.name, f"{cause}, as if {mistake}" if mistake else cause))
    unexpected = sorted(set(parameter_shapes) - set(spec.parameter_shapes))
    return problems + [_diverged(layer_of(name), f"{name} is not in the specification") for name in unexpected]


def _mismatch(name: str, found: Sequence[int] | None, expected: Shape) -> str | None:
    if found is None:
        return f"{name} is missing"
    if tuple(found) != expected:
        return f"{name} has shape {'×'.join(map(str, found))}, expected {'×'.join(map(str, expected))}"
    return None


def first_divergence(verdicts: list[LayerVerdict]) -> LayerVerdict | None:
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


def _diverged(name: str, cause: str | None) -> LayerVerdict:
    return LayerVerdict(name, DIVERGED, None, "other", None, cause)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two float32 arrays hold the same bits, but for the sign of zero; NaN is the same as nothing.

    A sum that is zero is +0 or −0 depending on whether it starts at zero or with its first product: that is an order of
    summation, and no arithmetic of the network sees it.
    """
    return left.dtype == right.dtype == np.float32 and np.array_equal(left, right)


def _judge_layer(layer: Layer, probe: Probe, inputs: list[np.ndarray], output: np.ndarray) -> LayerVerdict:
    expected = probe.expected.get(layer.name)
    if expected is not None and same_bits(output, expected):
        return LayerVerdict(layer.name, IDENTICAL)
    if len(inputs) < len(layer.inputs):
        return _diverged(layer.name, None)
    try:
        reference = evaluate(layer.operation, inputs, parameters_of(layer.name, probe.weights))
    except ValueError:  # the input has a shape that this layer cannot take
        return _diverged(layer.name, f"{layer.name} cannot follow from what precedes it, {_shapes(inputs)}")
    if output.shape != reference.value.shape:
        expectation = _shapes([reference.value])
        return _diverged(layer.name, f"{layer.name} has shape {_shapes([output])}, expected {expectation}")
    rounded = reference.value.astype(np.float32)
    if same_bits(output, rounded):
        return LayerVerdict(layer.name, IDENTICAL)
    # On an exact probe, a layer that was given the expected input must give the expected bits.
    must_be_exact = reference.bound is None or (
        expected is not None
        and all(
            same_bits(array, probe.injected.get(name, probe.expected.get(name, probe.image)))
            for name, array in zip(layer.inputs, inputs, strict=True)
        )
    )
    return _measure(layer.name, output, rounded, reference, must_be_exact)


def _measure(
    name: str, output: np.ndarray, rounded: np.ndarray, reference: Reference, must_be_exact: bool
) -> LayerVerdict:
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(output - reference.value)
    precision = _precision(error, reference)
    ulp = _ulp_distance(output, rounded)
    if reference.bound is None:
        return LayerVerdict(name, DIVERGED, None, "other", ulp)
    ratio = float(np.max(error / reference.bound, initial=0.0))
    if not np.isfinite(ratio):
        return LayerVerdict(name, DIVERGED, None, "other", ulp, f"{name} holds NaN or infinity")
    if ratio <= 1 and must_be_exact:
        cause = "integers are not summed exactly, as by a fast algorithm (Winograd, FFT) or a small wrong number"
        return LayerVerdict(name, DIVERGED, ratio, precision, ulp, cause)
    if ratio <= 1 and precision == "fp32":
        return LayerVerdict(name, CERTIFIED, ratio, precision, ulp)
    return LayerVerdict(name, DIVERGED, ratio, precision, ulp)


def _precision(error: np.ndarray, reference: Reference) -> str:
    """The precision whose rounding errors have this size (see `PRECISIONS`); where nothing is summed, by the bound.

    The worst-case bound of a long sum is far above the errors that occur, so a wrong bias can lie within it; the size
    of the errors gives it away. It is taken where the products cancel as random ones do: where they all have one sign,
    the partial sums, and with them honest rounding errors, are larger than √Σp² suggests.
    """
    if reference.spread is None:
        return "fp32" if reference.bound is not None and (error <= reference.bound).all() else "other"
    typical = (np.abs(reference.value) <= 4 * reference.spread) & (
        reference.spread > SMALLEST_NORMAL / UNIT_ROUNDOFF**2
    )
    scaled = error[typical] / (UNIT_ROUNDOFF * reference.spread[typical])
    size = float(np.sqrt(np.mean(np.square(scaled)))) if scaled.size else 0.0
    return next((name for name, largest in PRECISIONS.items() if size <= largest), "other")


def _ulp_distance(left: np.ndarray, right: np.ndarray) -> int | None:
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return None
    return int(np.abs(_ordered(left) - _ordered(right)).max(initial=0))


def _ordered(array: np.ndarray) -> np.ndarray:
    """Float32 numbers as integers in the same order, neighbours one apart."""
    bits = np.ascontiguousarray(array, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _shapes(arrays: list[np.ndarray]) -> str:
    return " and ".join("×".join(map(str, array.shape)) for array in arrays)
