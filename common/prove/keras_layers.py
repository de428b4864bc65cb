"""The outputs of a Keras model's layers, for each call, in the order of the calls, on any of its backends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

CLOSE = 1e-3
"""How far, relative to its largest number, a layer's output may be from the value of the graph that it is taken for.

It only tells which is which, where a graph's kernels sum in another order than the layer's; no verdict hangs on it.
"""


@contextmanager
def recording() -> Iterator[dict[str, Any]]:
    """While it lasts, every call of a layer is entered: `3:conv1` is the fourth call, of the layer of that name."""
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
    """Which of a graph's values is what a layer made: the same bits, or nearly; each layer once, in order.

    Args:
        layers: what the layers made, by call.
        values: what the graph made, in the order of computation.
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
