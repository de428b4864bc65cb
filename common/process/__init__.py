"""Runs modules of this project in processes of their own: starts them clean, asks them, times them out, ends them.

If a library crashes, hangs or fills the memory, only its process is lost. Both ends are here. A request and its answer
are one line of JSON each, on standard input and on what was standard output.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.process.template import Imports, copied


class ProcessFailure(Exception):
    """A process that gave no answer, or an error. The message says how it ended, or the error."""

    def __init__(self, message: str, *, status: int | None = None, answer: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The exit status, if it ended by itself."""
        self.answer = answer or {}
        """What came with the error."""

    @property
    def traceback(self) -> str | None:
        """Of the exception in the process, if it told one."""
        return self.answer.get("traceback")

    @property
    def out_of_time(self) -> bool:
        return self.status is None and not self.answer


class Process:
    """A running `python -m MODULE ARGUMENT …`, in a session of its own: Ctrl-C reaches its parent, which ends it.

    With `imports`, it may be a copy of a process that has imported these; see `template`.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] = os.environ,
        imports: Imports | None = None,
    ) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        environment = {**environment, "PYTHONPATH": path}
        self.ending = threading.Lock()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        copy = copied(imports, module, arguments, environment, self.log) if imports else None
        self.process = copy or subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *ended: object) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, request: Any, timeout: float | None = None) -> Any:
        """Send a request and wait for its answer.

        Raises:
            ProcessFailure: the process ended, ran out of time and was ended, or answered with an error.
        """
        assert self.process.stdin
        assert self.process.stdout
        out_of_time = threading.Event()

        def end() -> None:
            out_of_time.set()
            self.process.kill()

        timer = threading.Timer(timeout or 0, end)
        if timeout:
            timer.start()
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        finally:
            timer.cancel()
        if not line:
            status = self.process.wait()
            if out_of_time.is_set():
                raise ProcessFailure(f"no answer within {timeout:.0f} s")
            raise ProcessFailure(self._ending(status), status=status)
        answer = json.loads(line)
        if "error" in answer:
            raise ProcessFailure(answer["error"], answer=answer)
        return answer

    def _ending(self, status: int) -> str:
        if status < 0:
            name = signal.Signals(-status).name
            return f"the process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()
        last = [line for line in lines if line.strip()][-1:]
        return f"the process ended with status {status}" + "".join(f": {line.strip()}" for line in last)

    def kill(self) -> None:
        """End the process, if it has not ended, and wait for it."""
        with self.ending:  # a Ctrl-C ends it in one thread, its own end in another, and a pipe is closed by one alone
            if self.alive:
                self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.log):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


def ask(
    module: str,
    request: Any,
    *,
    timeout: float,
    variables: Mapping[str, str] | None = None,
    imports: Imports | None = None,
) -> Any:
    """Start a process for one request, with extra variables in its environment.

    Raises:
        ProcessFailure: as for `Process.ask`.
    """
    with Process(module, environment={**os.environ, **(variables or {})}, imports=imports) as process:
        return process.ask(request, timeout)


# The other end


def answering() -> Callable[[Any], None]:
    """Keep standard output for answers, and return a function that gives one. Everything else that is printed goes to
    standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lambda answer: print(json.dumps(answer), file=answers, flush=True)


def requests() -> Iterator[Any]:
    """The requests, one after the other. When nobody can send any more, the process ends, even in the middle of a
    run."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def watch() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    return iter(lambda: json.loads(lines.get()), None)
