"""The files in which the processes of a proof hand arrays to each other: safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.errors import TriptychError


def write_arrays(arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write arrays of any layout, each with its own shape: `np.ascontiguousarray` would give a number an axis."""
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)


def named_outputs(names: Sequence[str], made: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """What a model returns, by the names of its graph's outputs.

    Raises:
        TriptychError: it is not as many arrays.
    """
    if len(made) != len(names):
        raise TriptychError(f"called as a whole it returns {len(made)} arrays, but its graph {len(names)}")
    return dict(zip(names, made, strict=True))


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. They stay in the file until they are read, and cannot be changed.

    So the values of a large model need not fit into memory: those that are not being judged can be dropped from it.
    The file begins with the size of its header, 8 bytes, little-endian; the header is JSON.
    """
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    whole = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            part = np.asarray(whole[start + begin : start + end])
            arrays[name] = part.view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


_TYPES = {
    "BOOL": "?",
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"{letter}{bits}": f"<{letter.lower()}{bits // 8}" for letter in "IU" for bits in (8, 16, 32, 64)},
}
"""NumPy's types, by the names in a safetensors file."""
