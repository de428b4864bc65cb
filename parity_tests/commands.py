"""`triptych` as a user meets it: in a process of its own, or in that of the test.

A process of its own is for what only a process can show: signals, its end, a changed copy of the project. It imports
its frameworks anew, and so do its workers. The test's own process copies its workers from templates.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil
import pytest
from typer.main import get_command

from common.cli import commands, main

ROOT = Path(__file__).parents[1]

TEMPLATE = "common.process.template"
"""The module of the processes that workers are copied from."""

Done = tuple[int, str, str]
"""Exit status, standard output and standard error of a command that has ended."""


def triptych(*arguments, cwd=ROOT, **options) -> subprocess.Popen[str]:
    """The command with these arguments, started in a process of its own."""
    # A shell starts its background jobs with Ctrl-C ignored, and every process inherits that: not the ones under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "common.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options
    )


def finish(process, timeout=300) -> Done:
    """Wait for its end. No user gets to see a traceback."""
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def started_by(process):
    """Its workers, the templates that these are copied from, and all that they have started."""
    return psutil.Process(process.pid).children(recursive=True)


def is_worker(child, backend, module):
    """Whether it runs a backend. A copy has the command line of its template, and the name of its backend."""
    try:
        started = module in child.cmdline() and backend in child.cmdline()
        return started or (TEMPLATE in child.cmdline() and child.name() == backend[:15])
    except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended after it was listed
        return False


def wait_for_worker(process, backend, timeout=120, module="common.parity.worker"):
    """The worker process of a backend, once it runs."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for child in started_by(process):
            if is_worker(child, backend, module):
                return child
        time.sleep(0.05)
    raise AssertionError(f"no worker of {backend} appeared")


def assert_gone(workers, timeout=10):
    """They have ended, or end soon."""
    _, alive = psutil.wait_procs(workers, timeout=timeout)
    assert not alive


def run_here(*arguments) -> Done:
    """The command in this process, where there is no terminal."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = run(patch, *arguments)
    for stream in (out, err):
        stream.seek(0)
    said = out.read(), err.read()
    assert "Traceback" not in said[1], said[1]
    return code, *said


def run(monkeypatch, *arguments) -> int:
    """The status with which the command ends in this process, until whose end `sys.argv` stays what it was given."""
    monkeypatch.setattr(sys, "argv", ["triptych", *map(str, arguments)])
    monkeypatch.setattr(commands, "app", _command())
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


@cache
def _command():
    """What Typer makes of the application anew each time, which takes longer than many a command."""
    return get_command(commands.app)
