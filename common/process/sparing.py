"""Faster imports: half of the time of TensorFlow's and Keras's goes to libraries that no process of ours uses."""

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
"""For each importing module, the library that it is told is not installed; it works without. Other modules get the
library."""

KERAS = "keras.src.*"
"""Keras' own modules."""


class _Sparing(MetaPathFinder):
    """Finds nothing. It raises ImportError if a package imports a library that it is to be spared."""

    def __init__(self, importers: str) -> None:
        self.importers = importers

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in SPARED.values():
            importer = _importer()
            spared = [library for modules, library in SPARED.items() if fnmatch(importer, modules)]
            if fullname in spared and fnmatch(importer, self.importers):
                raise ModuleNotFoundError(f"{importer} is spared {fullname} in this process", name=fullname)
        return None


def _importer() -> str:
    """The module whose import statement is running."""
    frame = sys._getframe(2)
    while frame.f_back and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def spare_imports(importers: str = "*") -> None:
    """Make imports of TensorFlow and Keras faster from now on. Only for processes of this project, never for a user's
    own.

    Args:
        importers: the importing modules that are spared. Where a user's model is loaded, only `KERAS` is.
    """
    if not any(isinstance(finder, _Sparing) and finder.importers in ("*", importers) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Sparing(importers))
