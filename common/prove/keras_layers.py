"""The outputs of a Keras model's layers, for each call, in the order of the calls, on any of its backends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

CLOSE = 1e-3
"""The largest difference of a layer's output from the value of the graph that it is matched to, relative to its largest
number.

It only serves for matching, since a graph's kernels may sum in another order. No verdict depends on it.
"""


@contextmanager
def recording() -> Iterator[dict[str, Any]]:
    """A context in which every call of a layer is recorded. `3:conv1` is the fourth call, a call of the layer conv1."""
    import keras

    calls: dict[str, Any] = {}
    original = keras.Layer.__call__
    number = 0

    def call(layer: Any, *args: Any, **options: Any) -> Any:
        nonlocal number
        made = original(layer, *args, **options)
        if keras.ops.is_tensor(made) and keras.backend.standardize_dtype(made.dtype) == "float32":
            calls[f"{number}:{layer.name} ({type(layer).__name__})"] = made
        number += 1
        return made

    keras.Layer.__call__ = call
    try:
        yield calls
    finally:
        keras.Layer.__call__ = original


def called_in_graph(layers: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Match each layer's output to a value of the graph, with the same bits or nearly, in order.

    Args:
        layers: the outputs of the layers, by call.
        values: the values of the graph, in the order of computation.
    """
    by_bits: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for name, value in values.items():
        by_bits.setdefault(_bits(value), []).append(name)
    found: dict[str, str] = {}
    taken: set[str] = set()
    for call, made in layers.items():
        candidates = by_bits.get(_bits(made)) or _nearest(made, values)
        free = [name for name in candidates if name not in taken]
        if free:
            found[call] = free[0]
            taken.add(free[0])
    return found


def _bits(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, hashlib.blake2b((array + np.float32(0)).tobytes(), digest_size=16).digest()


def _nearest(made: np.ndarray, values: Mapping[str, np.ndarray]) -> Sequence[str]:
    most = CLOSE * float(np.abs(made).max(initial=0))
    alike = [name for name, value in values.items() if value.shape == made.shape and value.dtype == made.dtype]
    distances = {name: float(np.abs(values[name] - made).max(initial=0)) for name in alike}
    least = min(distances.values(), default=np.inf)
    return [name for name, distance in distances.items() if distance == least <= most]


def layer_of(call: str) -> str:
    """The layer's own name and class: `conv1 (Conv2D)`."""
    return call.partition(":")[2]
