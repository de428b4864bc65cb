"""Running a network in many backends, each in a process of its own, and judging what comes back."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from dataclasses import replace

from threadpoolctl import threadpool_limits

from common.errors import TriptychError
from common.files import os_error_sentence
from common.parity.agreement import cross_checked
from common.parity.backends import Backend
from common.parity.comparison import compare_all
from common.parity.examining import Examiner, OnRecorded, skipped
from common.parity.journal import Entry, Notes
from common.parity.preparing import Preparation, PreparedProbe
from common.parity.processes import Workers
from common.parity.results import INCOMPLETE, BackendResult, Plan, Run
from common.specs.architecture import Architecture
from common.weights import check_weights

Progress = Callable[[str, str], None]
"""Called with the name of a backend and the label of a run, whenever a backend has finished a run."""


def run_parity(
    spec: Architecture,
    plan: Plan,
    on_progress: Progress = lambda backend, label: None,
    workers: Workers | None = None,
    journal: Notes | None = None,
    on_recorded: OnRecorded | None = None,
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
        on_recorded: is given what every backend recorded on every probe.

    Raises:
        TriptychError: the weights do not fit the network, or the journal cannot be written.
    """
    return run_prepared(Preparation(spec, plan), on_progress, workers, journal, on_recorded)


def run_prepared(
    preparation: Preparation,
    on_progress: Progress,
    workers: Workers | None,
    journal: Notes | None,
    on_recorded: OnRecorded | None = None,
    following: Preparation | None = None,
) -> list[Run]:
    """As `run_parity`, on probes that may be made already. Those of the `following` network are made meanwhile."""
    spec, plan = preparation.spec, preparation.plan
    if plan.weights is not None:
        check_weights(spec.parameter_shapes, plan.weights)
    try:
        with (
            preparation,
            Workers(plan.hardware) if workers is None else nullcontext(workers) as processes,
        ):
            examiner = Examiner(spec, plan, preparation.folder, on_recorded)
            return _Runner(preparation, following, on_progress, processes, journal, examiner).run()
    except TriptychError as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot keep intermediate files: {os_error_sentence(error)} ({tempfile.gettempdir()})"
    rows = [BackendResult(backend.name, "crashed", INCOMPLETE, reason, backend.path_name) for backend in plan.backends]
    return [Run(spec.name, probe, {}, rows, gradients=mode) for probe, mode in plan.runs(spec).values()]


Results = dict[tuple[str, str], BackendResult]
"""By the labels of backend and run."""


def runs_of(
    spec: Architecture, plan: Plan, results: Results, told: Mapping[str, tuple[int, Mapping[str, str]]]
) -> list[Run]:
    """The runs with the results of all backends.

    Args:
        spec: the network.
        plan: what it was run on.
        results: the results, each judged by itself; without those that cannot run here.
        told: of each probe, the batch and what is bounded, by the label of the run.
    """
    wanted = plan.runs(spec)
    checked: Results = {}
    for row in (backend.label for backend in plan.backends):
        labels = [label for label in wanted if (row, label) in results]
        of_row = cross_checked([results[row, label] for label in labels], labels)
        checked |= {(row, label): result for label, result in zip(labels, of_row, strict=True)}
    runs = []
    for label, (probe, mode) in wanted.items():
        batch, bounded = told[label]
        rows = [
            checked.get((backend.label, label)) or skipped(backend, backend.obstacle(plan.hardware.device), plan)
            for backend in plan.backends
        ]
        comparisons = compare_all({row.label: row.outputs for row in rows if row.outputs})
        on = plan.hardware
        runs.append(Run(spec.name, probe, dict(bounded), rows, on.device, on.precision, batch, mode, comparisons))
    return runs


class _Runner:
    """One network: its probes on disk, its workers."""

    def __init__(
        self,
        preparation: Preparation,
        following: Preparation | None,
        on_progress: Progress,
        workers: Workers,
        journal: Notes | None,
        examiner: Examiner,
    ) -> None:
        self.spec = spec = preparation.spec
        self.plan = plan = preparation.plan
        self.wanted = plan.runs(spec)
        self.preparation = preparation
        self.following = following
        self.on_progress = on_progress
        self.workers = workers
        self.journal = journal
        self.finished = journal.finished(spec.name) if journal else {}
        self.stopped = threading.Event()
        self.examiner = examiner

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
        return runs_of(self.spec, self.plan, results, told)

    def _run_backends(self, backends: Sequence[Backend], results: Results) -> list[PreparedProbe]:
        """Add the missing results."""
        prepared: Future[list[PreparedProbe]] = Future()
        waiting = 1 if self.plan.jobs > 1 else 0  # more than there are seats: it computes while another must be judged
        with ThreadPoolExecutor(self.plan.jobs + waiting) as executor:
            try:
                names = dict.fromkeys(backend.name for backend in backends)
                futures = [
                    executor.submit(self._run_paths, [each for each in backends if each.name == name], prepared)
                    for name in names
                ]
                prepared.set_result(self.preparation.probes)
                # Unlimited, NumPy's products take all cores, and wait for threads that the backends keep from running.
                with threadpool_limits(self.plan.hardware.threads, user_api="blas"):
                    self._prepare_ahead()
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

    def _prepare_ahead(self) -> None:
        """Make the next network's probes: one thread, and this one, which a Ctrl-C reaches."""
        if self.following and self.plan.jobs > 1:
            with suppress(Exception):  # it is tried again when that network's turn comes, and told then
                _ = self.following.probes

    def _run_paths(self, paths: Sequence[Backend], prepared: Future[list[PreparedProbe]]) -> Results:
        """One backend on all its paths in turn; or once, if no paths were asked for."""
        results = {
            (row.label, label): row
            for (_, label), entry in self.finished.items()
            if (row := entry.result).backend == paths[0].name
        }
        for backend in paths:
            results |= self._run_backend(backend, prepared, results)
        return results

    def _run_backend(self, backend: Backend, prepared: Future[list[PreparedProbe]], before: Results) -> Results:
        """One backend on every probe.

        A path on which the same kernels ran as on one `before` is no other path: it is skipped from there on.
        """
        results: Results = {}
        same: BackendResult | None = None
        worker = self.workers.take(backend)
        for each in prepared.result():
            label, probe = each.label, each.probe
            if self.stopped.is_set():
                break
            if (backend.label, label) in self.finished:
                continue
            result = same or _told_apart(self.examiner.run(backend, worker, each), label, before)
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


def _told_apart(result: BackendResult, label: str, before: Results) -> BackendResult:
    """A path's result; or that it is skipped, if the same kernels ran as on another path."""
    if result.path is None or result.status != "ok":
        return result
    for (_, other_label), other in before.items():
        if (other_label, other.evidence) == (label, result.evidence) and other.status != "skipped":
            reason = f"the same as {other.path}: {result.evidence}"
            return BackendResult(
                result.backend, "skipped", "skipped", reason, result.path, result.evidence, result.seconds
            )
    return result
