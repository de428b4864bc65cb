"""Running a network in many backends, each in a process of its own, and judging what comes back."""

from __future__ import annotations

import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random  # not when the first number is drawn: a Ctrl-C at that moment would be lost in Cython
from threadpoolctl import threadpool_limits

from common.end_to_end import EndToEndProbe
from common.errors import TriptychError, one_line
from common.files import os_error_sentence
from common.operations.rounding import FP32, FP32_IN_WGSL, PRECISIONS
from common.parity.agreement import cross_checked
from common.parity.backends import Backend
from common.parity.causes import Traced
from common.parity.comparison import compare_all
from common.parity.evidence import as_text
from common.parity.gradients import GradientProbe, by_layer, gradient_probes, judge_gradients
from common.parity.journal import Entry, Journal
from common.parity.judge import (
    IDENTICAL,
    Between,
    LayerVerdict,
    Memory,
    first_divergence,
    judge,
    judge_structure,
    overall,
)
from common.parity.processes import WorkerFailure, WorkerProcess, Workers
from common.parity.results import INCOMPLETE, BackendResult, Plan, Run, labelled
from common.parity.returned import judge_deployed, judge_returned
from common.probes import Probe, make_probe
from common.probes.published import Compared, compare
from common.recording import Recording, Unnamed
from common.specs.architecture import Architecture
from common.weights import Weights, check_weights, initial_weights, write_weights_file


class JudgingFailure(Exception):
    """The prover itself failed on what one backend recorded: nothing is known about that then."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"it ran, but judging it failed: {one_line(error)} (--json has the traceback)")
        self.traceback = "".join(traceback.format_exception(error))


Progress = Callable[[str, str], None]
"""Called with the name of a backend and the label of a run whenever the one is finished with the other."""


def run_parity(
    spec: Architecture,
    plan: Plan,
    on_progress: Progress = lambda backend, label: None,
    workers: Workers | None = None,
    journal: Journal | None = None,
) -> list[Run]:
    """Run every backend on every probe, forward or backward.

    A backend that crashes, hangs or cannot run the network becomes a row that says so; the others finish. No process
    and no file is left behind, also when this is interrupted.

    Where the probes themselves cannot be made (there is no space for them, say), every row says so.

    Args:
        spec: the network.
        plan: what to run it on.
        on_progress: told of every backend and probe that is done.
        workers: processes to take and give back, for another network to use; new ones, ended here, if None.
        journal: what has been finished before, which is not run again; what is finished now is added to it.

    Raises:
        TriptychError: the weights do not fit the network, or the journal cannot be written.
    """
    if plan.weights is not None:
        check_weights(spec.parameter_shapes, plan.weights)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder,
            Workers(plan.hardware) if workers is None else nullcontext(workers) as processes,
        ):
            return _Runner(spec, plan, Path(folder), on_progress, processes, journal).run()
    except TriptychError as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot keep intermediate files: {os_error_sentence(error)} ({tempfile.gettempdir()})"
    rows = [BackendResult(backend.name, "crashed", INCOMPLETE, reason, backend.path_name) for backend in plan.backends]
    return [Run(spec.name, probe, {}, rows, gradients=mode) for probe, mode in plan.runs(spec).values()]


_Results = dict[tuple[str, str], BackendResult]
"""By the labels of backend and run."""


class _Runner:
    """One network: its probes on disk, its workers."""

    def __init__(
        self,
        spec: Architecture,
        plan: Plan,
        folder: Path,
        on_progress: Progress,
        workers: Workers,
        journal: Journal | None,
    ) -> None:
        self.spec = spec
        self.plan = plan
        self.wanted = plan.runs(spec)
        self.folder = folder
        self.on_progress = on_progress
        self.workers = workers
        self.journal = journal
        self.finished = journal.finished(spec.name) if journal else {}
        self.files: dict[int, tuple[Path, np.ndarray | Weights]] = {}
        """What probes are made of, on disk; kept, so that nothing else gets its identity."""
        self.stopped = threading.Event()
        self.seats = threading.Semaphore(plan.jobs)
        """Held by whoever computes: a backend's process, or the judge."""
        self.judging = threading.Lock()
        """One at a time: the second backend finds the layers judged in which it has the bits of the first."""

    def run(self) -> list[Run]:
        """Start workers, so that they import their frameworks while the probes are made; then feed and judge them."""
        pairs = {(backend.label, label) for backend in self.plan.backends for label in self.wanted}
        results = {pair: entry.result for pair, entry in self.finished.items() if pair in pairs}
        for backend, label in results:
            self.on_progress(backend, label)
        pending = [
            backend
            for backend in self.plan.backends
            if not backend.obstacle(self.plan.hardware.device)
            and any((backend.label, label) not in results for label in self.wanted)
        ]
        told = {entry.label: (entry.batch, dict(entry.bounded)) for entry in self.finished.values()}
        if pending or not told.keys() >= set(self.wanted):
            for each in self._run_backends(pending, results):
                told[each.label] = len(each.probe.image), each.probe.bounded
        for row in (backend.label for backend in self.plan.backends):
            labels = [label for label in self.wanted if (row, label) in results]
            checked = cross_checked([results[row, label] for label in labels], labels)
            results |= {(row, label): result for label, result in zip(labels, checked, strict=True)}
        return [self._of_label(label, *told[label], results) for label in self.wanted]

    def _run_backends(self, backends: Sequence[Backend], results: _Results) -> list[_PreparedProbe]:
        """Add what is not there yet to the results."""
        prepared: Future[list[_PreparedProbe]] = Future()
        waiting = 1 if self.plan.jobs > 1 else 0  # more than there are seats: it computes while another must be judged
        with ThreadPoolExecutor(self.plan.jobs + waiting) as executor:
            try:
                names = dict.fromkeys(backend.name for backend in backends)
                futures = [
                    executor.submit(self._run_paths, [each for each in backends if each.name == name], prepared)
                    for name in names
                ]
                prepared.set_result(self._prepare())
                # Unlimited, NumPy's products take all cores, and wait for threads that the backends keep from running.
                with threadpool_limits(self.plan.hardware.threads, user_api="blas"):
                    for future in as_completed(futures):
                        results |= future.result()
            except BaseException as error:
                if not prepared.done():
                    prepared.set_exception(error)
                self.stopped.set()
                executor.shutdown(wait=False, cancel_futures=True)
                self.workers.kill()
                raise
        return prepared.result()

    def _of_label(self, label: str, batch: int, bounded: dict[str, str], results: _Results) -> Run:
        rows = [
            results.get((backend.label, label)) or self._skipped(backend, backend.obstacle(self.plan.hardware.device))
            for backend in self.plan.backends
        ]
        probe, mode = self.wanted[label]
        return Run(
            self.spec.name,
            probe,
            bounded,
            rows,
            self.plan.hardware.device,
            self.plan.hardware.precision,
            batch,
            mode,
            compare_all({row.label: row.outputs for row in rows if row.outputs}),
        )

    def _skipped(self, backend: Backend, reason: str | None) -> BackendResult:
        """The row of what did not run. It leaves the proof incomplete if it was named; no path is named."""
        of_path = backend.path is not None and reason == backend.path.lacking
        verdict = INCOMPLETE if self.plan.required and not of_path else "skipped"
        return BackendResult(backend.name, "skipped", verdict, reason, backend.path_name)

    def _prepare(self) -> list[_PreparedProbe]:
        return [
            _PreparedProbe(label, probe, self._request(probe), self._compare(probe))
            for label, probe in self._probes().items()
        ]

    def _compare(self, probe: Probe) -> Compared:
        """With what is published, which is the probe of float32."""
        return compare(self.spec, probe, self.plan.seed) if self.plan.hardware.precision == "fp32" else Compared(None)

    def _probes(self) -> dict[str, Probe]:
        plan = self.plan
        if plan.gradients:
            found = gradient_probes(self.spec, plan.probes, seed=plan.seed, batch=plan.batch, weights=plan.weights)
            return {labelled(probe.name, probe.mode): probe for probe in found}
        weights = plan.weights
        if weights is None and set(plan.probes) - {"exact"}:
            weights = initial_weights(self.spec, plan.seed)
        bits = 11 if plan.hardware.precision == "tf32" else 24
        return {
            name: make_probe(
                name,
                self.spec,
                seed=plan.seed,
                batch=plan.batch or 2,
                weights=weights,
                bits=bits,
                precision=FP32_IN_WGSL if plan.hardware.device == "webgpu" else FP32,
            )
            for name in plan.probes
        }

    def _request(self, probe: Probe) -> dict[str, Any]:
        request = {
            "weights": self._saved(probe.weights),
            "image": self._saved(probe.image),
            "injected": {layer: self._saved(array) for layer, array in probe.injected.items()},
            "deployed": isinstance(probe, EndToEndProbe),
        }
        if isinstance(probe, GradientProbe):
            request |= {
                "drives": {layer: self._saved(array) for layer, array in probe.drives.items()},
                "labels": None if probe.labels is None else self._saved(probe.labels),
                "training": probe.training,
            }
        return request

    def _saved(self, content: np.ndarray | Weights) -> str:
        """The file in which an array or weights lie; written once, though several probes may have them."""
        if id(content) not in self.files:
            path = self.folder / f"given{len(self.files)}"
            if isinstance(content, np.ndarray):
                path = path.with_suffix(".npy")
                np.save(path, content)
            else:
                path = path.with_suffix(".safetensors")
                write_weights_file(path, content)
            self.files[id(content)] = path, content
        return str(self.files[id(content)][0])

    def _run_paths(self, paths: Sequence[Backend], prepared: Future[list[_PreparedProbe]]) -> _Results:
        """One backend on all its paths in turn; or just once, where none was asked for."""
        results = {
            (row.label, label): row
            for (_, label), entry in self.finished.items()
            if (row := entry.result).backend == paths[0].name
        }
        for backend in paths:
            results |= self._run_backend(backend, prepared, results)
        return results

    def _run_backend(self, backend: Backend, prepared: Future[list[_PreparedProbe]], before: _Results) -> _Results:
        """One backend on every probe.

        A path on which the same kernels ran as on one `before` is no other path: it is skipped from there on.
        """
        results: _Results = {}
        same: BackendResult | None = None
        worker = self.workers.take(backend)
        for each in prepared.result():
            label, probe = each.label, each.probe
            if self.stopped.is_set():
                break
            if (backend.label, label) in self.finished:
                continue
            result = same or _told_apart(self._run_probe(backend, worker, each), label, before)
            if not results and result.status == "skipped" and result.evidence:
                same = replace(result, seconds=0.0)
            results[backend.label, label] = result
            if self.journal:
                self.journal.add(Entry(self.spec.name, label, len(probe.image), probe.bounded, result))
            if not worker.alive and not same and not self.stopped.is_set():
                worker = self.workers.take(backend)  # the crash has its row; the next probe gets a chance of its own
            self.on_progress(backend.name, label)
        self.workers.give_back(worker)
        return results

    def _run_probe(self, backend: Backend, worker: WorkerProcess, prepared: _PreparedProbe) -> BackendResult:
        started = time.perf_counter()
        found, trace = _Recorded(), None
        try:
            # Numbers that do not fit together stop a network from running at all; its shapes tell which layer it is.
            structure, seconds = self._ask(worker, {"build": self.spec.name, "image_size": self.spec.input_shape[1:]})
            with _judging():
                verdicts = judge_structure(self.spec, structure["shapes"], structure["parameter_shapes"])
            try:
                traced = Traced(structure["order"], structure["reads"])
                found = self._record_and_judge(backend, worker, prepared, structure["unnamed"], traced)
                verdicts = found.verdicts if first_divergence(found.verdicts) else verdicts or found.verdicts
            except (WorkerFailure, JudgingFailure) as failure:
                if not verdicts:
                    raise
                first, trace = verdicts[0], failure.traceback
                if first.cause == f"{first.name} is missing":  # the model has it, but could not run it
                    verdicts[0] = replace(first, cause=f"{first.name} was not computed: {failure}")
        except (WorkerFailure, JudgingFailure) as failure:
            if isinstance(failure, WorkerFailure) and failure.unavailable:
                return self._skipped(backend, str(failure))
            seconds = time.perf_counter() - started
            row = BackendResult(backend.name, "crashed", INCOMPLETE, str(failure), backend.path_name, seconds=seconds)
            return replace(row, traceback=failure.traceback)
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
        prepared: _PreparedProbe,
        unnamed: Unnamed,
        traced: Traced,
    ) -> _Recorded:
        with tempfile.TemporaryDirectory(prefix=f"{backend.name}-", dir=self.folder) as output:
            answer, seconds = self._ask(worker, {**prepared.request, "output": output})
            recorded = {
                kind: {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
                for kind, paths in answer["recorded"].items()
            }
            with self.judging, self.seats:
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
        prepared: _PreparedProbe,
        recorded: Mapping[str, Mapping[str, np.ndarray]],
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
            found = judge(self.spec, probe, layers, prepared.memory, precision, between, traced)
            return found + judge_returned(self.spec, probe, Recording(layers, returned, alone), unnamed)


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


@dataclass(frozen=True)
class _PreparedProbe:
    """A probe and where its arrays lie."""

    label: str
    probe: Probe
    request: dict[str, Any]
    published: Compared
    memory: Memory = field(default_factory=dict)

    def compare_with_published(self, verdicts: Sequence[LayerVerdict]) -> Compared:
        """Whether a backend's bits are those published: it has the probe's, and the probe is as published."""
        if not self.published.same:
            return self.published
        wrong = (v.name for v in verdicts if v.verdict != IDENTICAL and v.name not in self.probe.bounded)
        name = next(wrong, None)
        return self.published if name is None else Compared(False, f"{name}'s output is not as published")


def _told_apart(result: BackendResult, label: str, before: _Results) -> BackendResult:
    """A path's result; or that the path counts for nothing, if the kernels that ran are those of another one."""
    if result.path is None or result.status != "ok":
        return result
    for (_, other_label), other in before.items():
        if (other_label, other.evidence) == (label, result.evidence) and other.status != "skipped":
            reason = f"the same as {other.path}: {result.evidence}"
            return BackendResult(
                result.backend, "skipped", "skipped", reason, result.path, result.evidence, result.seconds
            )
    return result
