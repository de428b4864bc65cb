"""The proof of an ONNX file: given integers and given random numbers, in every runtime, each node judged."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, read_graph
from common.graphs.onnx_reader import read_model, state_shape
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
    """Of the model's only input, the batch's axis first, where it does not say so itself."""
    seed: int = 0
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the user gives some of the model's inputs on the random probe."""


def results_of(name: ModelName, request: Request) -> int:
    """How many rows on how many probes there will be."""
    rows = {"exact": len(ONNX_RUNTIMES), "random": len(ONNX_RUNTIMES) + (0 if name.is_onnx else 3)}
    return sum(rows[probe] for probe in request.probes)


Advance = Callable[[str], None]


def prove(name: ModelName, request: Request = Request(), advance: Advance = lambda done: None) -> list[ProofRun]:
    """Prove a model in every runtime: a run for each probe, with a row for each runtime.

    The specification is an ONNX file's own graph, or the one that a PyTorch model is exported to, unfolded.

    Raises:
        TriptychError: there is no such model, or it takes what only the user knows.
    """
    require_packages(*(() if name.is_onnx else ("torch", "onnxscript")), "onnx", "onnxruntime")
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
        self.model = read_model(path)
        if request.shape and process is None:
            state_shape(self.model, request.shape, path)
        self.graph = read_graph(path, self.model)
        self.feeds: dict[str, np.ndarray] = {
            value: seeded_generator(request.seed, value).standard_normal(shape, np.float32)
            for value, shape in self.graph.inputs.items()
        }
        self.feeds.update(_fitting(request.inputs, self.graph))

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
            results.append(judged(runtime, self.graph, self.feeds, found, Expected()))
            self.advance(f"random in {runtime.name}")
        for runtime in ONNX_RUNTIMES:
            again = runtime != ONNX_RUNTIMES[0]
            found = record(runtime, self.path, self.feeds, self.folder) if again else first
            results.append(judged(runtime, self.graph, self.feeds, found, Expected()))
            self.advance(f"random in {runtime.name}")
        if self.process:
            runtime = Runtime("export", optimise=True)
            results.append(judged(runtime, self.graph, self.feeds, self._of_export(runtime), Expected()))
            self.advance("random in its export")
        return ProofRun(self.name.text, "random", results, len(self.graph.nodes))

    def _of_export(self, runtime: Runtime) -> Recorded:
        """What the official export gives, whose inputs and outputs may have other names, in the same order."""
        export = read_graph(self.folder / OFFICIAL)
        feeds = dict(zip(export.inputs, self.feeds.values(), strict=True))
        found = record(runtime, self.folder / OFFICIAL, feeds, self.folder)
        if not found.error:
            found.values |= {
                ours: found.values[theirs] for ours, theirs in zip(self.graph.outputs, export.outputs, strict=True)
            }
        return found

    def _exact(self, first: Recorded) -> ProofRun:
        import onnx

        probe = exact_probe(self.model, self.graph, first.values, seed=self.request.seed)
        file = self.folder / "exact.onnx"
        large = probe.model.ByteSize() > 1 << 30
        onnx.save(probe.model, file, save_as_external_data=large, location="exact.data")
        results = []
        for runtime in ONNX_RUNTIMES:
            found = record(runtime, file, probe.feeds, self.folder)
            results.append(judged(runtime, probe.graph, probe.feeds, found, probe.expected))
            self.advance(f"exact in {runtime.name}")
        computed = len(probe.expected.values) + len(probe.bounded)
        return ProofRun(self.name.text, "exact", results, len(self.graph.nodes), (len(probe.expected.values), computed))


def judged(
    runtime: Runtime, graph: Graph, feeds: Mapping[str, np.ndarray], found: Recorded, expected: Expected
) -> RuntimeResult:
    """The row of a runtime, from what it was fed and what it computed."""
    if found.error:
        return RuntimeResult(runtime.name, "crashed", INCOMPLETE, found.error)
    started = time.perf_counter()
    layers = list(judge_graph(graph, {**feeds, **found.values}, expected, fused=runtime.optimise))
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


def _fitting(given: Mapping[str, np.ndarray], graph: Graph) -> Mapping[str, np.ndarray]:
    """What the user gives, if the model takes it.

    Raises:
        TriptychError: it has no such input, or one of another shape.
    """
    for name, array in given.items():
        if name not in graph.inputs:
            raise TriptychError(f"{graph.name} has no input {name!r}; it takes {', '.join(graph.inputs)}")
        if array.shape != graph.inputs[name]:
            found, wanted = ("×".join(map(str, shape)) for shape in (array.shape, graph.inputs[name]))
            raise TriptychError(f"--input {name} is {found}, but {graph.name} takes {wanted}")
    return given


def require_packages(*names: str) -> None:
    """See that they are installed.

    Raises:
        TriptychError: one is not.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        installed = "pip install -c constraints.txt -e '.[prove]'"
        raise TriptychError(f"a proof needs {' and '.join(missing)}, not installed here; {installed}")


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
