"""The processes that backends run in: started, asked, used again, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from common.parity.backends import Backend, Hardware, process_environment
from common.parity.evidence import listening
from common.parity.paths import with_variables

RESIDENT_LIMIT = 1 << 30
"""Bytes that a process may hold on to when its network has been released; one that holds more is ended."""


WAITING_LIMIT = 12
"""Processes that may wait for another network: those of every path of every backend would fill the memory."""


class WorkerFailure(Exception):
    """A worker that gave no result; the message says how it ended."""

    def __init__(self, message: str, *, unavailable: bool = False, traceback: str | None = None) -> None:
        super().__init__(message)
        self.unavailable = unavailable
        """Whether it cannot run here at all, as opposed to having failed."""
        self.traceback = traceback
        """Of the exception in the process, if it was one."""


class WorkerProcess:
    """A running worker, in a process group of its own so that Ctrl-C reaches only its parent."""

    def __init__(
        self, backend: Backend, hardware: Hardware, log: Path, *, module: str = "common.parity.worker"
    ) -> None:
        self.backend = backend
        self.log = log
        root = str(Path(__file__).resolve().parents[2])
        environment = process_environment(backend, hardware)
        if backend.path:
            folder = log.with_suffix("")
            folder.mkdir()
            environment = with_variables(environment, listening(folder))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, backend.name, hardware.device, hardware.precision],
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
            unavailable, trace = answer.get("unavailable", False), answer.get("traceback")
            raise WorkerFailure(answer["error"], unavailable=unavailable, traceback=trace)
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


class Workers:
    """Processes that wait for their next network: importing a framework takes longer than running a small one."""

    def __init__(self, hardware: Hardware = Hardware()) -> None:
        self.hardware = hardware
        self.waiting: dict[str, WorkerProcess] = {}
        self.started: list[WorkerProcess] = []
        self.folder = tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True)
        self.numbers = count()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self.folder.cleanup()

    def take(self, backend: Backend) -> WorkerProcess:
        """A process of this backend that nobody uses."""
        worker = self.waiting.pop(backend.label, None)
        if worker is None or not worker.alive:
            log = Path(self.folder.name) / f"{backend.name}-{next(self.numbers)}.log"
            worker = WorkerProcess(backend, self.hardware, log)
            self.started.append(worker)
        return worker

    def give_back(self, worker: WorkerProcess) -> None:
        """Have the process forget its network; end it if it does not give the memory back."""
        try:
            resident = worker.ask({"release": True}, timeout=60)["resident"]
        except WorkerFailure:
            resident = RESIDENT_LIMIT
        label = worker.backend.label
        if resident < RESIDENT_LIMIT and label not in self.waiting and len(self.waiting) < WAITING_LIMIT:
            self.waiting[label] = worker
        else:
            worker.kill()
            self.started.remove(worker)

    def kill(self) -> None:
        """End all processes, those in use included."""
        for worker in list(self.started):
            worker.kill()
