"""Runs that are interrupted, or whose backends are: they end, soon, and leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from textwrap import dedent

import pytest
from conftest import daily

from common import get_spec
from parity_tests.commands import ROOT, assert_gone, finish, run_here, started_by, triptych, wait_for_worker


def test_a_killed_backend_is_a_row_and_the_others_finish():
    names = ["torch", "keras-tensorflow", "onnx-torch"]
    process = triptych("parity", "lenet_caffe", "--probe=exact", "--json", *(f"--backend={name}" for name in names))
    killed = wait_for_worker(process, "keras-tensorflow")
    killed.send_signal(signal.SIGKILL)
    workers = started_by(process)
    code, out, _ = finish(process)
    assert code == 1
    (run,) = json.loads(out)["runs"]
    assert run["verdict"] == "incomplete"
    status = {row["backend"]: row["status"] for row in run["backends"]}
    assert status == dict.fromkeys(names, "ok") | {"keras-tensorflow": "crashed"}
    (row,) = [row for row in run["backends"] if row["status"] == "crashed"]
    assert "SIGKILL" in row["reason"]
    assert_gone(workers)


def test_a_backend_that_hangs_is_ended(tmp_path):
    process = triptych("parity", "lenet_caffe", "--probe", "exact", "--backend", "torch", "--timeout", 3, "--json")
    stopped = wait_for_worker(process, "torch")
    stopped.suspend()
    code, out, _ = finish(process)
    (row,) = json.loads(out)["runs"][0]["backends"]
    assert (code, row["status"], row["reason"]) == (1, "crashed", "no answer within 3 s")
    assert_gone([stopped])


@pytest.mark.parametrize("number", daily(signal.SIGINT, of=(signal.SIGINT, signal.SIGTERM, signal.SIGKILL)))
def test_an_interrupted_run_leaves_nothing_behind(number, tmp_path):
    options = ("--backend=torch", "--backend=tf1", "--backend=keras-jax")
    process = triptych("parity", "alexnet_bvlc", *options, env={**os.environ, "TMPDIR": str(tmp_path)})
    wait_for_worker(process, "torch")
    workers = started_by(process)
    process.send_signal(number)
    code, _, _ = finish(process, timeout=60)
    assert_gone(workers)
    if number != signal.SIGKILL:
        assert code == 130
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_backward_pass_of_a_killed_backend_is_a_row_and_the_next_probe_gets_a_new_process():
    process = triptych("parity", "lenet5", "--gradients", "--json", "--backend=torch", "--backend=tf1")
    killed = wait_for_worker(process, "tf1")
    killed.send_signal(signal.SIGKILL)
    code, out, _ = finish(process)
    exact, random = json.loads(out)["runs"]
    assert (code, exact["probe"], random["probe"]) == (1, "exact", "random")
    rows = [(row["backend"], row["status"], row["verdict"]) for run in (exact, random) for row in run["backends"]]
    assert rows == [
        ("torch", "ok", "identical"),
        ("tf1", "crashed", "incomplete"),
        ("torch", "ok", "certified"),
        ("tf1", "ok", "certified"),
    ]
    assert "SIGKILL" in exact["backends"][1]["reason"]
    rounding = [layer.name for layer in get_spec("lenet5").layers if layer.operation.kind in ("Sigmoid", "ScaledTanh")]
    assert list(exact["bounded"]) == rounding
    assert_gone([killed])


@pytest.mark.slow
def test_an_interrupted_backward_pass_leaves_nothing_behind(tmp_path):
    process = triptych("parity", "alexnet_bvlc", "--gradients", env={**os.environ, "TMPDIR": str(tmp_path)})
    wait_for_worker(process, "torch")
    workers = started_by(process)
    process.send_signal(signal.SIGINT)
    code, _, _ = finish(process, timeout=60)
    assert code == 130
    assert_gone(workers)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_trajectories_leave_nothing_behind_though_a_backend_hangs(tmp_path):
    command = ("parity", "lenet5", "--steps", 1000, "--backend=torch")
    process = triptych(*command, env={**os.environ, "TMPDIR": str(tmp_path)})
    stopped = wait_for_worker(process, "torch", module="common.trajectories.worker")
    stopped.suspend()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    code, _, _ = finish(process, timeout=60)
    assert code == 130
    assert_gone([stopped])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_nothing_is_run_twice(tmp_path):
    wanted = ("parity", "lenet_caffe", "lenet5", "--backend=torch", "--backend=tf1", "--jobs=1", "--report", tmp_path)
    process = triptych(*wanted)
    journal, deadline = tmp_path / "finished.jsonl", time.monotonic() + 120
    while not (journal.is_file() and len(journal.read_text().splitlines()) > 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process, timeout=60)
    assert code == 130
    assert "continue with --resume" in err
    with journal.open("a") as file:
        file.write('{"architecture": "lenet5", "pro')  # as a full disk would leave it
    before = {(e["architecture"], e["label"], e["result"]["backend"]): e["result"] for e in entries(journal)}
    assert 0 < len(before) < 12

    code, out, err = run_here(*wanted, "--resume", "--json")
    assert code == 0, err
    runs = json.loads(out)["runs"]
    rows = {(run["architecture"], run["probe"], row["backend"]): row for run in runs for row in run["backends"]}
    assert len(rows) == 12
    assert {row["status"] for row in rows.values()} == {"ok"}
    for pair, result in before.items():
        assert rows[pair]["timing"] == {name: round(seconds, 3) for name, seconds in result["timing"].items()}
        assert rows[pair]["layers"] == result["layers"]
    assert all(run["comparisons"] for run in runs)

    code, _, err = run_here(*wanted, "--resume", "--seed", 1)
    assert (code, "differs in its seed, 0 then and 1 now" in err) == (2, True)


def entries(journal):
    for line in journal.read_text().splitlines()[1:]:
        with suppress(ValueError):
            yield json.loads(line)


@pytest.mark.parametrize(
    "functions", [pytest.param(["start"], id="start"), pytest.param([], marks=pytest.mark.slow, id="all")]
)
def test_a_run_ends_wherever_it_is_interrupted(functions, tmp_path):
    """Also before its probes are there, for which its backends wait."""
    command = [sys.executable, "-m", "parity_tests.process_that_is_interrupted", *functions]
    found = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    ends = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(ends) > 10
    assert [(line, end, left) for line, end, left in ends if (end, left) != ("interrupted", [])] == []


DURING_AN_IMPORT = """
import os, signal, sys
from common.cli import main

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
module = sys.argv.pop()
main()
"""


@pytest.mark.parametrize("module", ["typer", "numpy._core"])
def test_a_command_is_interrupted_while_it_imports(module):
    """NumPy swallowed it, and was left without `ndarray`."""
    ended = python(DURING_AN_IMPORT, "parity", "lenet5", "--backend=torch", "--probe=exact", module)
    assert (ended.returncode, ended.stderr) == (130, "triptych: interrupted; nothing half-written is left\n")


def test_an_interrupt_waits_until_imports_have_ended(tmp_path):
    (tmp_path / "whole.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport idle\nend = 1\n")
    (tmp_path / "idle.py").write_text("import time\ntime.sleep(0.1)\n")
    code = """
        import sys, time
        from common.process.interrupts import interrupts

        with interrupts():
            try:
                import whole
                time.sleep(10)
            except KeyboardInterrupt:
                print(sys.modules["whole"].end)
    """
    assert python(code, cwd=tmp_path).stdout == "1\n"


@pytest.mark.parametrize(("times", "patience"), [(1, 1), (2, 100)])
def test_an_import_without_an_end_is_interrupted_after_a_while_or_when_asked_again(times, patience, tmp_path):
    interrupting = ["import os, signal, time", *["os.kill(os.getpid(), signal.SIGINT)"] * times, "time.sleep(100)"]
    (tmp_path / "endless.py").write_text("\n".join(interrupting))
    code = f"""
        from common.process import interrupts

        interrupts.PATIENCE = {patience}
        with interrupts.interrupts():
            try:
                import endless
            except KeyboardInterrupt:
                print("interrupted")
    """
    assert python(code, cwd=tmp_path).stdout == "interrupted\n"


def python(code, *arguments, cwd=ROOT):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # see `triptych`
    return subprocess.run(
        [sys.executable, "-c", dedent(code), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
