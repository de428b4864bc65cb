"""docs/add_a_backend.md, followed: NumPy becomes a framework, in a copy of the project, and is proved."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import IMPLEMENTATIONS, load_implementation

from common.implementations import contract

ROOT = Path(__file__).parents[1]


def offered(protocol):
    return {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_the_contract_is_kept(package):
    """As far as running it tells; a type checker tells the rest."""
    module = load_implementation(package)
    for protocol, home in (
        (contract.Implementation, module),
        (contract.Backend, importlib.import_module(f"{package}.backend")),
        (contract.Gradients, importlib.import_module(f"{package}.gradients")),
    ):
        assert {name for name in offered(protocol) if not hasattr(home, name)} == set()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with the package and the one entry that the page asks for."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "common", folder / "common", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "parity_tests" / "data" / "numpy_impl", folder / "numpy_impl")
    backends = folder / "common" / "parity" / "backends.py"
    entry = '        Backend("tf1", "tf1_style_impl", ("tensorflow",), "tf1", environment=_keras("tensorflow")),\n'
    text = backends.read_text(encoding="utf-8")
    assert text.count(entry) == 1
    new = '        Backend("numpy", "numpy_impl", ("numpy",), "numpy"),\n'
    backends.write_text(text.replace(entry, entry + new), encoding="utf-8")
    return folder


def parity(folder, *options):
    command = [sys.executable, "-m", "common.cli", "parity", "lenet_caffe", "--backend", "numpy", "--json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_toy_offers_what_the_page_asks_for():
    text = (ROOT / "parity_tests" / "data" / "numpy_impl" / "backend.py").read_text(encoding="utf-8")
    defined = set(re.findall(r"^(?:def )?(\w+)(?:\(| = )", text, re.MULTILINE))
    assert offered(contract.Backend) - defined == set()


def test_it_is_proved(copy):
    code, report = parity(copy, "--probe=exact", "--probe=random", "--probe=deployed")
    rows = {run["probe"]: run["backends"][0] for run in report["runs"]}
    assert (code, report["verdict"]) == (0, "certified")
    assert (rows["exact"]["verdict"], rows["random"]["verdict"]) == ("identical", "certified")
    assert rows["deployed"]["status"] == "ok"
    assert len(rows["exact"]["layers"]) == 10
    assert report["runs"][0]["published"] is True


def test_its_mistakes_are_found(copy):
    """A kernel that is a thousandth too large."""
    model = copy / "numpy_impl" / "lenet.py"
    right = model.read_text(encoding="utf-8")
    model.write_text(right.replace('w["fc1/weight"].T', 'w["fc1/weight"].T * np.float32(1.001)'), encoding="utf-8")
    try:
        code, report = parity(copy, "--probe=random")
    finally:
        model.write_text(right, encoding="utf-8")
    (row,) = report["runs"][0]["backends"]
    assert (code, row["status"], row["first_divergence"]) == (1, "diverged", "fc1")
