"""Every network in the backends, and on the device, that the command line of pytest names; see conftest.py.

    pytest parity_tests --device cuda --backend torch --backend onnx-keras -k resnet

Each is proved as `triptych parity` proves it, at its full size, in a process for each backend.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common import TriptychError
from common.parity.backends import Hardware, require
from common.parity.environment import gpu

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report(network: str, request: pytest.FixtureRequest) -> subprocess.CompletedProcess:
    """What `triptych parity` says of a network in all the backends that were asked for: they run side by side."""
    device = request.config.getoption("device") or "cpu"
    try:
        require(Hardware(device))
    except TriptychError as error:
        pytest.skip(str(error))
    options = [f"--device={device}", *(f"--backend={name}" for name in request.config.getoption("backend") or ())]
    command = [sys.executable, "-m", "common.cli", "parity", network, "--json", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_network_is_proved(network: str, backend: str, report: subprocess.CompletedProcess) -> None:
    assert report.stdout, report.stderr
    runs = json.loads(report.stdout)["runs"]
    rows = {run["probe"]: row for run in runs for row in run["backends"] if row["backend"] == backend}
    reasons = {row["reason"] for row in rows.values() if row["status"] == "skipped"}
    if reasons:
        pytest.skip("; ".join(sorted(reasons)))
    for probe, row in rows.items():
        assert (row["status"], row["reason"], row["likely_cause"]) == ("ok", None, None), probe
    verdicts = {run["probe"]: run["verdict"] for run in runs}
    assert verdicts["exact"] == "identical"
    assert set(verdicts.values()) <= {"identical", "certified"}


@pytest.mark.parametrize(
    ("options", "outcome", "words"),
    [
        (["--backend", "torch", "-k", "lenet_caffe"], "1 passed", ""),
        (["--backend", "tensorflow"], "", "there is no backend 'tensorflow'; did you mean keras-tensorflow"),
        (["--device", "cuda", "--backend", "torch", "-k", "lenet_caffe", "-rs"], "1 skipped", "there is no NVIDIA GPU"),
    ],
)
def test_the_command_line_chooses(options, outcome, words):
    if "cuda" in options and gpu():
        outcome, words = "1 passed", ""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome in run.stdout
    assert words in run.stdout + run.stderr
