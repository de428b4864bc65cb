"""Differentiate networks in every backend, and judge what comes back; see `common.parity.gradients`."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from common.parity.backends import Backend
from common.parity.gradients import (
    CERTIFIED,
    DIVERGED,
    IDENTICAL,
    GradientProbe,
    GradientVerdict,
    gradient_probes,
    judge_gradients,
)
from common.parity.processes import WorkerFailure, WorkerProcess, Workers
from common.specs.architecture import Architecture
from common.weights import write_weights_file


@dataclass(frozen=True)
class GradientResult:
    """One backend on one probe."""

    backend: str
    status: str
    """`ok`, `diverged` or `crashed`."""
    reason: str | None = None
    verdicts: list[GradientVerdict] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        found = {verdict.verdict for verdict in self.verdicts}
        if self.status == "crashed":
            return "incomplete"
        return next((name for name in (DIVERGED, CERTIFIED) if name in found), IDENTICAL)

    @property
    def bound_ratio(self) -> float | None:
        ratios = [verdict.bound_ratio for verdict in self.verdicts]
        return None if None in ratios else max((r for r in ratios if r is not None), default=0.0)


@dataclass(frozen=True)
class GradientRun:
    """One network on one probe in every backend."""

    architecture: str
    probe: str
    mode: str
    """`inference` or `training`: which statistics batch normalisation uses."""
    backends: list[GradientResult]

    @property
    def rounding(self) -> list[str]:
        """The layers of which bounds decide: on the exact probe, those whose own backward pass rounds."""
        verdicts = (verdict for result in self.backends for verdict in result.verdicts if not verdict.exact)
        return list(dict.fromkeys(verdict.layer for verdict in verdicts))


class _Turns:
    """Who may compute at the same time."""

    def __init__(self, jobs: int) -> None:
        self.seats = threading.Semaphore(jobs)
        """Held by whoever computes: a backend's process, or the judge."""
        self.judging = threading.Lock()
        """One at a time: what is recorded, and its gradients in float64, may take gigabytes."""


def run_gradients(
    spec: Architecture,
    backends: Sequence[Backend],
    workers: Workers,
    *,
    seed: int = 0,
    batch: int | None = None,
    jobs: int = 2,
    timeout: float = 600.0,
    on_progress: Callable[[str], None] = lambda what: None,
) -> list[GradientRun]:
    """Differentiate a network in some backends that can, `jobs` at the same time, and judge every gradient.

    A backend that crashes or hangs becomes a row that says so; the others finish. No process and no file is left
    behind, also when this is interrupted.

    Raises:
        TriptychError: there is no exact probe for the network.
    """
    turns, stopped = _Turns(jobs), threading.Event()
    prepared: Future[list[tuple[GradientProbe, dict[str, Any]]]] = Future()

    def run_backend(backend: Backend) -> list[GradientResult]:
        worker = workers.take(backend)  # it imports its framework while the probes are made
        results = []
        for probe, request in prepared.result():
            if stopped.is_set():
                break
            results.append(_run(spec, backend, worker, probe, request, timeout, turns))
            if not worker.alive and not stopped.is_set():
                worker = workers.take(backend)  # the crash has its row; the next probe gets a chance of its own
            on_progress(f"{spec.name} {backend.name} {probe.name} {probe.mode}")
        workers.give_back(worker)
        return results

    with (
        tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder,
        # One more than may compute, where several may: it computes while another waits to be judged.
        ThreadPoolExecutor(jobs + (jobs > 1)) as executor,
    ):
        try:
            futures = [executor.submit(run_backend, backend) for backend in backends]
            probes = gradient_probes(spec, seed=seed, batch=batch)
            prepared.set_result([(probe, _request(probe, Path(folder), n)) for n, probe in enumerate(probes)])
            with threadpool_limits(workers.hardware.threads, user_api="blas"):
                rows = [future.result() for future in futures]
        except BaseException as error:
            if not prepared.done():
                prepared.set_exception(error)
            stopped.set()
            executor.shutdown(wait=False, cancel_futures=True)
            workers.kill()
            raise
    return [
        GradientRun(spec.name, probe.name, probe.mode, list(row))
        for probe, row in zip(probes, zip(*rows, strict=True), strict=True)
    ]


def _request(probe: GradientProbe, folder: Path, number: int) -> dict[str, Any]:
    arrays = {"image ": probe.image} | ({} if probe.labels is None else {"labels ": probe.labels})
    for kind, named in (("cuts", probe.cuts), ("drives", probe.drives)):
        arrays |= {f"{kind} {name}": array for name, array in named.items()}
    np.savez(folder / f"{number}.npz", **arrays)  # type: ignore[arg-type]
    weights = folder / f"{number}.safetensors"
    write_weights_file(weights, probe.weights)
    return {
        "differentiate": str(folder / f"{number}.npz"),
        "weights": str(weights),
        "training": probe.training,
    }


def _run(
    spec: Architecture,
    backend: Backend,
    worker: WorkerProcess,
    probe: GradientProbe,
    request: dict[str, Any],
    timeout: float,
    turns: _Turns,
) -> GradientResult:
    answer = Path(request["differentiate"]).with_name(f"{backend.name}.npz")
    try:
        with turns.seats:
            worker.ask({"build": spec.name}, timeout)
            worker.ask(request | {"output": str(answer)}, timeout)
    except WorkerFailure as failure:
        return GradientResult(backend.name, "crashed", str(failure))
    with turns.judging, turns.seats:
        recorded: dict[str, dict[str, np.ndarray]] = {}
        with np.load(answer) as arrays:
            for key in arrays.files:
                kind, _, name = key.partition(" ")
                recorded.setdefault(kind, {})[name] = arrays[key]
        answer.unlink()
        verdicts = judge_gradients(spec, probe, recorded)
    wrong = next((verdict for verdict in verdicts if verdict.verdict == DIVERGED), None)
    reason = (
        None if wrong is None else f"the first from the loss backwards is {wrong.layer}: the gradient by {wrong.what}"
    )
    return GradientResult(backend.name, "ok" if wrong is None else "diverged", reason, verdicts)
