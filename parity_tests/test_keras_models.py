"""A model that `keras_impl` builds goes on from its `input` and its `output`, on every backend that Keras has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


QUICK = ("lenet5", "lenet_caffe", "alexnet_mnist", "resnet18")


@pytest.mark.parametrize(
    ("backend", "names", "count"),
    [
        ("tensorflow", QUICK, 7),
        *(pytest.param(backend, (), 40, marks=pytest.mark.slow) for backend in ("tensorflow", "jax", "torch")),
    ],
)
def test_every_model_has_a_tensor_as_its_input_and_as_its_output(backend, names, count):
    """In a process of its own: Keras' backend is fixed at import."""
    pytest.importorskip(backend)
    process = subprocess.run(
        [sys.executable, "-m", "parity_tests.keras_models", *names],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"{count} models on {backend}\n"
