"""Faster imports. TensorFlow and Keras import libraries that no process of ours uses: half of their import's time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SPARED = {
    "keras.src.wrappers.*": "sklearn",
    "keras.src.visualization.*": "matplotlib",
    "keras.src.callbacks.*": "jax",
    "tensorflow.lite.*": "jax",
    "tensorflow": "keras",
}
"""By the modules that ask, what it is told is not installed, and does without. Whoever else asks gets the library."""


class _Sparing(MetaPathFinder):
    """Finds nothing. It raises where a package asks for what it is to be spared."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in SPARED.values():
            importer = _importer()
            if any(fnmatch(importer, modules) and fullname == SPARED[modules] for modules in SPARED):
                raise ModuleNotFoundError(f"{importer} is spared {fullname} in this process", name=fullname)
        return None


def _importer() -> str:
    """The module whose import statement is being carried out."""
    frame = sys._getframe(2)
    while frame.f_back and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def spare_imports() -> None:
    """Import TensorFlow and Keras faster from now on. For processes of our own: never for one that a user works in."""
    if not any(isinstance(finder, _Sparing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Sparing())
