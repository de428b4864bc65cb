"""One backend on one probe: run in its process, and judged."""

from __future__ import annotations

import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from common.errors import one_line
from common.operations.rounding import FP32_IN_WGSL, PRECISIONS
from common.parity.backends import Backend
from common.parity.causes import Traced
from common.parity.evidence import as_text
from common.parity.gradients import GradientProbe, by_layer, judge_gradients
from common.parity.judge import Between, judge, judge_structure
from common.parity.preparing import Preparation, PreparedProbe
from common.parity.processes import WorkerProcess
from common.parity.results import INCOMPLETE, BackendResult, Plan
from common.parity.returned import judge_deployed, judge_returned
from common.parity.verdicts import LayerVerdict, first_divergence, overall
from common.probes.end_to_end import EndToEndProbe
from common.process import ProcessFailure
from common.specs.architecture import Architecture
from common.specs.recording import Recording, Unnamed


class JudgingFailure(Exception):
    """The prover itself failed on what one backend recorded: nothing is known about that then."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"it ran, but judging it failed: {one_line(error)} (--json has the traceback)")
        self.traceback = "".join(traceback.format_exception(error))


@contextmanager
def _judging() -> Iterator[None]:
    """Whatever the prover itself fails of costs the row that it was about, and no other.

    Raises:
        JudgingFailure: it failed.
    """
    try:
        with np.errstate(all="ignore"):  # what overflows is judged, not warned of
            yield
    except Exception as error:
        raise JudgingFailure(error) from error


@dataclass(frozen=True)
class _Recorded:
    """What one backend did on one probe, and the verdicts on it."""

    verdicts: list[LayerVerdict] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Of the backend's process."""
    memory: int | None = None
    repeatable: bool | None = None
    note: str | None = None
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    evidence: dict[str, str] = field(default_factory=dict)


def skipped(backend: Backend, reason: str | None, plan: Plan) -> BackendResult:
    """The row of what did not run. It leaves the proof incomplete if it was named; no path is named."""
    of_path = backend.path is not None and reason == backend.path.lacking
    verdict = INCOMPLETE if plan.required and not of_path else "skipped"
    return BackendResult(backend.name, "skipped", verdict, reason, backend.path_name)


def _crashed(backend: Backend, failure: ProcessFailure | JudgingFailure, seconds: float) -> BackendResult:
    row = BackendResult(backend.name, "crashed", INCOMPLETE, str(failure), backend.path_name, seconds=seconds)
    return replace(row, traceback=failure.traceback)


Recorded = Mapping[str, Mapping[str, np.ndarray]]
"""By kind and name, as a worker answers; the arrays are views of files that are gone when nobody holds them."""

OnRecorded = Callable[[str, str, Recorded], None]
"""Is given the backend's name, the label of the run and what was recorded, before it is judged."""


class Examiner:
    """Has backends run the probes of a network, each in its turn, and judges what they record."""

    def __init__(
        self,
        spec: Architecture,
        plan: Plan,
        preparation: Preparation,
        seats: threading.Semaphore,
        on_recorded: OnRecorded | None = None,
    ) -> None:
        self.spec = spec
        self.plan = plan
        self.preparation = preparation
        self.on_recorded = on_recorded
        self.seats = seats
        """Held by whoever computes: a backend's process, or the judge."""

    def run(self, backend: Backend, worker: WorkerProcess, prepared: PreparedProbe) -> BackendResult:
        """Of exports that are the same file, but for where they come from, the first is run for all."""
        if not backend.through_onnx or backend.path or self.on_recorded or self.plan.hardware.device != "cpu":
            return self._run(backend, worker, prepared)
        with prepared.exporting:
            started = time.perf_counter()
            export = {"backend": backend.name, "weights": prepared.request["weights"]}
            try:
                _, building = self._ask(worker, self._build_request(backend))
                answer, exporting = self._ask(worker, {**export, "same_as": list(prepared.exports)})
            except ProcessFailure as failure:
                if worker.alive:  # what failed is told when it is run
                    return self._run(backend, worker, prepared)
                return _crashed(backend, failure, time.perf_counter() - started)
            first = prepared.exports.get(answer["same_as"])
            if first is None:
                row = self._run(backend, worker, prepared)
                if row.status == "ok":
                    prepared.exports[answer["export"]] = row
                spent = answer["timing"]
                timing = {kind: spent.get(kind, 0.0) + row.timing.get(kind, 0.0) for kind in {**spent, **row.timing}}
                return replace(row, timing=timing, seconds=building + exporting + row.seconds)
            same = f"its file is that of {first.backend}, but for the line that names the framework"
            return replace(
                first,
                backend=backend.name,
                timing={**answer["timing"], "run": 0.0, "judge": 0.0},
                memory=answer["memory"],
                note=f"{same}: it ran once for both",
                seconds=building + exporting,
            )

    def _build_request(self, backend: Backend) -> dict[str, Any]:
        sizes = {"num_classes": self.spec.num_classes, "image_size": self.spec.input_shape[1:]}
        return {"backend": backend.name, "build": self.spec.name, **sizes}

    def _run(self, backend: Backend, worker: WorkerProcess, prepared: PreparedProbe) -> BackendResult:
        started = time.perf_counter()
        found, trace = _Recorded(), None
        try:
            # Numbers that do not fit together stop a network from running at all; its shapes tell which layer it is.
            structure, seconds = self._ask(worker, self._build_request(backend))
            with _judging():
                verdicts = judge_structure(self.spec, structure["shapes"], structure["parameter_shapes"])
            try:
                traced = Traced(structure["order"], structure["reads"])
                found = self._record_and_judge(backend, worker, prepared, structure["unnamed"], traced)
                verdicts = found.verdicts if first_divergence(found.verdicts) else verdicts or found.verdicts
            except (ProcessFailure, JudgingFailure) as failure:
                if not verdicts:
                    raise
                first, trace = verdicts[0], failure.traceback
                if first.cause == f"{first.name} is missing":  # the model has it, but could not run it
                    verdicts[0] = replace(first, cause=f"{first.name} was not computed: {failure}")
        except (ProcessFailure, JudgingFailure) as failure:
            if isinstance(failure, ProcessFailure) and failure.answer.get("unavailable"):
                return skipped(backend, str(failure), self.plan)
            return _crashed(backend, failure, time.perf_counter() - started)
        divergence = first_divergence(verdicts)
        compared = prepared.compare_with_published(verdicts)
        return BackendResult(
            backend.name,
            "diverged" if divergence else "ok",
            overall(verdicts, prepared.probe),
            reason=f"{divergence.name} differs" if divergence else None,
            path=backend.path_name,
            evidence=as_text(found.evidence) or None,
            seconds=seconds + found.seconds,
            timing=found.timing,
            memory=found.memory,
            repeatable=found.repeatable,
            note=found.note,
            outputs=found.outputs,
            first_divergence=divergence.name if divergence else None,
            likely_cause=divergence.cause if divergence else None,
            layers=verdicts,
            traceback=trace,
            published=compared.same,
            unpublished=compared.difference,
        )

    def _ask(self, worker: WorkerProcess, request: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """The answer, and the seconds that it took, when it is this process's turn."""
        with self.seats:
            started = time.perf_counter()
            return worker.ask(request, self.plan.timeout), time.perf_counter() - started

    def _record_and_judge(
        self,
        backend: Backend,
        worker: WorkerProcess,
        prepared: PreparedProbe,
        unnamed: Unnamed,
        traced: Traced,
    ) -> _Recorded:
        with tempfile.TemporaryDirectory(prefix=f"{backend.name}-", dir=self.preparation.folder) as output:
            answer, seconds = self._ask(worker, {"backend": backend.name, **prepared.request, "output": output})
            recorded = {
                kind: {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
                for kind, paths in answer["recorded"].items()
            }
            if self.on_recorded:
                self.on_recorded(backend.name, prepared.label, recorded)
            with prepared.judging, self.seats:
                started = time.perf_counter()
                places, judged = answer["places"], self._judge(prepared, recorded, unnamed, traced)
                verdicts = [replace(verdict, place=places.get(verdict.name)) for verdict in judged]
                judging = time.perf_counter() - started
            outputs = {name: np.array(array) for name, array in recorded.get("returned", {}).items()}
        return _Recorded(
            verdicts,
            {**answer["timing"], "judge": judging},
            seconds,
            answer["memory"],
            answer["repeatable"],
            answer["note"],
            outputs,
            answer["evidence"],
        )

    def _judge(
        self,
        prepared: PreparedProbe,
        recorded: Recorded,
        unnamed: Unnamed,
        traced: Traced,
    ) -> list[LayerVerdict]:
        probe = prepared.probe
        with _judging():
            if isinstance(probe, GradientProbe):
                return by_layer(judge_gradients(self.spec, probe, recorded))
            if isinstance(probe, EndToEndProbe):
                return judge_deployed(self.spec, probe, recorded["returned"], recorded.get("alone", {}), unnamed)
            hardware = self.plan.hardware
            precision = FP32_IN_WGSL if hardware.device == "webgpu" else PRECISIONS[hardware.precision]
            layers, returned, alone, given = (recorded[kind] for kind in ("outputs", "returned", "alone", "given"))
            between = Between(unnamed, given)
            found = judge(self.spec, probe, layers, prepared.earlier, precision, between, traced)
            return found + judge_returned(self.spec, probe, Recording(layers, returned, alone), unnamed)
