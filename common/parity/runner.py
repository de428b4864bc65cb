"""Running a network in many backends, each in a process of its own, and judging what comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.files import os_error_sentence
from common.parity.backends import Backend, process_environment
from common.parity.judge import (
    CERTIFIED,
    DIVERGED,
    IDENTICAL,
    LayerVerdict,
    Memory,
    first_divergence,
    judge,
    judge_structure,
    overall,
)
from common.probes import PROBES, Probe, make_probe
from common.specs.architecture import Architecture
from common.weights import Weights, check_weights, initial_weights, write_weights_file

INCOMPLETE = "incomplete"

Progress = Callable[[str, str], None]
"""Called with the names of a backend and a probe whenever the one is finished with the other."""


@dataclass(frozen=True)
class BackendResult:
    """One backend on one probe."""

    backend: str
    status: str
    """`ok`, `diverged`, `crashed` or `skipped`."""
    verdict: str
    reason: str | None = None
    seconds: float = 0.0
    timing: dict[str, float] = field(default_factory=dict)
    """Seconds of the import, of loading the weights, of the run, and of the judging."""
    first_divergence: str | None = None
    likely_cause: str | None = None
    layers: list[LayerVerdict] = field(default_factory=list)

    @property
    def bound_ratio(self) -> float | None:
        """The largest error ÷ bound of all layers; None if one has none, or nothing was judged."""
        ratios = [layer.bound_ratio for layer in self.layers]
        return max((r for r in ratios if r is not None), default=None) if None not in ratios else None

    @property
    def precision(self) -> str | None:
        """The precision of the least precise layer."""
        order = ("fp32", "tf32", "bf16", "other")
        return max((layer.precision for layer in self.layers), key=order.index, default=None)


@dataclass(frozen=True)
class Run:
    """One network on one probe in every backend."""

    architecture: str
    probe: str
    bounded: dict[str, str]
    """In an exact probe, the layers that cannot be exact, and how each is handled."""
    backends: list[BackendResult]
    device: str = "cpu"
    precision: str = "fp32"

    @property
    def verdict(self) -> str:
        return worst([result.verdict for result in self.backends])


def worst(verdicts: Sequence[str]) -> str:
    """The verdict on the whole: `diverged` before `incomplete` before `certified` before `identical`.

    A backend that was not asked for and is not installed counts for nothing; where nothing counts, it is `incomplete`.
    """
    order = (DIVERGED, INCOMPLETE, CERTIFIED, IDENTICAL)
    return next((verdict for verdict in order if verdict in verdicts), INCOMPLETE)


@dataclass(frozen=True)
class Plan:
    """What to run."""

    backends: Sequence[Backend]
    probes: Sequence[str] = tuple(PROBES)
    weights: Weights | None = None
    """Canonical weights for the random and photo probes; seeded ones if None."""
    seed: int = 0
    batch: int = 2
    jobs: int = 2
    """How many backends run at the same time."""
    timeout: float = 600.0
    """Seconds that one backend may take for one probe."""
    required: bool = False
    """Whether a backend that is not installed makes the result incomplete."""


def run_parity(spec: Architecture, plan: Plan, on_progress: Progress = lambda backend, probe: None) -> list[Run]:
    """Run every backend on every probe.

    A backend that crashes, hangs or cannot run the network becomes a row that says so; the others finish. No process
    and no file is left behind, also when this is interrupted.

    Where the probes themselves cannot be made (there is no space for them, say), every row says so.

    Raises:
        TriptychError: the weights do not fit the network.
    """
    if plan.weights is not None:
        check_weights(spec.parameter_shapes, plan.weights)
    try:
        with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder:
            return _Runner(spec, plan, Path(folder), on_progress).run()
    except TriptychError as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot keep intermediate files: {os_error_sentence(error)} ({tempfile.gettempdir()})"
    rows = [BackendResult(backend.name, "crashed", INCOMPLETE, reason) for backend in plan.backends]
    return [Run(spec.name, probe, {}, rows) for probe in plan.probes]


class _Runner:
    """One network: its probes on disk, its workers."""

    def __init__(self, spec: Architecture, plan: Plan, folder: Path, on_progress: Progress) -> None:
        self.spec = spec
        self.plan = plan
        self.folder = folder
        self.on_progress = on_progress
        self.workers: list[WorkerProcess] = []
        self.stopped = threading.Event()

    def run(self) -> list[Run]:
        """Start workers, so that they import their frameworks while the probes are made; then feed and judge them."""
        installed = [backend for backend in self.plan.backends if not backend.missing]
        prepared: Future[list[_PreparedProbe]] = Future()
        results: dict[tuple[str, str], BackendResult] = {}
        with ThreadPoolExecutor(self.plan.jobs) as executor:
            try:
                futures = [executor.submit(self._run_backend, backend, prepared) for backend in installed]
                prepared.set_result(self._prepare())
                for future in as_completed(futures):
                    results |= future.result()
            except BaseException as error:
                if not prepared.done():
                    prepared.set_exception(error)
                self.stopped.set()
                executor.shutdown(wait=False, cancel_futures=True)
                for worker in list(self.workers):
                    worker.kill()
                raise
        return [
            Run(
                self.spec.name,
                prepared_probe.probe.name,
                prepared_probe.probe.bounded,
                [
                    results.get((backend.name, prepared_probe.probe.name)) or self._skipped(backend)
                    for backend in self.plan.backends
                ],
            )
            for prepared_probe in prepared.result()
        ]

    def _skipped(self, backend: Backend) -> BackendResult:
        verdict = INCOMPLETE if self.plan.required else "skipped"
        return BackendResult(backend.name, "skipped", verdict, backend.how_to_install)

    def _prepare(self) -> list[_PreparedProbe]:
        weights = self.plan.weights
        if weights is None and set(self.plan.probes) - {"exact"}:
            weights = initial_weights(self.spec, self.plan.seed)
        prepared: list[_PreparedProbe] = []
        files: dict[int, Path] = {}
        for name in self.plan.probes:
            probe = make_probe(name, self.spec, seed=self.plan.seed, batch=self.plan.batch, weights=weights)
            folder = self.folder / f"probe{len(prepared)}"
            folder.mkdir()
            if id(probe.weights) not in files:
                files[id(probe.weights)] = folder / "weights.safetensors"
                write_weights_file(files[id(probe.weights)], probe.weights)
            np.save(folder / "image.npy", probe.image)
            injected = {}
            for number, (layer, array) in enumerate(probe.injected.items()):
                injected[layer] = str(folder / f"injected{number}.npy")
                np.save(injected[layer], array)
            request = {
                "weights": str(files[id(probe.weights)]),
                "image": str(folder / "image.npy"),
                "injected": injected,
            }
            prepared.append(_PreparedProbe(probe, request))
        return prepared

    def _run_backend(self, backend: Backend, prepared: Future[list[_PreparedProbe]]) -> dict:
        results = {}
        worker = self._start(backend)
        try:
            for probe in prepared.result():
                if self.stopped.is_set():
                    break
                results[backend.name, probe.probe.name] = self._run_probe(backend, worker, probe)
                if not worker.alive and not self.stopped.is_set():
                    worker = self._start(backend)  # the crash has its row; the next probe gets a chance of its own
                self.on_progress(backend.name, probe.probe.name)
        finally:
            worker.kill()
        return results

    def _start(self, backend: Backend) -> WorkerProcess:
        worker = WorkerProcess(backend, self.spec.name, self.folder / f"{backend.name}.log")
        self.workers.append(worker)
        return worker

    def _run_probe(self, backend: Backend, worker: WorkerProcess, prepared: _PreparedProbe) -> BackendResult:
        started = time.perf_counter()
        timing: dict[str, float] = {}
        try:
            # Numbers that do not fit together stop a network from running at all; its shapes tell which layer it is.
            structure = worker.ask({}, self.plan.timeout)
            verdicts = judge_structure(self.spec, structure["shapes"], structure["parameter_shapes"])
            with suppress(WorkerFailure) if verdicts else nullcontext():
                found, timing = self._record_and_judge(backend, worker, prepared)
                verdicts = found if first_divergence(found) else verdicts or found
        except WorkerFailure as failure:
            seconds = time.perf_counter() - started
            return BackendResult(backend.name, "crashed", INCOMPLETE, str(failure), seconds)
        divergence = first_divergence(verdicts)
        return BackendResult(
            backend.name,
            "diverged" if divergence else "ok",
            overall(verdicts, prepared.probe),
            reason=f"{divergence.name} differs" if divergence else None,
            seconds=time.perf_counter() - started - timing.get("judge", 0.0),
            timing=timing,
            first_divergence=divergence.name if divergence else None,
            likely_cause=divergence.cause if divergence else None,
            layers=verdicts,
        )

    def _record_and_judge(
        self, backend: Backend, worker: WorkerProcess, prepared: _PreparedProbe
    ) -> tuple[list[LayerVerdict], dict[str, float]]:
        with tempfile.TemporaryDirectory(prefix=f"{backend.name}-", dir=self.folder) as output:
            answer = worker.ask({**prepared.request, "output": output}, self.plan.timeout)
            started = time.perf_counter()
            recorded = {name: np.load(path, mmap_mode="r") for name, path in answer["layers"].items()}
            verdicts = judge(self.spec, prepared.probe, recorded, prepared.memory)
        return verdicts, {**answer["timing"], "judge": time.perf_counter() - started}


@dataclass(frozen=True)
class _PreparedProbe:
    """A probe and where its arrays lie."""

    probe: Probe
    request: dict[str, Any]
    memory: Memory = field(default_factory=dict)


class WorkerFailure(Exception):
    """A worker that gave no result; the message says how it ended."""


class WorkerProcess:
    """A running `common.parity.worker`, in a process group of its own so that Ctrl-C reaches only its parent."""

    def __init__(self, backend: Backend, architecture: str, log: Path) -> None:
        self.log = log
        root = str(Path(__file__).resolve().parents[2])
        environment = process_environment(backend)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "common.parity.worker", backend.name, architecture],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            WorkerFailure: the process ended, ran out of time, or answered with an error.
        """
        assert self.process.stdin
        assert self.process.stdout
        out_of_time = threading.Event()

        def end() -> None:
            out_of_time.set()
            self.process.kill()

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        finally:
            timer.cancel()
        if not line:
            code = self.process.wait()
            raise WorkerFailure(f"no answer within {timeout:.0f} s" if out_of_time.is_set() else self._ending(code))
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailure(answer["error"])
        return answer

    def _ending(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            return f"the process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        last = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        return f"the process ended with status {code}" + "".join(f": {line.strip()}" for line in last)

    def kill(self) -> None:
        """End the process, if it has not ended, and wait for it."""
        if self.alive:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
