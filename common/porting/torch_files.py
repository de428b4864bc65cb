"""PyTorch's files: state dicts, training checkpoints and whole modules, from today and from before 1.6.

For a pickle, `torch.load(weights_only=True)` calls a few dozen functions, `bytearray(10**12)` among them. Here
`PickleMachine` reads the pickle and calls none, so neither PyTorch nor trust is needed. A test proves that the result
is the same as that of `torch.load(weights_only=True)`. Optimisers, schedulers, arguments and other objects beside the
weights stay records.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Damaged, TriptychError
from common.porting.archives import Archive
from common.porting.pickles import LONGEST_KEY, Call, Persistent, PickleMachine, Symbol, key_of
from common.porting.source import Source, corrupt, itemsize, numbers, told_of

DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
ORDERED_DICT = Symbol("collections", "OrderedDict")
REBUILD = frozenset(Symbol("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2"))
PARAMETERS = frozenset(Symbol("torch._utils", name) for name in ("_rebuild_parameter", "_rebuild_parameter_with_state"))
SUBCLASS = Symbol("torch._tensor", "_rebuild_from_type_v2")
TENSORS = REBUILD | PARAMETERS | {SUBCLASS}

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the bare pickles of PyTorch before 1.6 begin with."""

METADATA = "triptych"
"""The key under which our own files keep metadata, in the metadata that PyTorch keeps for the whole model."""

DEEPEST, MOST_MODULES = 8, 20_000
"""How far below the top weights are looked for, and how many modules of one that was saved whole are looked into."""

FEWEST = 4
"""Tensors of a collection that may be a network; the moments that an optimiser keeps of one parameter are fewer."""

Storage = Callable[[str, str, int], memoryview]
"""(key, dtype, elements) → bytes."""


def read_zip(path: Path, archive: Archive) -> Source:
    """What `torch.save` has written since 1.6, and `torch.jit.save`.

    Raises:
        TriptychError: the archive is damaged, or holds no tensors.
    """
    root = next(name for name in archive.members if name.endswith("data.pkl")).removesuffix("data.pkl")
    if f"{root}byteorder" in archive and bytes(archive.read(f"{root}byteorder")) != b"little":
        raise TriptychError(f"cannot read {path}: it was written on a big-endian machine")

    def storage(key: str, dtype: str, elements: int) -> memoryview:
        if f"{root}data/{key}" not in archive:
            raise Damaged(f"its tensor data {key!r} is missing")
        return archive.read(f"{root}data/{key}")

    try:
        return _source(path, PickleMachine(archive.read(f"{root}data.pkl"), None).run(), storage)
    except TriptychError as error:
        raise told_of(path, error) from None


def read_legacy(path: Path, content: memoryview) -> Source:
    """What `torch.save` wrote before 1.6: five pickles, then the data of each storage, preceded by its length.

    Raises:
        TriptychError: as `read_zip`.
    """
    try:
        position, found, references = 0, [], []
        for _ in range(5):  # magic number, protocol, system, the content, the order of the storages
            machine = PickleMachine(content, None, position)
            found.append(machine.run())
            references += machine.references
            position = machine.end
            if len(found) == 1 and found[0] != MAGIC:
                raise TriptychError("it is a pickle that was not written by PyTorch")
        _, protocol, system, state, keys = found
        if protocol != PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
            raise TriptychError("it is not a little-endian file of PyTorch")
        places: dict[str, int] = {}
        sizes = dict(_storages(references))
        for key in map(key_of, keys if isinstance(keys, list) else ()):
            elements = int.from_bytes(content[position : position + 8], "little")
            places[key] = position + 8
            dtype, promised = sizes.get(key, ("<f4", elements))
            if promised != elements or position + 8 + elements * itemsize(dtype) > len(content):
                raise Damaged(f"its tensor data {key!r} is shorter than promised")
            position += 8 + elements * itemsize(dtype)
        return _source(path, state, lambda key, dtype, n: content[places[key] : places[key] + n * itemsize(dtype)])
    except TriptychError as error:
        raise told_of(path, error) from None
    except KeyError as error:
        raise corrupt(path, f"its tensor data {error} is missing") from None


def _storages(references: list[Persistent]) -> Iterator[tuple[str, tuple[str, int]]]:
    """Every storage that the file has: its key, dtype and number of elements."""
    for reference in references:
        if isinstance(reference.key, tuple) and len(reference.key) > 4:  # fewer are the source code of a class
            key, dtype, elements = _reference(reference)
            yield key, (dtype, elements)


def _source(path: Path, content: Any, storage: Storage) -> Source:
    found = dict(_collections(content))
    if not found:
        raise TriptychError("it holds no tensors; save the weights with torch.save(model.state_dict(), …)")
    largest = max(found, key=lambda place: len(found[place][0]))
    entries: dict[str, dict[str, np.ndarray]] = {}
    for place, (tensors, _) in found.items():
        if place == largest or len(tensors) >= FEWEST:
            entries[place] = {name: _tensor(value, name, storage) for name, value in tensors.items()}
    tensors, spelled = entries[largest], {}
    if len(entries) == 1 and all(name.startswith("module.") for name in tensors):  # saved from within DataParallel
        spelled = {name.removeprefix("module."): name for name in tensors}
        tensors = {name: tensors[full] for name, full in spelled.items()}
    return Source(
        path,
        "PyTorch state dict",
        ("torch", "torchvision", "torchvision before 0.1.8", "transformers", "timm"),
        tensors,
        spelled,
        metadata=_metadata(found[largest][1]),
        notes=(f"the weights are its entry {largest!r}",) if largest and len(entries) == 1 else (),
        entries=entries if len(entries) > 1 else {},
    )


def _collections(content: Any) -> Iterator[tuple[str, tuple[dict[str, Any], Any]]]:
    """Every dict, and every module, that has tensors, by its place: the tensors by name, and the dict itself."""
    waiting, seen = [("", content, 0)], set()
    while waiting:
        place, value, depth = waiting.pop()
        if depth > DEEPEST or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Call) and isinstance(value.state, dict) and (tensors := _module(value)):
            yield place, (tensors, value)
            continue
        listed = isinstance(value, list | tuple)  # of a state dict and an optimiser's, say
        pairs = {str(number): entry for number, entry in enumerate(value)} if listed else _items(value)
        tensors = {} if listed else {name: entry for name, entry in pairs.items() if _is_tensor(entry)}
        if tensors:
            yield place, (tensors, value)
        inner = [(f"{place}.{name}".lstrip("."), entry, depth + 1) for name, entry in pairs.items()]
        waiting += [entry for entry in reversed(inner) if not _is_tensor(entry[1])]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Call) and value.symbol in TENSORS


def _module(record: Call) -> dict[str, Any]:
    """The tensors of a module that was saved whole, by the names that its state dict would give them.

    An `nn.Module` keeps them in dicts of its own; what TorchScript compiled has them as attributes.
    """
    tensors: dict[str, Any] = {}
    waiting = [("", record)]
    for _ in range(MOST_MODULES):
        if not waiting:
            return tensors
        prefix, module = waiting.pop()
        if len(prefix) > LONGEST_KEY:
            raise TriptychError("its modules are nested deeper than those of any network")
        state = module.state if isinstance(module.state, dict) else {}
        if "_modules" in state:
            own = _items(state.get("_parameters")) | _items(state.get("_buffers"))
            inner = _items(state["_modules"])
        elif isinstance(module.symbol, Symbol) and module.symbol.module.startswith("__torch__"):
            own = inner = _items(state)
        else:
            continue
        tensors |= {f"{prefix}{name}": value for name, value in own.items() if _is_tensor(value)}
        waiting += [
            (f"{prefix}{name}.", value)
            for name, value in inner.items()
            if isinstance(value, Call) and not _is_tensor(value)
        ]
    raise TriptychError(f"it has more than {MOST_MODULES:,} modules")


def _items(value: Any) -> dict[str, Any]:
    """The entries of a dict or an OrderedDict that have names; Python 2 writes the latter as one list of pairs."""
    if isinstance(value, dict):
        return {name: entry for name, entry in value.items() if isinstance(name, str)}
    if not isinstance(value, Call) or not (value.items or value.symbol == ORDERED_DICT):
        return {}
    pairs = value.arguments[0] if value.arguments and value.symbol == ORDERED_DICT else []
    if not isinstance(pairs, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise TriptychError("its OrderedDict is not made of pairs")
    found = {key_of(key): entry for key, entry in pairs}
    if len(found) != len(pairs) or not found.keys().isdisjoint(value.items):
        raise TriptychError("its OrderedDict has two entries of one name")
    return found | {name: entry for name, entry in value.items.items() if isinstance(name, str)}


def _metadata(state: Any) -> dict[str, str]:
    """What our own files say about themselves, kept where a state dict keeps the versions of its modules."""
    try:
        said = _items(_items(_items(state.state)["_metadata"])[""])[METADATA]
        return {key_of(name): str(text) for name, text in said.items()}
    except (TriptychError, KeyError, AttributeError, TypeError):
        return {}


def _reference(reference: Any) -> tuple[str, str, int]:
    """Key, dtype and number of elements of a storage."""
    parts = reference.key if isinstance(reference, Persistent) else None
    if not isinstance(parts, tuple) or len(parts) < 5 or not isinstance(parts[1], Symbol):
        raise TriptychError("it refers to tensor data in an unknown way")
    if parts[1].module not in ("torch", "torch.cuda") or parts[1].name not in DTYPES:
        raise TriptychError(f"a tensor is kept in a {parts[1]}, which is not read here; save it as float32")
    if type(parts[4]) is not int or parts[4] < 0:
        raise Damaged("a tensor's data has no length")
    return key_of(parts[2]), DTYPES[parts[1].name], parts[4]


def _tensor(value: Any, name: str, storage: Storage) -> np.ndarray:
    if value.symbol == SUBCLASS and len(value.arguments) > 2 and isinstance(value.arguments[2], tuple):
        value = Call(value.arguments[0], value.arguments[2])
    if value.symbol in PARAMETERS and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, Call) or not isinstance(value.symbol, Symbol) or value.symbol not in REBUILD:
        raise TriptychError(f"its entry {name!r} is a tensor of an unknown kind")
    if len(value.arguments) < 4:
        raise Damaged(f"its entry {name!r} is not a whole tensor")
    reference, offset, shape, strides = value.arguments[:4]
    key, dtype, elements = _reference(reference)
    if isinstance(shape, Call) and shape.symbol == Symbol("torch", "Size") and shape.arguments:
        shape = shape.arguments[0]
    sizes = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (-1,)
    if not all(type(number) is int and 0 <= number < sys.maxsize for number in sizes) or len(shape) != len(strides):
        raise Damaged(f"{name} has a shape that is not made of whole numbers")
    if len(shape) > 8:
        raise TriptychError(f"{name} has {len(shape)} axes")
    data = storage(key, dtype, elements)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if len(data) != elements * itemsize(dtype) or prod(shape) > elements or (prod(shape) and last >= elements):
        raise Damaged(f"{name} is said to be {shape}, which its {len(data):,} bytes of data do not hold")
    array = numbers(data, dtype, (elements,))
    steps = [stride * array.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(array[offset:], shape, steps, writeable=False)
