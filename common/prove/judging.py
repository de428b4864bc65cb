"""Judges what a runtime recorded, node by node. Each node is judged on the inputs that the runtime had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, Node
from common.operations import shapes_of
from common.operations.evaluation import evaluate_in_pieces, is_correctly_rounded
from common.operations.onnx_node import Unread
from common.operations.operation import Observation
from common.operations.rounding import FP32, Precision
from common.parity.causes import find_cause
from common.parity.measures import Measure, measure, measure_in_pieces, same_bits, verdict_from
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL, LayerVerdict
from common.prove.regions import Known, Unknown, accumulated, reassociated, unrounded

UNPROVED = "unproved"


@dataclass(frozen=True)
class NodeVerdict(LayerVerdict):
    """What is known about one node: its layer's verdict, or `unproved`, for which `cause` says what is missing."""

    kind: str = ""
    """What the graph calls the operation."""
    source: str | None = None
    """Its name in the user's own code."""
    exact: bool = False
    """Whether its bits are required: nothing is rounded in it."""


@dataclass(frozen=True)
class Expected:
    """What an exact probe requires."""

    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The only right bits of each value that is computed exactly."""
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What its node reads then, by name, where that was not recorded."""


def judge_graph(
    graph: Graph,
    values: Mapping[str, np.ndarray],
    expected: Expected = Expected(),
    precision: Precision = FP32,
    *,
    places: Mapping[str, str] | None = None,
    fused: bool = False,
    causes: bool = True,
    widest: float = np.inf,
) -> Iterator[NodeVerdict]:
    """Judge every node that a runtime has recorded; the cause of the first divergence is looked for.

    Args:
        graph: the specification.
        values: by name, what the runtime was given and what it computed.
        expected: of an exact probe.
        precision: what the runtime was asked for.
        places: where values were computed, `cpu` or `gpu`, if that is known. Those of the CPU keep its bounds.
        fused: whether the runtime may have computed a value for a node in another way than for whoever wanted to see
            it, without rounding it between: see `regions.unrounded`.
        causes: whether that of the first divergence is looked for.
        widest: how many times the largest number of a value its bound may be, where it is carried over values that were
            not recorded; if it is wider, the node is unproved.
    """
    places = places or {}
    on_cpu = [name for name, place in places.items() if place == "cpu"]
    known = Known(graph, {**graph.constants, **values}, precision, on_cpu)
    diverged = False
    for node in graph.nodes:
        if node.output not in known.recorded:
            continue
        verdict = replace(_judge_node(node, known, expected, fused), place=places.get(node.output))
        if verdict.verdict == CERTIFIED and np.isfinite(widest):
            verdict = _unless_too_wide(verdict, node, known, widest)
        if verdict.verdict == DIVERGED and causes and not diverged:
            diverged = True
            verdict = with_cause(graph, node, known, verdict)
        yield verdict


def _judge_node(node: Node, known: Known, expected: Expected, fused: bool) -> NodeVerdict:
    precision = known.precision_of(node)

    def verdict(found: LayerVerdict, exact: bool = False) -> NodeVerdict:
        return NodeVerdict(**vars(found), kind=node.kind, source=node.source, exact=exact)

    def told(kind: str, cause: str) -> NodeVerdict:
        return verdict(LayerVerdict(node.name, kind, None, "other", None, cause=cause))

    output = known.recorded[node.output]
    exact = expected.values.get(node.output)
    if exact is not None and same_bits(output, exact):
        return verdict(LayerVerdict(node.name, IDENTICAL, ulp_histogram=(output.size,)), exact=True)
    given_expected = exact is not None and all(
        name in known.recorded and np.array_equal(known.recorded[name], expected.given.get(name, known.recorded[name]))
        for name in node.reads
    )
    try:
        measured = _measured(node, known, output, given_expected)
        if measured is None:
            shapes = shapes_of([output]), shapes_of([known.reference(node).value])
            return told(DIVERGED, "{} has shape {}, expected {}".format(node.output, *shapes))
    except (Unknown, Unread) as reason:
        return told(UNPROVED, str(reason))
    except (TriptychError, ValueError, IndexError) as error:
        return told(DIVERGED, f"it cannot follow from what it reads: {error}")
    if output.dtype != np.float32:
        same = verdict(LayerVerdict(node.name, IDENTICAL))
        return same if measured.same else told(DIVERGED, "other integers, or truths")
    found = verdict_from(node.name, [measured], precision)
    if fused and found.verdict == DIVERGED and not given_expected:
        assert node.operation is not None
        ways = (unrounded(node, known, known.reference(node)), reassociated(node, known), accumulated(node, known))
        for otherwise in ways:
            if otherwise and found.verdict == DIVERGED:
                found = verdict_from(node.name, [measure(output, otherwise)], precision)
    return verdict(found, exact=given_expected or measured.chosen)


def _unless_too_wide(verdict: NodeVerdict, node: Node, known: Known, widest: float) -> NodeVerdict:
    """A certificate, unless its bound is so wide that it says nothing."""
    bound = None if known.recorded.keys() >= set(node.reads) else known.reference(node).bound
    if bound is None:
        return verdict
    size, width = (float(np.abs(array).max(initial=0)) for array in (known.recorded[node.output], bound))
    told = f"the bound carried to it is {width:.3g}"
    if width <= widest * size:
        return replace(verdict, cause=f"{told}, its largest number {size:.3g}")
    told += f", wider than {widest:g} of its largest number, {size:.3g}"
    return replace(verdict, verdict=UNPROVED, precision="other", cause=told)


def _measured(node: Node, known: Known, output: np.ndarray, must_be_exact: bool) -> Measure | None:
    """How far what was recorded of a node is from what it should be; None if it does not have its shape.

    Raises:
        Unknown: nobody can say what it should be.
        TriptychError, ValueError, IndexError: it cannot be made of what the node reads.
    """
    if output.dtype == np.float32 and node.operation is not None and known.recorded.keys() >= set(node.reads):
        operation, given = known.given(node)
        inputs = [value for value, _ in given]
        if is_correctly_rounded(operation, inputs, output):
            return Measure(output.size, histogram=(output.size,))
        parameters = {kind: known.recorded[name] for kind, name in node.parameters.items()}
        pieces = evaluate_in_pieces(operation, inputs, parameters, known.precision_of(node))
        return measure_in_pieces(output, pieces, must_be_exact=must_be_exact)
    reference = known.reference(node)
    if output.shape != reference.value.shape:
        return None
    if output.dtype != np.float32:
        return Measure(output.size, np.array_equal(output, reference.value))
    return measure(output, reference, must_be_exact=must_be_exact)


def with_cause(graph: Graph, node: Node, known: Known, verdict: NodeVerdict) -> NodeVerdict:
    """A divergence with the mistakes that explain it."""
    output = known.recorded[node.output]
    if node.operation is None or output.dtype != np.float32 or output.ndim < 2:
        return verdict
    found = {name: known.certain(name) for name in node.reads}
    read = {name: value for name, value in found.items() if value is not None}
    if len(read) < len(found):
        return verdict
    operation, given = known.given(node)
    inputs = [value for value, _ in given]
    earlier: dict[str, np.ndarray] = {}
    for other in graph.nodes:
        if other is node:
            break
        array = known.recorded.get(other.output)
        if array is not None and array.dtype == np.float32 and any(array.shape == x.shape for x in inputs):
            earlier[other.output] = array
    seen = Observation(
        node.name,
        operation,
        inputs,
        output,
        {kind: read[name] for kind, name in node.parameters.items()},
        batch=inputs,
        input_names=node.inputs,
        elsewhere=earlier,
        whole=True,
    )
    try:
        finding = find_cause(seen)
    except (TriptychError, ValueError, IndexError) as error:
        return replace(verdict, untried=(str(error),))
    causes = "; ".join(filter(None, (finding.told, verdict.cause))) or None
    return replace(
        verdict, cause=causes, explanations=finding.causes, excluded=finding.excluded, untried=finding.untried
    )
