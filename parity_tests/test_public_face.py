"""`import triptych`, and the distribution that brings it."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import load_implementation

import triptych

ROOT = Path(__file__).parents[1]
HEAVY = ("numpy", "torch", "keras", "tensorflow", "jax", "onnx", "onnxruntime", "rich", "typer")


def test_importing_it_is_light():
    code = f"import sys, triptych; dir(triptych); sys.exit(str([name for name in {HEAVY} if name in sys.modules]))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.stderr == "[]\n"


@pytest.mark.parametrize("name", triptych.__all__)
def test_every_name_is_there(name):
    assert getattr(triptych, name).__name__ == name
    assert getattr(triptych, name).__doc__


def test_no_other_name_is_there():
    with pytest.raises(AttributeError, match="module 'triptych' has no attribute 'prot'"):
        _ = triptych.prot


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: triptych.build("lenet"), "did you mean lenet"),
        (lambda: triptych.build("lenet5", "caffe"), "there is no framework 'caffe'; known are torch, keras, tf1"),
        (lambda: triptych.build("lenet_caffe", weights={}), "conv1/weight is missing"),
        (lambda: triptych.load("nowhere.npy"), "there is no file nowhere.npy"),
        (lambda: triptych.export("lenet5", "nowhere/a.onnx", "caffe"), "there is no framework 'caffe'"),
        (lambda: triptych.port("nowhere.npy", "a.pth", "torch"), "there is no file nowhere.npy"),
        (lambda: triptych.parity("lenex*"), "no architecture matches 'lenex"),
        (lambda: triptych.parity("lenet5", backends=["tensorflow"]), "did you mean keras-tensorflow"),
        (lambda: triptych.parity("lenet*", weights=Path("a")), r"`weights='a'` belongs to one network"),
        (lambda: triptych.parity("lenet5", gradients=True, device="webgpu"), "leave out `gradients` or `device`"),
    ],
)
def test_a_mistake_is_one_sentence_about_arguments(call, words):
    load_implementation("torch_impl")
    with pytest.raises(triptych.TriptychError, match=words) as caught:
        call()
    assert "--" not in str(caught.value)


def test_weights_go_round(tmp_path):
    """Built, exported, ported and loaded: what was put in comes out."""
    load_implementation("torch_impl")
    import torch_impl

    weights = triptych.random_weights("lenet_caffe", seed=3)
    read = torch_impl.read_weights(triptych.build("lenet_caffe", weights=weights))
    triptych.write_weights_file(tmp_path / "a.safetensors", read)
    triptych.export("lenet_caffe", tmp_path / "a.onnx", weights=tmp_path / "a.safetensors", batch=1)
    report = triptych.port(tmp_path / "a.onnx", tmp_path / "a.pth", "torch", verify=False)
    assert (report.architecture, report.proof) == ("lenet_caffe", None)
    network = triptych.load(tmp_path / "a.pth")
    assert network.spec.name == "lenet_caffe"
    assert all(np.array_equal(network.weights[name], array) for name, array in weights.items())
    assert network.weights.keys() == weights.keys()


@pytest.mark.slow
def test_parity_is_a_report():
    load_implementation("torch_impl")
    report = triptych.parity("lenet_caffe", backends=["torch"], probes=["exact"])
    assert report["verdict"] == "identical"
    assert doctest.testmod(triptych).failed == 0
    assert [(run["architecture"], run["probe"], len(run["backends"])) for run in report["runs"]] == [
        ("lenet_caffe", "exact", 1)
    ]


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    """Built without a network from a copy, installed into an empty folder, run far away from both."""
    import shutil

    load_implementation("torch_impl")
    source, site, home = (tmp_path / name for name in ("source", "site", "home"))
    home.mkdir()
    left_out = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, source, ignore=left_out)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    for command in (["wheel", *options, "-w", tmp_path, source], ["install", *options, "--target", site]):
        wheel = [next(tmp_path.glob("triptych-*.whl"))] if command[0] == "install" else []
        done = subprocess.run([*pip, *command, *wheel], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(source)

    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(site)}

    def python(*arguments):
        command = [sys.executable, "-P", *map(str, arguments)]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import triptych, common, torch_impl.alexnet as a; print(triptych.__file__, common.__file__, a.__file__)"
    assert all(path.startswith(str(site)) for path in python("-c", where).split())
    assert "lenet_caffe" in python("-m", "common.cli", "list")
    shown = python("-m", "common.cli", "parity", "lenet_caffe", "--backend", "torch", "--probe", "exact")
    assert "The exact probe is as published." in shown
    assert (site / "bin" / "triptych").is_file()
    assert "index.html" in python("-m", "common.cli", "explore", "--out", "pages")
    python("-m", "common.cli", "export", "lenet_caffe", "--framework", "torch", "--out", "a.onnx")
    python("-m", "common.cli", "port", "a.onnx", "--to", "safetensors", "--out", "a.safetensors", "--no-verify")
    assert not list(site.glob("**/.git"))
