"""The proof of an ONNX file: given integers and given random numbers, in every runtime, each node judged."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, read_graph
from common.parity.judge import CERTIFIED, DIVERGED, IDENTICAL
from common.parity.results import INCOMPLETE, worst
from common.prove.exact import exact_probe
from common.prove.judging import UNPROVED, Expected, NodeVerdict, judge_graph
from common.prove.models import ModelName
from common.prove.runtimes import ONNX_RUNTIMES, Process, Recorded, Runtime, record
from common.prove.torch_run import OFFICIAL, SPECIFICATION
from common.weights import seeded_generator

PROBES = ("exact", "random")


@dataclass(frozen=True)
class RuntimeResult:
    """One runtime on one probe."""

    backend: str
    status: str
    """`ok`, `diverged` or `crashed`."""
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

    @property
    def verdict(self) -> str:
        return worst([result.verdict for result in self.backends])


@dataclass(frozen=True)
class Request:
    """On what a model is to be proved."""

    probes: Sequence[str] = PROBES
    shape: Sequence[int] | None = None
    """Of the input of a PyTorch model, the batch's axis first."""
    seed: int = 0
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the user gives some of the model's inputs on the random probe."""


Advance = Callable[[str], None]


def prove(name: ModelName, request: Request = Request(), advance: Advance = lambda done: None) -> list[ProofRun]:
    """Prove a model in every runtime: a run for each probe, with a row for each runtime.

    The specification is an ONNX file's own graph, or the one that a PyTorch model is exported to, unfolded.

    Raises:
        TriptychError: there is no such model, or it takes what only the user knows.
    """
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        if name.is_onnx:
            return _Proof(name, Path(name.home), request, folder, advance).runs()
        with Process("common.prove.torch_run", {"KERAS_BACKEND": "torch"}) as process:
            asked = {"export": name.text, "shape": request.shape, "folder": place, "seed": request.seed}
            answer = process.ask(asked)
            if "error" in answer:
                raise TriptychError(f"{name.text} cannot be exported: {answer['error']}")
            return _Proof(name, folder / SPECIFICATION, request, folder, advance, process).runs()


class _Proof:
    """One model, what it is given, and who runs it."""

    def __init__(
        self,
        name: ModelName,
        path: Path,
        request: Request,
        folder: Path,
        advance: Advance,
        process: Process | None = None,
    ) -> None:
        self.name, self.path, self.request, self.folder = name, path, request, folder
        self.advance, self.process = advance, process
        self.graph = read_graph(path)
        self.feeds = {
            value: request.inputs.get(value, seeded_generator(request.seed, value).standard_normal(shape, np.float32))
            for value, shape in self.graph.inputs.items()
        }

    def runs(self) -> list[ProofRun]:
        first = record(ONNX_RUNTIMES[0], self.path, self.feeds, self.folder)
        if first.error:
            raise TriptychError(f"ONNX Runtime cannot run {self.name.text}: {first.error}")
        made = {"exact": self._exact, "random": self._random}
        return [made[probe](first) for probe in self.request.probes]

    def _random(self, first: Recorded) -> ProofRun:
        results = []
        for compiled in (False, True) if self.process else ():
            runtime = Runtime("torch-compile" if compiled else "torch", optimise=compiled)
            assert self.process
            found = self.process.record({"compile": compiled}, self.feeds, self.folder)
            results.append(_judged(runtime, self.graph, self.feeds, found, Expected()))
            self.advance(f"random in {runtime.name}")
        for runtime in ONNX_RUNTIMES:
            again = runtime != ONNX_RUNTIMES[0]
            found = record(runtime, self.path, self.feeds, self.folder) if again else first
            results.append(_judged(runtime, self.graph, self.feeds, found, Expected()))
            self.advance(f"random in {runtime.name}")
        if self.process:
            runtime = Runtime("export", optimise=True)
            found = record(runtime, self.folder / OFFICIAL, self._renamed_feeds(), self.folder)
            results.append(_judged(runtime, self.graph, self.feeds, found, Expected()))
            self.advance("random in its export")
        return ProofRun(self.name.text, "random", results, len(self.graph.nodes))

    def _renamed_feeds(self) -> dict[str, np.ndarray]:
        """The feeds under the names of the official export, in the same order."""
        names = read_graph(self.folder / OFFICIAL).inputs
        return dict(zip(names, self.feeds.values(), strict=True))

    def _exact(self, first: Recorded) -> ProofRun:
        import onnx

        probe = exact_probe(str(self.path), self.graph, first.values, seed=self.request.seed)
        file = self.folder / "exact.onnx"
        large = probe.model.ByteSize() > 1 << 30
        onnx.save(probe.model, file, save_as_external_data=large, location="exact.data")
        results = []
        for runtime in ONNX_RUNTIMES:
            found = record(runtime, file, probe.feeds, self.folder)
            results.append(_judged(runtime, probe.graph, probe.feeds, found, probe.expected))
            self.advance(f"exact in {runtime.name}")
        computed = len(probe.expected.values) + len(probe.bounded)
        return ProofRun(self.name.text, "exact", results, len(self.graph.nodes), (len(probe.expected.values), computed))


def _judged(
    runtime: Runtime, graph: Graph, feeds: Mapping[str, np.ndarray], found: Recorded, expected: Expected
) -> RuntimeResult:
    if found.error:
        return RuntimeResult(runtime.name, "crashed", INCOMPLETE, found.error)
    started = time.perf_counter()
    layers = list(judge_graph(graph, {**feeds, **found.values}, expected, fused=runtime.optimise))
    timing = {"run": found.seconds, "judge": time.perf_counter() - started}
    first = next((layer for layer in layers if layer.verdict == DIVERGED), None)
    kinds = {layer.verdict for layer in layers}
    # On an exact probe what can be exact is, or it has diverged; the rest is certified.
    verdict = CERTIFIED if CERTIFIED in kinds and not expected.values else IDENTICAL
    if UNPROVED in kinds:
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
        layers=layers,
    )


def as_json(runs: Sequence[ProofRun]) -> dict[str, Any]:
    """The report for programs, of the same shape as that of `triptych parity`."""
    from common.parity.environment import describe

    return {
        "environment": describe(),
        "verdict": worst([run.verdict for run in runs]),
        "runs": [
            {
                "architecture": run.model,
                "probe": run.probe,
                "device": "cpu",
                "precision": "fp32",
                "verdict": run.verdict,
                "published": None,
                "exact": run.exact,
                "backends": [asdict(result) | {"path": None} for result in run.backends],
            }
            for run in runs
        ],
    }
