"""Keras' own initialisation, left out where it would be overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from common.operations import Shape


@contextmanager
def uninitialised() -> Iterator[None]:
    """Models that are built in here hold zeros where Keras draws numbers: for whoever loads weights next.

    On JAX each shape that is drawn has a program compiled for it, which takes GoogLeNet half a minute.
    """
    import keras
    from keras.src.initializers import random_initializers
    from keras.src.initializers.random_initializers import RandomInitializer

    def zeros(self: RandomInitializer, shape: Shape, dtype: str | None = None) -> np.ndarray:
        return np.zeros(shape, dtype or keras.config.floatx())

    found = (kind for kind in vars(random_initializers).values() if isinstance(kind, type))
    kinds = [kind for kind in found if issubclass(kind, RandomInitializer) and "__call__" in vars(kind)]
    drawing = [kind.__call__ for kind in kinds]
    for kind in kinds:
        kind.__call__ = zeros  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, own in zip(kinds, drawing, strict=True):
            kind.__call__ = own  # type: ignore[method-assign]
