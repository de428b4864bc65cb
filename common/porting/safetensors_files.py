"""safetensors: a header of JSON, then the tensors one after the other."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Damaged, TriptychError
from common.porting.source import Source, corrupt, itemsize, numbers, told_of, unsupported

DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bf16",
    "F64": "<f8",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}

LONGEST_HEADER = 100_000_000
"""As the format's own reader has it."""


def read_safetensors(path: Path, content: memoryview) -> Source:
    """Tensors as views of the file, those of bfloat16 widened; integers too, which PyTorch counts batches in.

    The library reads a file with two entries of one name as if it had the last, which is refused here; and it does not
    read bfloat16 with NumPy.

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
        raise told_of(path, error) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise corrupt(path, "its header is not that of safetensors") from None
    return Source(
        path,
        "safetensors",
        ("canonical", "torch", "torchvision", "torchvision before 0.1.8", "transformers", "timm"),
        _views(path, content[8 + size :], entries),
        metadata=metadata,
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise Damaged(f"its header has two entries named {name!r}")
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
        if dtype not in DTYPES:
            raise unsupported(path, f"{name} has dtype {dtype}, which is not read here; save it as F32")
        if itemsize(DTYPES[dtype]) * prod(shape) != end - begin:
            raise corrupt(path, f"{name} is said to be {shape} {dtype}, but has {end - begin:,} bytes")
        if len(shape) > 8:
            raise unsupported(path, f"{name} has {len(shape)} axes")
        tensors[name] = numbers(data[begin:end], DTYPES[dtype], shape)
    return tensors
