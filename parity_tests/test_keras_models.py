"""A model that `keras_impl` builds goes on from its `input` and its `output`, on every backend that Keras has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_model_has_a_tensor_as_its_input_and_as_its_output(backend):
    """In a process of its own: Keras' backend is fixed at import."""
    pytest.importorskip(backend)
    process = subprocess.run(
        [sys.executable, "-m", "parity_tests.keras_models"],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"40 models on {backend}\n"


def test_what_is_particular_to_jax():
    """XLA compiles the model as a whole, and by itself computes a value again where it is read: what is recorded is
    what the next layer was given all the same. JAX takes arrays as they are: what was loaded stays all the same."""
    pytest.importorskip("jax")
    process = subprocess.run(
        [sys.executable, "-m", "parity_tests.keras_on_jax"],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "XLA by itself: False",
        "compiled: [True, True]",
        "recorded: True True",
        "injected: True",
        "compiled without barriers: [False]",
        "recorded: True",
        "forgotten: True",
        "loaded: True",
    ]
