"""Processes that are copies of one that has imported: they are what a new process would be, and end as one would."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count

import psutil
import pytest

from common.process import Process, ProcessFailure, template
from common.process.template import Copy, Imports
from parity_tests.test_process import MODULE, ROOT, alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="templates are for Linux")

NUMBERS = count()
FEW = Imports(("fractions", "no_such_module"))


@pytest.fixture(autouse=True)
def no_templates(monkeypatch):
    """None is there yet, and those that a test starts end with it."""
    templates = {}
    monkeypatch.setattr(template, "_templates", templates)
    yield
    for started in templates.values():
        started.control.close()
        assert started.process.wait(timeout=60) == 0


@pytest.fixture
def environment():
    """One that no process had before."""
    return os.environ | {"PARITY_TEST": str(next(NUMBERS))}


@pytest.fixture(autouse=True)
def as_in_a_command(monkeypatch):
    monkeypatch.setattr(template, "ANEW", 1)


@pytest.fixture
def copy(environment):
    """Starts a copy."""

    def start(*arguments, imports=FEW):
        Process(MODULE, environment=environment, imports=imports).kill()  # the first of its kind
        process = Process(MODULE, *arguments, environment=environment, imports=imports)
        assert isinstance(process.process, Copy)
        return process

    return start


def test_the_first_of_a_kind_is_started_anew_and_the_others_are_copies(environment):
    def kind(imports=FEW, **changed):
        with Process(MODULE, environment=environment | changed, imports=imports) as process:
            process.ask("pid")
            return type(process.process)

    assert [kind() for _ in range(3)] == [subprocess.Popen, Copy, Copy]
    assert kind(OTHER="1") is subprocess.Popen  # a library may read it when it is imported
    assert kind(PYTEST_CURRENT_TEST="another") is Copy
    assert kind(replace(FEW, often=True), OTHER="2") is Copy  # it is known that others follow


def test_no_more_templates_than_there_may_be(environment, monkeypatch):
    monkeypatch.setattr(template, "MOST", 0)
    for _ in range(2):
        with Process(MODULE, environment=environment, imports=FEW) as process:
            assert isinstance(process.process, subprocess.Popen)


def test_where_there_are_as_many_as_there_may_be_the_one_not_used_for_longest_ends_after_its_copies(
    copy, environment, monkeypatch
):
    monkeypatch.setattr(template, "MOST", 2)
    others = [environment | {"PARITY_TEST": f"another {next(NUMBERS)}"} for _ in range(2)]
    with copy() as process:
        (first,) = template._templates.values()
        for other in others:
            with Process(MODULE, environment=other, imports=replace(FEW, often=True)) as another:
                assert isinstance(another.process, Copy)
        assert len(template._templates) == 2
        assert first not in template._templates.values()
        assert process.ask("x")["got"] == "x"
        assert alive(first.process.pid)
    assert first.process.wait(timeout=60) == 0
    second, third = template._templates.values()
    for other in (others[0], environment):  # the second is used once more, so that the third makes way
        with Process(MODULE, environment=other, imports=FEW) as another:
            assert isinstance(another.process, Copy)
    assert second in template._templates.values()
    assert third.process.wait(timeout=60) == 0
    assert first.process not in template._retired


def test_a_copy_is_what_a_new_process_would_be(copy, environment, tmp_path, monkeypatch):
    copy().kill()
    monkeypatch.chdir(tmp_path)
    with copy("an argument") as process, Process(MODULE, "an argument", environment=environment) as started:
        ours, theirs = process.ask("describe"), started.ask("describe")
    imported = ours.pop("modules"), theirs.pop("modules")
    assert "fractions" in imported[0]
    assert "fractions" not in imported[1]
    pids = ours.pop("pid"), theirs.pop("pid")
    assert ours.pop("session") == pids[0]
    assert theirs.pop("session") == pids[1]
    assert ours == theirs
    assert ours["folder"] == str(tmp_path)
    assert ours["arguments"] == ["an argument"]


def test_several_copies_at_a_time_know_nothing_of_each_other(copy):
    with copy() as one, copy() as other, copy() as third:
        assert one.ask("a")["got"] == "a"
        assert len({process.ask("pid")["pid"] for process in (one, other, third)}) == 3
        assert {len(process.ask("describe")["files"]) for process in (one, other, third)} == {
            len(one.ask("describe")["files"])
        }
        other.kill()
        assert not other.alive
        assert third.ask("b")["got"] == "b"
        assert one.alive


@pytest.mark.parametrize(
    ("request_", "words", "status"),
    [
        ("die", "the process was killed by SIGSEGV", -signal.SIGSEGV),
        ("leave", "the process ended with status 1: no more", 1),
        ("refuse", "I would rather not", None),
    ],
)
def test_how_it_ends(copy, request_, words, status):
    with copy() as process, pytest.raises(ProcessFailure, match=f"^{words}$") as caught:
        process.ask(request_)
    assert caught.value.status == status


def test_a_copy_is_called_after_what_it_does(copy):
    for arguments, name in (("keras-tensorflow",), "keras-tensorflo"), ((), "process_that_an"):
        with copy(*arguments) as process:
            pid = process.ask("pid")["pid"]
            assert psutil.Process(pid).name() == name


def test_the_processor_time_of_copies_is_known(copy):
    before = Copy.taken
    with copy() as process:
        process.ask("work")
    assert process.process.wait() == -signal.SIGKILL
    assert 0.2 <= Copy.taken - before < 10


def test_out_of_time(copy):
    with copy() as process:
        pid = process.ask("pid")["pid"]
        with pytest.raises(ProcessFailure, match=r"^no answer within 1 s$"):
            process.ask("sleep", timeout=1)
        assert not alive(pid)


def test_it_can_be_ended_before_it_was_asked_anything_and_by_several_threads(copy):
    process = copy()
    threads = [threading.Thread(target=process.kill) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.process.poll() == -signal.SIGKILL


def test_a_library_that_crashes_when_it_is_imported_is_told(copy, tmp_path, environment):
    (tmp_path / "crashing.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    environment["PYTHONPATH"] = str(tmp_path)
    words = r"^the process was killed by SIGSEGV$"
    with copy(imports=Imports(("crashing",))) as process, pytest.raises(ProcessFailure, match=words):
        process.ask("pid")
    template._templates.clear()


def test_a_template_that_was_ended_is_done_without(copy, environment):
    with copy():
        pass
    (ended,) = template._templates.values()
    ended.process.kill()
    ended.process.wait()
    with Process(MODULE, environment=environment, imports=FEW) as process:
        assert process.ask("x")["got"] == "x"
        assert isinstance(process.process, subprocess.Popen)
    template._templates.clear()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_copies_and_templates_end_with_their_parent(end):
    code = (
        "from common.process import Process; from common.process.template import Imports, _templates\n"
        f"start = lambda: Process({MODULE!r}, imports=Imports(('fractions',)))\n"
        "start().kill(); process = start(); (template,) = _templates.values()\n"
        "print(process.ask('pid')['pid'], template.process.pid, flush=True); process.ask('sleep')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert [alive(pid) for pid in pids] == [True, True]
    parent.send_signal(end)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)
