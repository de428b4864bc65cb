"""Judging what a backend recorded, layer by layer, against the oracle.

Each layer is evaluated in float64 on the backend's *own* recorded input of that layer, so that an error is found in the
layer that makes it and not in those after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import TriptychError
from common.operations import Conv, Dense, Dropout, Operation, Shape, shapes_of
from common.operations.evaluation import check_shapes, evaluate_in_pieces, evaluated_shape, is_correctly_rounded
from common.operations.names import layer_of, parameters_of
from common.operations.rounding import FP32, Precision
from common.parity.causes import UNTRACED, Finding, Traced, alternatives, find_cause, observe
from common.parity.later_images import sums_are_right
from common.parity.measures import LARGEST_ERRORS, Measure, measure_in_pieces, same_bits, verdict_from
from common.parity.nearby import Earlier
from common.parity.shapes import explain_shape
from common.parity.verdicts import DIVERGED, IDENTICAL, LayerVerdict, divergence
from common.probes import Probe
from common.specs.architecture import IMAGE, Architecture, Layer
from common.specs.recording import Unnamed


@dataclass(frozen=True)
class Between:
    """What stands between the layers of a backend's model, and what those after it were given; see `Recording`."""

    unnamed: Unnamed = field(default_factory=dict)
    given: Mapping[str, np.ndarray] = field(default_factory=dict)


def judge(
    spec: Architecture,
    probe: Probe,
    recorded: Mapping[str, np.ndarray],
    earlier: Earlier | None = None,
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
        earlier: of other backends on the same probe; a layer for which one had the very same input and output is not
            judged again.
        precision: what the backend was asked for; the bounds are those of this precision.
        between: what stands between the layers of its model.
        traced: what the structure of its model says, which causes are held against.
    """
    return list(judge_in_order(spec, probe, recorded, earlier, precision, between, traced))


def judge_in_order(
    spec: Architecture,
    probe: Probe,
    recorded: Mapping[str, np.ndarray],
    earlier: Earlier | None = None,
    precision: Precision = FP32,
    between: Between = Between(),
    traced: Traced = UNTRACED,
) -> Iterator[LayerVerdict]:
    """As `judge`, each layer when it is asked for: whoever wants the first divergence need not wait for the rest."""
    known = {} if earlier is None else earlier.verdicts
    values: dict[str, np.ndarray] = {IMAGE: probe.image}
    digests = {IMAGE: _digest(probe.image)}
    fit = {name: array for name, array in recorded.items() if not _unfit(name, array, len(probe.image))}
    diverged = False
    for layer in spec.layers:
        inputs = [values[name] for name in layer.inputs if name in values]
        output = recorded.get(layer.name)
        injected = layer.name in probe.injected
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
        read = tuple(digests.get(name, b"") for name in layer.inputs)
        verdict: LayerVerdict | None = None
        if layer.name in probe.expected and same_bits(output, probe.expected[layer.name]):
            verdict, made = LayerVerdict(layer.name, IDENTICAL, ulp_histogram=(output.size,)), _EXPECTED
        elif layer.operation.contracts or layer.operation.ufunc:  # sooner judged than hashed
            verdict = _judge_layer(layer, probe, inputs, output, precision, earlier)
            made = _digest_of_result(layer.name, read) if verdict.verdict == IDENTICAL else _digest(output)
        else:
            made = _digest(output)
        values[layer.name] = probe.injected.get(layer.name, output)
        digests[layer.name] = _INJECTED if injected else made
        key = (layer.name, (*read, made))
        if key not in known:
            verdict = verdict or _judge_layer(layer, probe, inputs, output, precision, earlier)
            if verdict.verdict == DIVERGED and not diverged:
                diverged = True
                if verdict.overflows:  # a bound that large would certify anything
                    yield verdict
                    continue
                finding = find_cause(observe(spec, layer, probe, inputs, output, fit, traced))
                given = between.given.get(layer.name)
                if given is not None and _right_on(layer, probe, given, output, precision):
                    cause = stands_between(layer.inputs[0], "it", between.unnamed[layer.name])
                    finding = replace(finding, seen=f"{cause}, and the layer is right on its result")
                yield _explained(verdict, finding)
                continue
            known[key] = verdict
        found = known[key]
        other_shape = _mismatch(layer.name, output.shape[1:], spec.shapes[layer.name])
        if other_shape and found.verdict != DIVERGED:  # it follows from an input that has another shape too
            found = divergence(layer.name, other_shape)
        diverged = diverged or found.verdict == DIVERGED
        yield found


def stands_between(before: str, after: str, operations: Sequence[str]) -> str:
    """For a message: that something is in the model which the specification does not have."""
    verb = "stand" if len(operations) > 1 else "stands"
    return f"{' and '.join(operations)} {verb} between {before} and {after}"


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


_EXPECTED, _INJECTED = b"expected", b"injected"
"""In place of a digest, which takes longer than to compare: the only right bits, and what a probe puts there."""


def _digest_of_result(name: str, read: tuple[bytes, ...]) -> bytes:
    """The digest of a layer's only right output, which follows from what the layer reads."""
    return hashlib.sha256(b"".join([name.encode(), *read])).digest()


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
        parameters = parameters_of(layer.name, spec.parameter_shapes)
        expected = {f"{layer.name}/{kind}": shape for kind, shape in parameters.items()}
        found = [_mismatch(layer.name, shapes.get(layer.name), spec.shapes[layer.name])]
        found += [_mismatch(name, parameter_shapes.get(name), shape) for name, shape in expected.items()]
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


def _judge_layer(
    layer: Layer,
    probe: Probe,
    inputs: list[np.ndarray],
    output: np.ndarray,
    precision: Precision,
    earlier: Earlier | None = None,
) -> LayerVerdict:
    if len(inputs) < len(layer.inputs):
        return divergence(layer.name, None)
    # On an exact probe, a layer that was given the expected input must give the expected bits.
    given_expected = layer.name in probe.expected and all(
        same_bits(array, probe.injected.get(name, probe.expected.get(name, probe.image)))
        for name, array in zip(layer.inputs, inputs, strict=True)
    )
    parameters = parameters_of(layer.name, probe.weights)
    # Large maps are taken image by image: arrays that stay small are not given back to the system, and fetched again.
    # The convolutions of real probes too; of these, images after the first are judged by sums over their filters.
    operation = layer.operation
    real = not probe.expected and precision == FP32
    quick = isinstance(operation, Conv) and real
    together = not quick and (output.ndim < 4 or output.size < _LARGE)
    together = together or len({len(array) for array in (*inputs, output)}) > 1
    parts = [slice(None)] if together else [slice(image, image + 1) for image in range(len(output))]
    measures = []
    try:
        check_shapes(operation, inputs, parameters)
        if is_correctly_rounded(operation, inputs, output):
            return LayerVerdict(layer.name, IDENTICAL, ulp_histogram=(output.size,))
        for part in parts:
            given = [array[part] for array in inputs]
            if quick and part.start and _sums_are_right(operation, given[0], parameters, output[part]):
                measures.append(Measure(output[part].size, same=False))
                continue
            if earlier is not None and real and not part.start and isinstance(operation, (Conv, Dense)):
                pieces = earlier.pieces(layer.name, operation, given[0], parameters)
            else:
                pieces = evaluate_in_pieces(operation, given, parameters, precision)
            found = measure_in_pieces(output[part], pieces, must_be_exact=given_expected)
            if found is None:
                right = "×".join(map(str, evaluated_shape(operation, given, parameters)))
                return divergence(layer.name, f"{layer.name} has shape {shapes_of([output[part]])}, expected {right}")
            measures.append(found)
    except TriptychError:  # the input has a shape that this layer cannot take
        return divergence(layer.name, f"{layer.name} cannot be computed from its inputs, {shapes_of(inputs)}")
    return verdict_from(layer.name, measures, precision)


def _sums_are_right(
    operation: Operation, x: np.ndarray, parameters: Mapping[str, np.ndarray], output: np.ndarray
) -> bool:
    return isinstance(operation, Conv) and sums_are_right(operation, x, parameters, output, LARGEST_ERRORS["fp32"])


_LARGE = 1 << 20
"""Elements of a batch of maps from which on images are judged one by one."""
