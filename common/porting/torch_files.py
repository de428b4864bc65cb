"""PyTorch state dicts, as the zip archives of today and as the bare pickles of before 1.6.

`torch.load(weights_only=True)` calls a few dozen functions on a pickle's behalf, `bytearray(10**12)` among them. Here
the pickle is read by `PickleMachine`, which calls none, so that neither PyTorch nor trust is needed; a test proves that
what comes out is what `torch.load(weights_only=True)` gives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.porting.archives import Archive
from common.porting.pickles import Call, Persistent, PickleMachine, Symbol, key_of
from common.porting.source import Source, corrupt

DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
OTHER_STORAGES = ("DoubleStorage", "HalfStorage", "BFloat16Storage", "IntStorage", "ShortStorage", "CharStorage",
                  "ByteStorage", "BoolStorage")  # fmt: skip
ORDERED_DICT = Symbol("collections", "OrderedDict")
REBUILD = frozenset(Symbol("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2"))
PARAMETER = Symbol("torch._utils", "_rebuild_parameter")
SYMBOLS = REBUILD | {ORDERED_DICT, PARAMETER} | {Symbol("torch", name) for name in (*DTYPES, *OTHER_STORAGES)}

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the bare pickles of PyTorch before 1.6 begin with."""

METADATA = "triptych"
"""The key under which our own files keep metadata, in the metadata that PyTorch keeps for the whole model."""

Storage = Callable[[str, str, int], memoryview]
"""(key, dtype, elements) → bytes."""


def read_zip(path: Path, archive: Archive) -> Source:
    """What `torch.save` has written since 1.6.

    Raises:
        TriptychError: the archive is damaged or holds anything but a dict of float32 tensors.
    """
    root = next(name for name in archive.members if name.endswith("data.pkl")).removesuffix("data.pkl")
    if f"{root}byteorder" in archive and bytes(archive.read(f"{root}byteorder")) != b"little":
        raise corrupt(path, "it was written on a big-endian machine")

    def storage(key: str, dtype: str, elements: int) -> memoryview:
        if f"{root}data/{key}" not in archive:
            raise TriptychError(f"its tensor data {key!r} is missing")
        return archive.read(f"{root}data/{key}")

    try:
        return _source(path, PickleMachine(archive.read(f"{root}data.pkl"), SYMBOLS).run(), storage)
    except TriptychError as error:
        raise error if str(path) in str(error) else corrupt(path, str(error)) from None


def read_legacy(path: Path, content: memoryview) -> Source:
    """What `torch.save` wrote before 1.6: five pickles, then the data of each storage behind its length.

    Raises:
        TriptychError: as `read_zip`.
    """
    try:
        position, found = 0, []
        for _ in range(5):  # magic number, protocol, system, the state dict, the order of the storages
            machine = PickleMachine(content, SYMBOLS, position)
            found.append(machine.run())
            position = machine.end
        magic, protocol, system, state, keys = found
        if (magic, protocol) != (MAGIC, PROTOCOL) or not isinstance(system, dict) or not system.get("little_endian"):
            raise TriptychError("it is not a little-endian file of PyTorch")
        places: dict[str, int] = {}
        sizes = dict(_storages(state))
        for key in map(key_of, keys if isinstance(keys, list) else ()):
            elements = int.from_bytes(content[position : position + 8], "little")
            places[key] = position + 8
            dtype, promised = sizes.get(key, ("<f4", elements))
            if promised != elements or position + 8 + elements * np.dtype(dtype).itemsize > len(content):
                raise TriptychError(f"its tensor data {key!r} is shorter than promised")
            position += 8 + elements * np.dtype(dtype).itemsize
        return _source(
            path, state, lambda key, dtype, n: content[places[key] : places[key] + n * np.dtype(dtype).itemsize]
        )
    except TriptychError as error:
        raise corrupt(path, str(error)) from None
    except KeyError as error:
        raise corrupt(path, f"its tensor data {error} is missing") from None


def _storages(state: Any) -> Iterator[tuple[str, tuple[str, int]]]:
    """Every storage that the state dict refers to: its key, dtype and number of elements."""
    for _, value in _items(state):
        if isinstance(value, Call) and (value.symbol in REBUILD or value.symbol == PARAMETER):
            tensor = value.arguments[0] if value.symbol == PARAMETER else value
            key, dtype, elements = _reference(tensor.arguments[0] if isinstance(tensor, Call) else None)
            yield key, (dtype, elements)


def _source(path: Path, state: Any, storage: Storage) -> Source:
    pairs = list(_items(state))
    for wrapper in ("state_dict", "model_state_dict", "model"):  # a checkpoint of a training run
        inner = [value for name, value in pairs if name == wrapper]
        if inner and isinstance(inner[0], dict | Call):
            state, pairs = inner[0], list(_items(inner[0]))
            break
    if pairs and all(name.startswith("module.") for name, _ in pairs):  # saved from within DataParallel
        pairs = [(name.removeprefix("module."), value) for name, value in pairs]
    tensors = {name: _tensor(value, name, storage) for name, value in pairs}
    return Source(path, "PyTorch state dict", ("torch", "torchvision"), tensors, metadata=_metadata(state))


def _items(state: Any) -> list[tuple[str, Any]]:
    """The entries of a dict or an OrderedDict; Python 2 writes the latter as one list of pairs."""
    if isinstance(state, dict):
        return list(state.items())
    if not isinstance(state, Call) or state.symbol != ORDERED_DICT:
        raise TriptychError("it is not a state dict; save it with torch.save(model.state_dict(), …)")
    pairs = state.arguments[0] if state.arguments else []
    if not isinstance(pairs, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise TriptychError("its OrderedDict is not made of pairs")
    found = {key_of(key): value for key, value in pairs}
    if len(found) != len(pairs) or not found.keys().isdisjoint(state.items):
        raise TriptychError("its OrderedDict has two entries of one name")
    return list((found | state.items).items())


def _metadata(state: Any) -> dict[str, str]:
    """What our own files say about themselves, kept where a state dict keeps the versions of its modules."""
    try:
        versions = dict(_items(dict(_items(state.state))["_metadata"]))[""] if isinstance(state, Call) else {}
        return {key_of(name): str(text) for name, text in versions.get(METADATA, {}).items()}
    except (TriptychError, KeyError, AttributeError, TypeError):
        return {}


def _reference(reference: Any) -> tuple[str, str, int]:
    """Key, dtype and number of elements of a storage."""
    parts = reference.key if isinstance(reference, Persistent) else None
    if not isinstance(parts, tuple) or len(parts) < 5 or not isinstance(parts[1], Symbol) or parts[1].module != "torch":
        raise TriptychError("it refers to tensor data in an unknown way")
    if parts[1].name not in DTYPES:
        raise TriptychError(f"a tensor is kept in a {parts[1].name}, expected a FloatStorage (float32)")
    if type(parts[4]) is not int or parts[4] < 0:
        raise TriptychError("a tensor's data has no length")
    return key_of(parts[2]), DTYPES[parts[1].name], parts[4]


def _tensor(value: Any, name: str, storage: Storage) -> np.ndarray:
    if isinstance(value, Call) and value.symbol == PARAMETER and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, Call) or value.symbol not in REBUILD or len(value.arguments) < 4:
        raise TriptychError(f"its entry {name!r} is not a tensor")
    reference, offset, shape, strides = value.arguments[:4]
    key, dtype, elements = _reference(reference)
    numbers = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (-1,)
    if not all(type(number) is int and 0 <= number < sys.maxsize for number in numbers) or len(shape) != len(strides):
        raise TriptychError(f"{name} has a shape that is not made of whole numbers")
    data = storage(key, dtype, elements)
    itemsize = np.dtype(dtype).itemsize
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if len(data) != elements * itemsize or prod(shape) > elements or (prod(shape) and last >= elements):
        raise TriptychError(f"{name} is said to be {shape}, which its {len(data):,} bytes of data do not hold")
    array = np.frombuffer(data, dtype)
    steps = [stride * itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(array[offset:], shape, steps, writeable=False)
