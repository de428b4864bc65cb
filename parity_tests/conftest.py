"""Fixtures shared by the suite. Frameworks are imported by the tests that use them, so that collecting is quick."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

IMPLEMENTATIONS = ("torch_impl", "keras_impl", "tf1_style_impl")


def load_implementation(name: str) -> ModuleType:
    """Import one of the three packages. PyTorch goes first: loaded after TensorFlow it can crash."""
    pytest.importorskip("torch")
    return importlib.import_module(name)


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def implementation(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the three packages in turn."""
    return load_implementation(request.param)
