"""Processes of our own modules: what they print, how they end, and that they end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.process import Process, ProcessFailure, ask

ROOT = Path(__file__).parents[1]
MODULE = "parity_tests.process_that_answers"


def alive(pid):
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2] if Path("/proc").is_dir() else ""
    except (ProcessLookupError, FileNotFoundError):  # it may end between the two
        return False
    return "Z" not in state


def test_only_answers_are_read():
    """Not what is printed on standard output, by Python or by anybody else; several times, in any alphabet."""
    with Process(MODULE) as process:
        first, second = process.ask(["ÿ", 1]), process.ask({"a": None})
    assert (first["got"], second["got"]) == (["ÿ", 1], {"a": None})
    assert first["pid"] == second["pid"]
    assert not process.alive
    assert not alive(first["pid"])


@pytest.mark.parametrize(
    ("request_", "words", "status"),
    [
        ("die", "the process was killed by SIGSEGV", -signal.SIGSEGV),
        ("leave", "the process ended with status 1: no more", 1),
        ("refuse", "I would rather not", None),
    ],
)
def test_how_it_ends(request_, words, status):
    with pytest.raises(ProcessFailure, match=f"^{words}$") as caught:
        ask(MODULE, request_, timeout=60)
    assert caught.value.status == status
    assert caught.value.answer.get("reason") == (7 if request_ == "refuse" else None)
    assert not caught.value.out_of_time


def test_out_of_time():
    with Process(MODULE) as process:
        pid = process.ask("pid")["pid"]
        with pytest.raises(ProcessFailure, match=r"^no answer within 1 s$") as caught:
            process.ask("sleep", timeout=1)
        assert caught.value.out_of_time
        assert not alive(pid)


def test_a_module_that_is_not_there():
    with pytest.raises(ProcessFailure, match=r"ended with status 1: .*No module named common\.nothing"):
        ask("common.nothing", {}, timeout=60)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_its_parent(end):
    """In the middle of what it does, however the parent ends."""
    code = (
        "from common.process import Process; "
        f"process = Process({MODULE!r}); print(process.ask('pid')['pid'], flush=True); process.ask('sleep')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(end)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_threads_that_end_a_process_at_once_do_not_meet(monkeypatch):
    """As Ctrl-C's does, and the one that its end wakes up."""
    process = Process("parity_tests.process_that_answers")
    inside, most, close = [], [], process.process.stdin.close

    def closing():
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        close()

    monkeypatch.setattr(process.process.stdin, "close", closing, raising=False)
    threads = [threading.Thread(target=process.kill) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert not process.alive
