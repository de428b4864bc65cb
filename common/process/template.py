"""Processes that are copies of one that has already imported its frameworks. An import takes 2 to 4 s, a copy 20 ms.

A template is a process that imports, then waits, and forks itself for every process that is wanted. It runs nothing of
a framework, so there are no threads and no state to go wrong: a copy is what a new process with the same environment
is after the same imports. Templates are for Linux, and for the CPU. The first process of a kind is started anew, since
a command that needs one of them gains nothing, unless more are known to follow.

Both ends are here. One JSON message over a socket asks for a copy, and passes on its standard input, output and error
and a pipe, which gets the copy's process number, its exit status and the processor time that it took, a line each. A
template ends with its parent.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, ClassVar, TypeAlias

from common.process.sparing import spare_imports

MOST = 8
"""How many templates a process has at most, those used last. Each holds 0.2 to 0.6 GB, which its copies share."""

ANEW = 1
"""How many processes of a kind are started anew, before there is a template."""

_PASSING = {"PYTEST_CURRENT_TEST"}
"""Variables that no import reads, and that change all the time."""


@dataclass(frozen=True)
class Imports:
    """What a process imports first."""

    modules: tuple[str, ...]
    spared: str = ""
    """The importing modules that do without the libraries that no process of ours uses; see `spare_imports`."""
    often: bool = field(default=False, compare=False)
    """Whether it is known that more than one process is wanted: then the first is a copy too."""


class Copy:
    """A copied process. It has what `subprocess.Popen` has of a started one."""

    taken: ClassVar[float] = 0.0
    """Seconds of processor time that the copies that have ended took."""

    def __init__(self, template: subprocess.Popen[bytes], news: int, stdin: IO[str], stdout: IO[str]) -> None:
        self.template, self.stdin, self.stdout = template, stdin, stdout
        self._news: int | None = news
        self._told = b""
        self._reading = threading.Lock()

    def _read(self, timeout: float | None) -> None:
        """Read what the template has to say, if it says something in time (seconds; None: wait for it)."""
        with self._reading, selectors.DefaultSelector() as said:
            if self._news is None:
                return
            said.register(self._news, selectors.EVENT_READ)
            if said.select(timeout):
                told = os.read(self._news, 100)
                self._told += told
                if not told:
                    os.close(self._news)
                    self._news = None
                    Copy.taken += sum(int(spent) / 1000 for spent in self._told.split()[2:])

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        self._read(0)
        if self._news is not None:
            return None
        told = self._told.split()
        # A template that crashed had a library that crashes when it is imported.
        return int(told[1]) if len(told) == 3 else self.template.wait() or -signal.SIGKILL

    def wait(self) -> int:
        """Wait for its end; the exit status."""
        while (status := self.poll()) is None:
            time.sleep(0.002)
        return status

    def kill(self) -> None:
        """End it, if it has not ended."""
        while self._news is not None and b"\n" not in self._told:
            self._read(None)
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(int(self._told.split()[0]), signal.SIGKILL)


class _Template:
    """The parent's end of a template."""

    def __init__(self, imports: Imports, environment: Mapping[str, str]) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "common.process.template", imports.spared, *imports.modules],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    def copy(self, module: str, arguments: Sequence[str], log: IO[bytes]) -> Copy:
        """A copy that runs a module.

        Raises:
            OSError: the template has ended.
        """
        (stdin, to_stdin), (from_stdout, stdout), (news, tells) = os.pipe(), os.pipe(), os.pipe()
        asked = {"run": [module, *arguments], "in": os.getcwd()}
        try:
            socket.send_fds(self.control, [json.dumps(asked).encode()], [stdin, stdout, log.fileno(), tells])
        except OSError:
            for pipe in (to_stdin, from_stdout, news):
                os.close(pipe)
            raise
        finally:
            for pipe in (stdin, stdout, tells):
                os.close(pipe)
        text = partial(os.fdopen, encoding="utf-8")
        return Copy(self.process, news, text(to_stdin, "w"), text(from_stdout, "r"))

    def retire(self) -> None:
        """Have it end, when its copies have."""
        self.control.close()
        _retired[:] = [process for process in (*_retired, self.process) if process.poll() is None]


_Kind: TypeAlias = tuple[Imports, frozenset[tuple[str, str]]]

_asked: Counter[_Kind] = Counter()
_templates: dict[_Kind, _Template] = {}
"""In the order in which they were used last."""
_retired: list[subprocess.Popen[bytes]] = []
"""Those that have made way, and have perhaps not ended yet."""
_starting = threading.Lock()


def copied(
    imports: Imports, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> Copy | None:
    """A process that runs a module as `python -m` does; None if it is to be started anew.

    Args:
        imports: what it imports first.
        module: its name.
        arguments: of its command line.
        environment: all variables. A template has exactly these, since libraries read them when they are imported.
        log: the file for its standard error.
    """
    if sys.platform != "linux":  # macOS' own libraries do not survive a fork, Windows has none
        return None
    kind = imports, frozenset(item for item in environment.items() if item[0] not in _PASSING)
    with _starting:
        _asked[kind] += 1
        template = _templates.pop(kind, None)
        if not template and MOST and (imports.often or _asked[kind] > ANEW):
            if len(_templates) >= MOST:
                _templates.pop(next(iter(_templates))).retire()
            template = _Template(imports, environment)
        if template:
            _templates[kind] = template
    try:
        return template.copy(module, arguments, log) if template else None
    except OSError:
        return None


# The other end


def _import_all(spared: str, modules: Sequence[str]) -> None:
    if spared:
        spare_imports(spared)
    gc.disable()  # what is imported stays: looking for garbage takes a fifth of the time
    for module in modules:
        with suppress(Exception):  # whoever uses it will see why it cannot be imported
            importlib.import_module(module)
    gc.freeze()  # else the copies' first collection would write to, and so copy, all pages
    gc.enable()


def _copies() -> list[str]:
    """Fork for every request. Returns in each copy, with the module that it is to run and its arguments."""
    control = socket.socket(fileno=os.dup(0))
    with selectors.DefaultSelector() as waiting:
        waiting.register(control, selectors.EVENT_READ)
        while waiting.get_map():  # until its parent and its copies have ended
            for event, _ in waiting.select():
                if event.data:
                    pid, tells = event.data
                    waiting.unregister(event.fd)
                    os.close(event.fd)
                    _, status, took = os.wait4(pid, 0)
                    _tell(tells, os.waitstatus_to_exitcode(status), round(1000 * (took.ru_utime + took.ru_stime)))
                    os.close(tells)
                    continue
                message, passed, _, _ = socket.recv_fds(control, 1 << 16, 4)
                if not message:
                    waiting.unregister(control)
                    continue
                asked = json.loads(message)
                with warnings.catch_warnings(action="ignore"):  # of forks beside threads: OpenBLAS' own expect them
                    pid = os.fork()
                if not pid:
                    os.setsid()
                    os.chdir(asked["in"])
                    if not sys.flags.safe_path:
                        sys.path[0] = asked["in"]
                    for number, file in enumerate(passed[:3]):
                        os.dup2(file, number)
                    others = [end for key in waiting.get_map().values() if key.data for end in (key.fd, key.data[1])]
                    for file in (*passed, *others):
                        os.close(file)
                    control.close()
                    run: list[str] = asked["run"]
                    _take_name(run)
                    return run
                _tell(passed[3], pid)
                for file in passed[:3]:
                    os.close(file)
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, passed[3]))
    raise SystemExit


def _take_name(run: Sequence[str]) -> None:
    """Be called after what it does in `top` and `ps -o comm`: the command line is still the template's."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(run[1] if len(run) > 1 else run[0].rpartition(".")[2])


def _tell(tells: int, *numbers: int) -> None:
    with suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(tells, b"".join(b"%d\n" % number for number in numbers))


def main() -> None:
    """Import, wait, and be copied."""
    _import_all(sys.argv[1], sys.argv[2:])
    sys.argv = _copies()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
