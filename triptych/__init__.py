"""The classic convolutional networks in Keras, PyTorch and TensorFlow 1 style, and proofs that models are one function.

>>> import triptych
>>> weights = triptych.random_weights("lenet5")
>>> model = triptych.build("lenet5", framework="torch", weights=weights)
>>> triptych.parity("lenet5", backends=["torch"], probes=["exact"])["verdict"]
'identical'

Importing it imports no framework and no NumPy; what a name needs is imported when it is used first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.errors import TriptychError
    from common.prove.api import assert_same, prove
    from common.specs import get_spec, list_architectures
    from common.specs.seeded import random_weights
    from common.weights import read_weights_file, write_weights_file
    from triptych.networks import build, export, load, parity, port

_HOMES = {
    "TriptychError": "common.errors",
    "assert_same": "common.prove.api",
    "build": "triptych.networks",
    "export": "triptych.networks",
    "get_spec": "common.specs",
    "list_architectures": "common.specs",
    "load": "triptych.networks",
    "parity": "triptych.networks",
    "port": "triptych.networks",
    "prove": "common.prove.api",
    "random_weights": "common.specs.seeded",
    "read_weights_file": "common.weights",
    "write_weights_file": "common.weights",
}

__all__ = [
    "TriptychError",
    "assert_same",
    "build",
    "export",
    "get_spec",
    "list_architectures",
    "load",
    "parity",
    "port",
    "prove",
    "random_weights",
    "read_weights_file",
    "write_weights_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'triptych' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
