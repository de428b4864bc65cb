"""The implementations of the networks, by the names of their frameworks. Each is imported only where it is used.

`contract` says what each must offer.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from common.errors import TriptychError


@dataclass(frozen=True)
class Framework:
    """One implementation of the networks."""

    name: str
    """Its name on the command line, and the name of the extra that installs it."""
    title: str
    package: str
    """The package in which the networks are written."""
    module: str
    """The module that must be installed for it."""


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework("torch", "PyTorch", "torch_impl", "torch"),
        Framework("keras", "Keras", "keras_impl", "keras"),
        Framework("tf1", "TF1 style", "tf1_style_impl", "tensorflow"),
    )
}


def import_implementation(framework: str) -> ModuleType:
    """Import the package of networks for `torch`, `keras` or `tf1`, without TensorFlow's messages.

    Keras runs on TensorFlow, unless KERAS_BACKEND says otherwise.

    Raises:
        TriptychError: there is no such framework.
    """
    if framework not in FRAMEWORKS:
        raise TriptychError(f"there is no framework {framework!r}; known are {', '.join(FRAMEWORKS)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if framework == "keras":
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with standard_error_kept_unless_it_fails():
        return importlib.import_module(FRAMEWORKS[framework].package)


@contextmanager
def standard_error_kept_unless_it_fails() -> Iterator[None]:
    """Hold back standard error, also that of C++, which ignores log levels while it is loaded."""
    import tempfile

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
