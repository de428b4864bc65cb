"""NumPy, imported when it is first used, and the types of arrays and shapes.

`triptych list` asks operations for shapes alone, and must not wait for NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import lazy_loader

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_loader.load("numpy")

ELEMENTS_AT_ONCE = 1 << 15
"""How many numbers are computed with at once: few enough for what comes of them to stay in the processor's cache."""

Shape = tuple[int, ...]
Arrays: TypeAlias = "list[np.ndarray]"
Parameters: TypeAlias = "Mapping[str, np.ndarray]"


def shapes_of(arrays: Iterable[np.ndarray]) -> str:
    """For a message: `2×3×8×8 and 2×10`."""
    return " and ".join("×".join(map(str, array.shape)) or "a scalar" for array in arrays)
