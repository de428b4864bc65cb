"""The three implementations by the names of their frameworks, each imported only where it is used."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from common.errors import TriptychError

PACKAGES = {"torch": "torch_impl", "keras": "keras_impl", "tf1": "tf1_style_impl"}
"""The package of each implementation."""

MODULES = {"torch": "torch", "keras": "keras", "tf1": "tensorflow"}
"""What has to be installed for it."""


def import_implementation(framework: str) -> ModuleType:
    """The package that implements the networks in `torch`, `keras` or `tf1`, without what TensorFlow says meanwhile.

    Keras is on TensorFlow, unless KERAS_BACKEND says otherwise.

    Raises:
        TriptychError: there is no such framework.
    """
    if framework not in PACKAGES:
        raise TriptychError(f"there is no framework {framework!r}; known are {', '.join(PACKAGES)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if framework == "keras":
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with standard_error_kept_unless_it_fails():
        return importlib.import_module(PACKAGES[framework])


@contextmanager
def standard_error_kept_unless_it_fails() -> Iterator[None]:
    """Hold back what is written to standard error, by C++ too, which heeds no log level while it is being loaded."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        terminal = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
