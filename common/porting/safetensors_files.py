"""safetensors: a header of JSON, then the tensors one behind the other."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.porting.source import Source, corrupt

LONGEST_HEADER = 100_000_000
"""As the format's own reader has it."""


def read_safetensors(path: Path, content: memoryview) -> Source:
    """Float32 tensors as views of the file; integers are kept too, which PyTorch counts batches in.

    The library reads a file with two entries of one name as if it had the last; here that is refused.

    Raises:
        TriptychError: the file is damaged, or its entries overlap, leave gaps, share a name or are of another dtype.
    """
    size = int.from_bytes(content[:8], "little")
    if size > min(LONGEST_HEADER, len(content) - 8):
        raise corrupt(path, f"its header promises {size:,} bytes, more than the file has")
    try:
        header = json.loads(bytes(content[8 : 8 + size]), object_pairs_hook=_without_duplicates)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in metadata.values()):
            raise TypeError
        entries = {name: _entry(entry) for name, entry in header.items()}
    except TriptychError as error:
        raise corrupt(path, str(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise corrupt(path, "its header is not that of safetensors") from None
    return Source(
        path,
        "safetensors",
        ("canonical", "torch", "torchvision"),
        _views(path, content[8 + size :], entries),
        metadata=metadata,
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise TriptychError(f"its header has two entries named {name!r}")
    return found


def _entry(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and 0 <= number < 2**48 for number in (*shape, begin, end)):
        raise TypeError
    return str(dtype), shape, begin, end


def _views(
    path: Path, data: memoryview, entries: dict[str, tuple[str, tuple[int, ...], int, int]]
) -> dict[str, np.ndarray]:
    expected = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != expected or end < begin:
            raise corrupt(path, f"its entry {name!r} does not begin where the one before it ends")
        expected = end
    if expected != len(data):
        raise corrupt(path, f"its entries take {expected:,} bytes, but the file has {len(data):,}")
    tensors = {}
    for name, (dtype, shape, begin, end) in entries.items():
        if dtype not in ("F32", "I64"):
            raise corrupt(path, f"{name} has dtype {dtype}, expected F32")
        kind = np.dtype("<f4" if dtype == "F32" else "<i8")
        if kind.itemsize * prod(shape) != end - begin:
            raise corrupt(path, f"{name} is said to be {shape} {dtype}, but has {end - begin:,} bytes")
        tensors[name] = np.frombuffer(data[begin:end], kind).reshape(shape)
    return tensors
