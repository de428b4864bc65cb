"""`bvlc_alexnet.npy` and similar files: a dict of layers in one pickled array, or an npz of arrays.

Two formats are in use, `{"conv1": [W, b], …}` and `{"conv1": {"weights": W, "biases": b}, …}`, written by Python 2 or
3. Layers have canonical names. Kernels are (H, W, in, out), and dense kernels (in, out), after a flatten that runs H,
W, C.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Damaged, TriptychError
from common.porting.archives import Archive
from common.porting.pickles import ENCODE, Call, PickleMachine, Symbol
from common.porting.source import DTYPES, Source, itemsize, numbers, told_of

RECONSTRUCT = frozenset(
    Symbol(module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")
)
NDARRAY, DTYPE = Symbol("numpy", "ndarray"), Symbol("numpy", "dtype")
SYMBOLS = RECONSTRUCT | {NDARRAY, DTYPE, ENCODE}

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000

HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=]?\w{1,10})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>|\d{1,18}L?,|\d{1,18}L?(, ?\d{1,18}L?){1,7})\),? ?\} *\n?"
)
"""As NumPy has always written it: a dict, which NumPy evaluates. Python 2 puts an L after lengths."""

COUNTERS = [((), dtype) for dtype in ("<f4", "<i4", "<i8")]
"""Shape and dtype of single numbers, such as steps and learning rates, that training leaves between the parameters."""

PARAMETERS = {
    name: kind
    for kind, names in {
        "weight": ("weights", "weight", "W", "w", "kernel"),
        "bias": ("biases", "bias", "b"),
        "gamma": ("scale", "gamma"),
        "beta": ("offset", "beta"),
        "mean": ("mean", "mean/EMA", "moving_mean"),
        "variance": ("variance", "variance/EMA", "moving_variance"),
    }.items()
    for name in names
}
"""How files call the parameters of a layer: caffe-tensorflow's, tensorpack's, TensorFlow's."""


def read_npy(path: Path, content: memoryview) -> Source:
    """One array with a pickled dict in it.

    Raises:
        TriptychError: the file is damaged, or holds anything but layers of arrays of floating-point numbers.
    """
    try:
        return _source(path, _layers(_array(content)))
    except TriptychError as error:
        raise told_of(path, error) from None


def read_npz(path: Path, archive: Archive) -> Source:
    """The same dict, an array for each of its layers, or one for each parameter (`conv1_W`, `conv1/weights`).

    Raises:
        TriptychError: as `read_npy`.
    """
    layers: dict[str, Any] = {}
    aside: list[str] = []
    try:
        for member in archive.members:
            name = member.removesuffix(".npy")
            content = archive.read(member)
            if len(archive.members) > 1 and content[:6] == MAGIC and _header(content)[:3:2] in COUNTERS:
                aside.append(name)
                continue
            value = _array(content)
            parameter = re.fullmatch(rf"(.+?)[/_.:]({'|'.join(PARAMETERS)})(:\d+)?", name)
            if isinstance(value, np.ndarray) and parameter:
                _put(layers.setdefault(parameter[1], {}), parameter[2], value, name)
            elif isinstance(value, np.ndarray):
                raise TriptychError(f"its array {name!r} is not named after a layer and a parameter")
            elif len(archive.members) == 1:
                layers = _layers(value)
            else:
                _put(layers, name, _only(value), name)
        notes = (f"left aside, being numbers of no layer: {', '.join(aside)}",) if aside else ()
        return replace(_source(path, layers), notes=notes)
    except TriptychError as error:
        raise told_of(path, error) from None


def _put(target: Any, name: str, value: Any, spelled: str) -> None:
    if not isinstance(target, dict) or name in target:
        raise TriptychError(f"its array {spelled!r} appears twice")
    target[name] = value


def _source(path: Path, layers: dict[str, Any]) -> Source:
    tensors: dict[str, np.ndarray] = {}
    spelled: dict[str, str] = {}
    for layer, value in layers.items():
        for key, tensor in _parameters(layer, value):
            name = f"{layer}/{PARAMETERS.get(key, key)}"
            if name in tensors:
                raise TriptychError(f"its layer {layer!r} has two parameters for {name}")
            tensors[name], spelled[name] = tensor, f"{layer}/{key}"
    return Source(path, "NumPy", ("tensorflow", "caffe-tensorflow", "tensorpack"), tensors, spelled)


def _parameters(layer: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """A layer's parameters by the file's own names, if it has any."""
    if isinstance(value, Call):
        value = _only(_object_array(value))
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list | tuple) and len(value) in (1, 2):
        pairs = list(zip(("weight", "bias"), value, strict=False))
    else:
        raise TriptychError(
            f"its layer {layer!r} is a {type(value).__name__}, expected [weights, biases] or a dict of them"
        )
    for key, entry in pairs:
        if isinstance(entry, Call):
            entry = float_array(entry, f"{layer}/{key}")
        if not isinstance(entry, np.ndarray):
            raise TriptychError(f"its {layer}/{key} is a {type(entry).__name__}, expected an array")
        yield key, entry


def _layers(value: Any) -> dict[str, Any]:
    content = _only(value) if isinstance(value, list) else value
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise TriptychError("it holds no dict of layers; expected {'conv1': [W, b], …}")
    return content


def _only(values: Any) -> Any:
    """What an array of objects with one element holds; a list for two."""
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def _array(content: memoryview) -> np.ndarray | list[Any]:
    """An npy file: a float32 array as a view, or the elements of an array of objects."""
    shape, fortran, dtype, start = _header(content)
    if dtype == "|O":
        if fortran or len(shape) > 1 or prod(shape) > 2:
            raise TriptychError(f"its header promises objects of shape {shape}, expected one dict of layers")
        machine = PickleMachine(content, SYMBOLS, start)
        value = machine.run()
        if machine.end != len(content):
            raise Damaged(f"{len(content) - machine.end} bytes follow the end of its pickle")
        if not isinstance(value, Call):
            raise TriptychError("its pickle is not an array")
        return _object_array(value)
    return _view(content[start:], shape, dtype, fortran, "its array")


def _header(content: memoryview) -> tuple[tuple[int, ...], bool, str, int]:
    """Shape, whether the first axis varies fastest, dtype, and where the data begin."""
    if content[6:8] == b"\x01\x00":
        start, size = 10, int.from_bytes(content[8:10], "little")
    elif content[6:8] == b"\x02\x00":
        start, size = 12, int.from_bytes(content[8:12], "little")
    else:
        raise TriptychError("its NumPy header is of an unknown version")
    header = HEADER.fullmatch(bytes(content[start : start + size])) if size <= LONGEST_HEADER else None
    if header is None or start + size > len(content):
        raise Damaged("its NumPy header is damaged, or not that of an array of numbers or objects")
    shape = tuple(int(length) for length in re.findall(rb"\d+", header["shape"]))
    return shape, header["fortran"] == b"True", header["descr"].decode(), start + size


def _object_array(call: Call) -> list[Any]:
    """The elements of an array of objects."""
    shape, dtype, fortran, data = _state(call, "its array")
    if dtype != "O8" or not isinstance(data, list) or len(data) != prod(shape) or len(shape) > 1 or fortran:
        raise TriptychError("its array of objects is not what was expected, one dict of layers")
    return data


def float_array(call: Call, name: str) -> np.ndarray:
    """A pickled float32 array, as a view of the file.

    Raises:
        TriptychError: it is anything else.
    """
    shape, dtype, fortran, data = _state(call, name)
    if dtype == "O8":
        raise TriptychError(f"{name} is an array of objects, expected float32")
    if isinstance(data, Call):
        data = _encoded(data)
    if not isinstance(data, memoryview):
        raise TriptychError(f"the data of {name} is a {type(data).__name__}, expected bytes")
    return _view(data, shape, dtype, fortran, name)


def _encoded(call: Call) -> memoryview:
    """Bytes as Python 3 writes them for Python 2: text, to be encoded."""
    text, codec = call.arguments if len(call.arguments) == 2 else (None, None)
    if call.symbol != ENCODE or not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise TriptychError("its pickle encodes something other than bytes")
    try:
        return memoryview(text.encode("latin-1"))
    except UnicodeEncodeError:
        raise Damaged("its pickle has text that stands for no bytes") from None


def _state(call: Call, name: str) -> tuple[tuple[int, ...], str, bool, Any]:
    """Shape, dtype, whether the first axis varies fastest, and the data, of a pickled array."""
    arguments, state = call.arguments, call.state
    made = call.symbol in RECONSTRUCT and arguments[:2] == (NDARRAY, (0,))
    if not made or not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
        raise Damaged(f"{name} is not an array, or was never filled")
    _, shape, dtype, fortran, data = state
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise Damaged(f"{name} has a shape that is not made of whole numbers")
    return shape, _dtype(dtype, name), bool(fortran), data


def _dtype(call: Any, name: str) -> str:
    """`<f4`, or `O8` for objects."""
    if not isinstance(call, Call) or call.symbol != DTYPE or not call.arguments or not isinstance(call.state, tuple):
        raise TriptychError(f"{name} has no dtype")
    kind, state = _text(call.arguments[0]), call.state
    order = _text(state[1]) if len(state) > 1 else ""
    # Version, and what only records have: subtype, names, fields, size, alignment; the flags are for objects.
    plain = (state[:1] + state[2:7]) == (3, None, None, None, -1, -1) and len(state) == 8
    if plain and kind == "O8" and order == "|":
        return kind
    if not plain or state[7] != 0 or not re.fullmatch(r"[a-zA-Z]\d{0,4}", kind) or order not in ("<", ">", "|", "="):
        raise TriptychError(f"{name} has a dtype that is no plain number")
    return kind if order == "|" else order + kind


def _text(value: Any) -> str:
    return bytes(value[:100]).decode("latin-1") if isinstance(value, memoryview) else str(value)[:100]


def _view(data: memoryview, shape: tuple[int, ...], dtype: str, fortran: bool, name: str) -> np.ndarray:
    if dtype not in DTYPES:
        raise TriptychError(f"{name} has dtype {dtype}, expected little-endian float32 (<f4), float16 or float64")
    if itemsize(dtype) * prod(shape) != len(data):
        raise Damaged(f"{name} is said to be {shape} {DTYPES[dtype]}, but has {len(data):,} bytes")
    if fortran and len(shape) > 2:
        # Transposing Caffe's dense kernel gives Fortran order, as converters have written it; transposing its
        # convolution kernel gives neither order, which NumPy then writes as C's.
        raise TriptychError(f"{name} is stored in Fortran order, which no converter writes; save it with order='C'")
    return numbers(data, dtype, shape[::-1]).T if fortran else numbers(data, dtype, shape)
