"""The results of a proof: of a node, of a runtime, of a model; and the report for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from common.graphs import Graph
from common.operations import Shape
from common.parity.results import INCOMPLETE, worst
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
    """Of the first divergence, in the user's own code."""
    likely_cause: str | None = None
    note: str | None = None
    """What whoever runs this model in this way should know."""
    layers: Sequence[NodeVerdict] = ()

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
    """A network laid beside another, the first."""

    aligned: int
    """How many nodes that compute have a counterpart."""
    only_first: Sequence[Alone]
    only_second: Sequence[Alone]
    counterparts: Mapping[str, str]
    """By the first's node, the second's, with its name in the user's own code."""
    moved: Sequence[Mapping[str, Any]] | None = None
    """Of each variable that was given the first's weights: `to`, `source`, `change`, `shape`; None: it has its own."""
    without_place: Sequence[str] = ()
    """The first's weights that the second has no variable for."""
    within: Mapping[str, str] = field(default_factory=dict)
    """By the first's node, what the second's does otherwise without that the bound is exceeded on these numbers."""
    end_to_end: float | None = None
    """How far apart what both return is, divided by the largest value that the first returns: given the same, each with
    its own values all the way. What one of them alone does at its end is left out."""


@dataclass(frozen=True)
class Alone:
    """A node that only one of two networks has."""

    name: str
    kind: str
    source: str | None
    nearest: str | None
    """The node of the other network that is most like it, among those without a counterpart."""
    verdict: str
    """`diverged`: the networks differ by it; `certified`: they do not, both come to the same; else `unproved`."""
    cause: str
    """Why."""
    returned: bool = False
    """Whether what comes of it is returned, without that an aligned node is between."""

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
    """How many the specification has."""
    exact: tuple[int, int] | None = None
    """On an exact probe, how many of how many computed values are exact."""
    specification: str | None = None
    """The model whose graph it is judged by, where it is not its own."""
    pair: Side | None = None
    """Where that is another network: how the two were laid side by side."""
    sensitivity: Sensitivity | None = None
    """Where it was asked for, how much of the model an exact probe sees."""
    graph: Graph | None = None
    """The specification, for the report's drawing."""
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    """Of its values."""
    recorded: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict, repr=False)
    """By runtime and the specification's value, the first of the batch, for the report's pictures; if it was kept."""

    @property
    def verdict(self) -> str:
        return worst([result.verdict for result in self.backends])

    @property
    def title(self) -> str:
        return f"{self.model}, judged by {self.specification}" if self.specification else self.model


@dataclass(frozen=True)
class Report:
    """What `triptych.prove` returns."""

    runs: Sequence[ProofRun]

    @property
    def verdict(self) -> str:
        """`identical`, `certified`, `diverged` or `incomplete`."""
        return worst([run.verdict for run in self.runs])

    @property
    def agrees(self) -> bool:
        return self.verdict in (IDENTICAL, CERTIFIED)

    def __str__(self) -> str:
        """The verdict, and a line for whatever is not well: the node, the ratio, the cause."""
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
    """What is wrong with a runtime's row, in sentences."""
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


def told(layer: NodeVerdict) -> str:
    """The first node that differs: its name, where it is in the user's code, by how much, why."""
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
) -> RuntimeResult:
    """The row of a runtime, from what it was fed and what it computed; `causes` as in `judge_graph`."""
    if found.skipped:
        return RuntimeResult(runtime.name, "skipped", "skipped", found.error)
    if found.error:
        return RuntimeResult(runtime.name, "crashed", INCOMPLETE, found.error)
    started = time.perf_counter()
    layers = list(judge_graph(graph, {**feeds, **found.values}, expected, fused=runtime.optimise, causes=causes))
    timing = {"run": found.seconds, "judge": time.perf_counter() - started}
    first = next((layer for layer in layers if layer.verdict == DIVERGED), None)
    kinds = {layer.verdict for layer in layers}
    # On an exact probe what can be exact is, or it has diverged; the rest is certified.
    verdict = CERTIFIED if CERTIFIED in kinds and not expected.values else IDENTICAL
    unseen = [name for name in graph.outputs if name in graph.makers() and name not in found.values]
    if UNPROVED in kinds or unseen:
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
        note="; ".join(_notes(found, unseen)) or None,
        layers=layers,
    )


def _notes(found: Recorded, unseen: Sequence[str]) -> Iterator[str]:
    if unseen:
        yield f"what it returns was not seen: {', '.join(unseen)}"
    if not found.same:
        yield "called as a whole it gives other bits than operation by operation, which is how it was judged"


def as_json(runs: Sequence[ProofRun]) -> dict[str, Any]:
    """The report for programs, of the same shape as that of `triptych parity`."""
    from common.parity.environment import describe

    return {
        "environment": describe(),
        "verdict": worst([run.verdict for run in runs]),
        "runs": [
            {
                "architecture": run.model,
                "specification": run.specification,
                "probe": run.probe,
                "device": "cpu",
                "precision": "fp32",
                "verdict": run.verdict,
                "published": None,
                "exact": run.exact,
                "pair": run.pair and asdict(run.pair),
                "sensitivity": run.sensitivity and asdict(run.sensitivity),
                "backends": [asdict(result) | {"path": None} for result in run.backends],
            }
            for run in runs
        ],
    }
