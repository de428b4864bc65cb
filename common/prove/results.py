"""The results of a proof: of a node, of a runtime, of a model; and the report for programs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from common.cluster.work import Machine
from common.graphs import Graph
from common.operations import Shape
from common.parity.results import INCOMPLETE, machines_of, worst
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL
from common.prove.judging import UNPROVED, Expected, NodeVerdict, judge_graph
from common.prove.runtimes import Recorded, Runtime
from common.prove.sensitivity import Sensitivity


@dataclass(frozen=True)
class RuntimeResult:
    """One runtime on one probe."""

    backend: str
    status: str
    """`ok`, `diverged`, `crashed` or `skipped`."""
    verdict: str
    reason: str | None = None
    seconds: float = 0.0
    timing: Mapping[str, float] = field(default_factory=dict)
    first_divergence: str | None = None
    source: str | None = None
    """The first divergence's name in the user's own code."""
    likely_cause: str | None = None
    note: str | None = None
    """A note for users who run the model in this way."""
    layers: Sequence[NodeVerdict] = ()
    machine: Machine | None = None
    """On which of a cluster it ran; None where it ran here."""

    @property
    def bound_ratio(self) -> float | None:
        ratios = [layer.bound_ratio for layer in self.layers if layer.verdict != UNPROVED]
        return max((ratio for ratio in ratios if ratio is not None), default=None) if None not in ratios else None

    @property
    def first(self) -> NodeVerdict | None:
        """The first node that differs."""
        return next((layer for layer in self.layers if layer.name == self.first_divergence), None)


@dataclass(frozen=True)
class Side:
    """The comparison of a network with the first one."""

    aligned: int
    """The number of nodes that compute and have a counterpart."""
    only_first: Sequence[Alone]
    only_second: Sequence[Alone]
    counterparts: Mapping[str, str]
    """For each node of the first, its counterpart in the second, with its name in the user's own code."""
    moved: Sequence[Mapping[str, Any]] | None = None
    """For each variable that got weights of the first: `to`, `source`, `change`, `shape`. None: the second has its own
    weights."""
    without_place: Sequence[str] = ()
    """Weights of the first that the second has no variable for."""
    within: Mapping[str, str] = field(default_factory=dict)
    """For each node of the first: how the second's node differs, while it stays within the bound on these numbers."""
    end_to_end: float | None = None
    """The largest difference of their outputs on the same input, divided by the largest output of the first. Nodes at
    the end that only one of them has are left out."""


@dataclass(frozen=True)
class Alone:
    """A node that only one of two networks has."""

    name: str
    kind: str
    source: str | None
    nearest: str | None
    """The most similar node of the other network, among those without a counterpart."""
    verdict: str
    """`diverged`: the networks differ by it. `certified`: they do not. Else `unproved`."""
    cause: str
    """Why."""
    returned: bool = False
    """Whether its result is returned, with no aligned node between."""

    def __str__(self) -> str:
        source = f" in {self.source}" if self.source else ""
        nearest = f", nearest {self.nearest}" if self.nearest else ""
        return f"{self.name} ({self.kind}){source}{nearest}: {self.verdict}, {self.cause}"


@dataclass(frozen=True)
class ProofRun:
    """One model on one probe in every runtime."""

    model: str
    probe: str
    backends: Sequence[RuntimeResult]
    nodes: int
    """The number of nodes of the specification."""
    exact: tuple[int, int] | None = None
    """On an exact probe: how many of the computed values are exact, and how many values there are."""
    missed: Sequence[str] = ()
    """On an exact probe: the nodes whose values can be exact, but round on its numbers. All others always round."""
    specification: str | None = None
    """The model by whose graph it is judged, if not its own."""
    pair: Side | None = None
    """The comparison, if that is another network."""
    sensitivity: Sensitivity | None = None
    """How much of the model an exact probe sees, if this was asked for."""
    graph: Graph | None = None
    """The specification, for the report's drawing."""
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    """The shapes of its values."""
    recorded: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict, repr=False)
    """For each runtime and value of the specification, the first image of the batch, for the report's pictures; empty
    if it was not kept."""
    device: str = "cpu"
    """Where it was asked to run."""

    @property
    def can_be_exact(self) -> int | None:
        """On an exact probe: how many of the computed values are exact on some numbers."""
        return self.exact[0] + len(self.missed) if self.exact else None

    @property
    def verdict(self) -> str:
        return worst([result.verdict for result in self.backends])

    @property
    def title(self) -> str:
        return f"{self.model}, judged by {self.specification}" if self.specification else self.model


@dataclass(frozen=True)
class Report:
    """The result of `triptych.prove`."""

    runs: Sequence[ProofRun]

    @property
    def verdict(self) -> str:
        """`identical`, `certified`, `diverged` or `incomplete`."""
        return worst([run.verdict for run in self.runs])

    @property
    def agrees(self) -> bool:
        return self.verdict in (IDENTICAL, CERTIFIED)

    def __str__(self) -> str:
        """The verdict, and a line for every problem: the node, the ratio, the cause."""
        lines = [f"{self.runs[0].model}: {self.verdict}"]
        for run in self.runs:
            for result in run.backends:
                where = f"{result.backend} on the {run.probe} probe"
                of = f"{where} ({run.title})" if run.specification else where
                lines += [f"  {of}: {sentence}" for sentence in explanations(result)]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return as_json(self.runs)


def explanations(result: RuntimeResult) -> Iterator[str]:
    """The problems of a runtime's row, in sentences."""
    if result.status == "crashed":
        yield f"it crashed: {result.reason}"
    elif result.first:
        yield told(result.first)
    unproved = [layer for layer in result.layers if layer.verdict == UNPROVED]
    for layer in unproved[:3]:
        yield f"{layer.name} ({layer.kind}) is unproved, since {layer.cause}"
    if len(unproved) > 3:
        yield f"{len(unproved) - 3} more nodes are unproved"
    if result.verdict == INCOMPLETE and not unproved and result.note:
        yield result.note


def differences(runs: Sequence[ProofRun]) -> Iterator[tuple[str, str, list[NodeVerdict], str]]:
    """The nodes of both networks that differ, by operation and cause, each once: kind, cause, nodes, probe."""
    sides = [run.pair for run in runs if run.pair]
    alone = {node.name for side in sides for node in side.only_first}
    alone |= {f"{node.name} of {runs[0].model}" for side in sides for node in side.only_second}
    found: dict[tuple[str, str], list[NodeVerdict]] = {}
    where: dict[tuple[str, str], str] = {}
    seen = alone
    for run in sorted(runs, key=lambda run: run.probe != "random"):
        for result in run.backends:
            for layer in result.layers:
                if layer.verdict == DIVERGED and layer.name not in seen:
                    seen.add(layer.name)
                    key = layer.kind, layer.cause or "no known mistake explains it"
                    found.setdefault(key, []).append(layer)
                    where.setdefault(key, run.probe)
    for (kind, cause), layers in found.items():
        yield kind, cause, layers, where[kind, cause]


def told(layer: NodeVerdict) -> str:
    """The first node that differs: its name, its place in the user's code, the size of the error, and the cause."""
    ratio = "" if layer.bound_ratio is None else f", {layer.bound_ratio:.3g} times its bound"
    source = f" in {layer.source}" if layer.source else ""
    cause = layer.cause or "no known mistake explains it"
    return f"{layer.name} ({layer.kind}){source} is the first node that differs{ratio}; {cause}"


def judged(
    runtime: Runtime,
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    found: Recorded,
    expected: Expected,
    *,
    causes: bool = True,
    widest: float = np.inf,
) -> RuntimeResult:
    """The row of a runtime, from its inputs and its values. `causes` and `widest` are as in `judge_graph`."""
    if found.skipped:
        return RuntimeResult(runtime.name, "skipped", "skipped", found.error)
    if found.error:
        return RuntimeResult(runtime.name, "crashed", INCOMPLETE, found.error)
    started = time.perf_counter()
    values = {**feeds, **found.values}
    with threadpool_limits(1, user_api="blas"):  # the products are small: threads would wait for each other
        options: dict[str, Any] = {"places": found.places, "fused": runtime.optimise, "causes": causes}
        layers = list(judge_graph(graph, values, expected, runtime.precision, widest=widest, **options))
    timing = {"run": found.seconds, "judge": time.perf_counter() - started}
    first = next((layer for layer in layers if layer.verdict == DIVERGED), None)
    kinds = {layer.verdict for layer in layers}
    # On an exact probe what can be exact is, or it has diverged; the rest is certified.
    verdict = CERTIFIED if CERTIFIED in kinds and not expected.values else IDENTICAL
    unseen = [name for name in graph.outputs if name in graph.makers() and name not in found.values]
    elsewhere = bool(found.places) and "gpu" not in found.places.values()
    if UNPROVED in kinds or unseen or elsewhere:
        verdict = INCOMPLETE
    if first:
        verdict = DIVERGED
    return RuntimeResult(
        runtime.name,
        "diverged" if first else "ok",
        verdict,
        seconds=found.seconds,
        timing=timing,
        first_divergence=first.name if first else None,
        source=first.source if first else None,
        likely_cause=first.cause if first else None,
        note="; ".join(_notes(found, unseen, layers)) or None,
        layers=layers,
    )


def _notes(found: Recorded, unseen: Sequence[str], layers: Sequence[NodeVerdict]) -> Iterator[str]:
    if found.note:
        yield found.note
    kinds = Counter(layer.kind for layer in layers if layer.place == "cpu")
    if kinds and "gpu" not in found.places.values():
        yield "nothing ran on the GPU"
    if kinds:
        yield f"ran on the CPU: {', '.join(f'{count} × {kind}' for kind, count in kinds.items())}"
    if unseen:
        yield f"what it returns was not seen: {', '.join(unseen)}"
    if not found.same:
        yield "called as a whole it gives other bits than operation by operation, which is how it was judged"


def as_json(runs: Sequence[ProofRun]) -> dict[str, Any]:
    """The report for programs, of the same shape as that of `triptych parity`."""
    from common.parity.outcome import environment_on

    return {
        "environment": environment_on(*{run.device for run in runs if any(not row.machine for row in run.backends)}),
        **machines_of(row for run in runs for row in run.backends),
        "verdict": worst([run.verdict for run in runs]),
        "runs": [
            {
                "architecture": run.model,
                "specification": run.specification,
                "probe": run.probe,
                "device": run.device,
                "precision": "fp32",
                "verdict": run.verdict,
                "published": None,
                "exact": run.exact,
                "can_be_exact": run.can_be_exact,
                "missed": list(run.missed),
                "pair": run.pair and asdict(run.pair),
                "sensitivity": run.sensitivity and asdict(run.sensitivity),
                "backends": [_row(result) for result in run.backends],
            }
            for run in runs
        ],
    }


def _row(result: RuntimeResult) -> dict[str, Any]:
    row = asdict(replace(result, machine=None)) | {"path": None, "machine": result.machine and result.machine.name}
    return row if result.machine else {name: value for name, value in row.items() if name != "machine"}
