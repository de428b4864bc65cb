"""Running networks in many backends, in processes of their own, and judging what comes back."""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from itertools import product

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
    with Workers(plan.hardware, plan.backends) if workers is None else nullcontext(workers) as processes:
        told = lambda network, backend, label: on_progress(backend, label)  # noqa: E731
        (runs,) = run_networks([spec], plan, told, processes, journal, on_recorded)
    return runs


def run_networks(
    specs: Iterable[Architecture],
    plan: Plan,
    on_progress: Callable[[str, str, str], None],
    workers: Workers,
    journal: Notes | None = None,
    on_recorded: OnRecorded | None = None,
) -> Generator[list[Run]]:
    """As `run_parity`, some networks in turn. The next one starts where the last backends of one leave a core idle.

    Close it, so that the one that has started ends.

    Args:
        specs: the networks.
        plan: what to run each on.
        on_progress: told of every network, backend and probe that is done.
        workers, journal, on_recorded: as for `run_parity`.

    Raises:
        TriptychError: as `run_parity`.
    """
    ahead = 1 if plan.jobs > 1 and plan.hardware.device == "cpu" else 0
    waiting = 1 if plan.jobs > 1 else 0  # more than there are seats: it computes while another must be judged
    seats = threading.Semaphore(plan.jobs)
    started: deque[_Network] = deque()
    with (
        ExitStack() as ends,
        ThreadPoolExecutor(plan.jobs + waiting) as executor,
        # Unlimited, NumPy's products take all cores, and wait for threads that the backends keep from running.
        threadpool_limits(plan.hardware.threads, user_api="blas"),
    ):

        def start(spec: Architecture) -> _Network:
            told = partial(on_progress, spec.name)
            network = _Network(spec, plan, told, workers, journal, on_recorded, seats)
            ends.callback(network.close)
            started.append(network)
            network.start(executor)
            return network

        def finish() -> list[Run]:
            runs = started[0].finish()
            started.popleft().close()
            return runs

        try:
            for spec in specs:
                if start(spec).failed and len(started) > 1:  # perhaps for want of space, beside another's files
                    started.pop().close()
                    yield finish()
                    start(spec)
                if len(started) > ahead:
                    yield finish()
            while started:
                yield finish()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for network in started:
                network.stop()
            workers.kill()
            raise


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


class _Network:
    """One network: its probes on disk, and the results so far."""

    def __init__(
        self,
        spec: Architecture,
        plan: Plan,
        on_progress: Progress,
        workers: Workers,
        journal: Notes | None,
        on_recorded: OnRecorded | None,
        seats: threading.Semaphore,
    ) -> None:
        if plan.weights is not None:
            check_weights(spec.parameter_shapes, plan.weights)
        self.spec = spec
        self.plan = plan
        self.wanted = plan.runs(spec)
        self.preparation = Preparation(spec, plan)
        self.on_progress = on_progress
        self.workers = workers
        self.journal = journal
        self.finished = journal.finished(spec.name) if journal else {}
        self.stopped = threading.Event()
        self.examiner = Examiner(spec, plan, self.preparation, seats, on_recorded)
        pairs = {(backend.label, label) for backend in plan.backends for label in self.wanted}
        self.results = {pair: entry.result for pair, entry in self.finished.items() if pair in pairs}
        self.futures: list[Future[Results]] = []
        self.prepared: Future[list[PreparedProbe]] = Future()

    def start(self, executor: ThreadPoolExecutor) -> None:
        """Start what is missing. Workers import their frameworks while this thread, which a Ctrl-C reaches, makes the
        probes."""
        pending = [
            backend
            for backend in self.plan.backends
            if not backend.obstacle(self.plan.hardware.device)
            and any((backend.label, label) not in self.results for label in self.wanted)
        ]
        device = self.plan.hardware.device
        for process in dict.fromkeys(backend.process_on(device) for backend in pending):
            backends = [each for each in pending if each.process_on(device) == process]
            run = self._run_paths if backends[0].path else self._run_backends
            self.futures.append(executor.submit(run, backends))
        if pending or not self._earlier_probes.keys() >= set(self.wanted):
            try:
                self.prepared.set_result(self.preparation.probes)
            except BaseException as error:
                self.prepared.set_exception(error)
                if not isinstance(error, (TriptychError, OSError)):
                    raise

    @property
    def failed(self) -> bool:
        """Whether its probes could not be made."""
        return self.prepared.done() and self.prepared.exception() is not None

    def finish(self) -> list[Run]:
        """Wait for all backends. If the probes could not be made, every row says so."""
        for backend, label in self.results:
            self.on_progress(backend, label)
        try:
            for future in self.futures:
                self.results |= future.result()
            told = self._earlier_probes
            for each in self.prepared.result() if self.prepared.done() else ():
                told[each.label] = len(each.probe.image), each.probe.bounded
            return runs_of(self.spec, self.plan, self.results, told)
        except TriptychError as error:
            reason = str(error)
        except OSError as error:
            reason = f"cannot keep intermediate files: {os_error_sentence(error)} ({tempfile.gettempdir()})"
        finally:
            self.stopped.set()
        rows = [BackendResult(each.name, "crashed", INCOMPLETE, reason, each.path_name) for each in self.plan.backends]
        return [Run(self.spec.name, probe, {}, rows, gradients=mode) for probe, mode in self.wanted.values()]

    def stop(self) -> None:
        """Have no backend start anything more, nor wait for probes that nobody makes any more."""
        self.stopped.set()
        self.prepared.cancel()

    def close(self) -> None:
        """Remove its files, when nothing runs any more, and forget its probes: of all networks they fill the memory."""
        wait(future for future in self.futures if not future.cancelled())  # a cancelled one never counts as done
        self.preparation.close()
        self.prepared = Future()

    @property
    def _earlier_probes(self) -> dict[str, tuple[int, Mapping[str, str]]]:
        """The batch and what is bounded, by the labels of the probes that earlier results are of."""
        return {entry.label: (entry.batch, dict(entry.bounded)) for entry in self.finished.values()}

    def _run_paths(self, paths: Sequence[Backend]) -> Results:
        """One backend on all its paths in turn."""
        results = {
            (row.label, label): row
            for (_, label), entry in self.finished.items()
            if (row := entry.result).backend == paths[0].name
        }
        for backend in paths:
            results |= self._run_backends([backend], results)
        return results

    def _run_backends(self, backends: Sequence[Backend], before: Results | None = None) -> Results:
        """Backends of one process on every probe.

        A path on which the same kernels ran as on one `before` is no other path: it is skipped from there on.
        """
        results: Results = {}
        same: BackendResult | None = None
        worker = self.workers.take(backends[0])
        try:
            for each, backend in product(self.prepared.result(), backends):
                label, probe = each.label, each.probe
                if self.stopped.is_set():
                    break
                if (backend.label, label) in self.finished:
                    continue
                result = same or _told_apart(self.examiner.run(backend, worker, each), label, before or {})
                if not results and result.status == "skipped" and result.evidence:
                    same = replace(result, seconds=0.0)
                results[backend.label, label] = result
                if self.journal:
                    self.journal.add(Entry(self.spec.name, label, len(probe.image), probe.bounded, result))
                if not worker.alive and not same and not self.stopped.is_set():
                    # A crash has its row; the next probe gets a chance of its own.
                    worker = self.workers.take(backends[0])
                self.on_progress(backend.name, label)
        finally:
            if self.stopped.is_set():
                self.workers.end(worker)
            else:
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
