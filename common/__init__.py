"""What the three implementations share: specifications, names, weights, probes, proofs.

No framework is imported by importing anything in here, and NumPy only where arrays are handled.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "TriptychError": "common.errors",
    "get_spec": "common.specs",
    "list_architectures": "common.specs",
    "random_weights": "common.weights",
    "read_weights_file": "common.weights",
    "write_weights_file": "common.weights",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'common' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
