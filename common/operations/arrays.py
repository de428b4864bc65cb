"""NumPy, imported when it is first used, and the types of arrays and shapes.

`triptych list` asks operations for shapes alone, and must not wait for NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import prod
from types import EllipsisType
from typing import TYPE_CHECKING, TypeAlias

import lazy_loader

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_loader.load("numpy")

ELEMENTS_AT_ONCE = 1 << 16
"""How many numbers are computed with at once: few enough for intermediate results to stay in the processor's cache."""

Shape = tuple[int, ...]
Arrays: TypeAlias = "list[np.ndarray]"
Parameters: TypeAlias = "Mapping[str, np.ndarray]"
Place: TypeAlias = "tuple[slice | EllipsisType, ...]"
"""A place in an array: slices of its first axes, or an ellipsis for all of it."""


def places(shape: Shape) -> Iterator[Place]:
    """Blocks that cover an array of that shape, in its order, with `ELEMENTS_AT_ONCE` elements each at most."""
    if prod(shape) <= ELEMENTS_AT_ONCE:
        yield (...,)
        return
    axis = next(axis for axis in range(len(shape)) if prod(shape[axis + 1 :]) <= ELEMENTS_AT_ONCE)
    at_once = ELEMENTS_AT_ONCE // prod(shape[axis + 1 :])
    for before in product(*map(range, shape[:axis])):
        for first in range(0, shape[axis], at_once):
            yield *(slice(index, index + 1) for index in before), slice(first, first + at_once)


def part_of(array: np.ndarray, place: Place, axes: int) -> np.ndarray:
    """The part of an array that is broadcast to a place of an array with so many axes."""
    if place == (...,):
        return array
    own = (*place, *[slice(None)] * (axes - len(place)))[axes - array.ndim :]
    return array[tuple(part if size > 1 else slice(None) for part, size in zip(own, array.shape, strict=True))]


def shapes_of(arrays: Iterable[np.ndarray]) -> str:
    """For a message: `2×3×8×8 and 2×10`."""
    return " and ".join("×".join(map(str, array.shape)) or "a scalar" for array in arrays)
