"""`.caffemodel`: the protocol buffer `caffe.NetParameter`, of which only layers, their types and blobs are read.

A protocol buffer is a sequence of fields, each a key and a varint, four or eight bytes, or a length and that many
bytes. Caffe's schema is compiled into Caffe; the few field numbers that matter are here. Both forms of a layer are
read: `layers` of before 2014, with its type as a number, and `layer`.

Source: caffe.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from common.errors import TriptychError
from common.porting.source import DTYPES, Damaged, Source, itemsize, numbers, told_of

NET_NAME, NET_OLD_LAYERS, NET_LAYERS = 1, 2, 100
LAYER = {"name": 1, "type": 2, "bottom": 3, "blobs": 7}
OLD_LAYER = {"name": 4, "type": 5, "bottom": 2, "blobs": 6}
BLOB_OLD_SHAPE, BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8
OLD_TYPES = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling"}

PARAMETERS = {
    "Convolution": ("weight", "bias"),
    "InnerProduct": ("weight", "bias"),
    "BatchNorm": ("mean", "variance", "scale_factor"),
    "Scale": ("gamma", "beta"),
}
"""What the blobs of a layer are, in order."""

MOST_FIELDS = 1_000_000


def looks_like_net(content: memoryview) -> bool:
    """Whether a file begins as a NetParameter does: with the network's name, or a layer that has a name itself."""
    try:
        key, value, _ = next(fields(content))
        if key == NET_NAME and isinstance(value, memoryview):
            bytes(value[:1000]).decode()
            return len(value) < 1000 and any(key in (NET_OLD_LAYERS, NET_LAYERS) for key, _, _ in fields(content))
        return key in (NET_OLD_LAYERS, NET_LAYERS) and isinstance(value, memoryview)
    except (TriptychError, StopIteration, UnicodeDecodeError):
        return False


def read_caffemodel(path: Path, content: memoryview) -> Source:
    """The blobs of every layer, as views of the file.

    Raises:
        TriptychError: the file is damaged, or a layer has blobs of another dtype or of a type that is not known here.
    """
    try:
        tensors: dict[str, np.ndarray] = {}
        types: dict[str, str] = {}
        for key, value, _ in fields(content):
            if key in (NET_LAYERS, NET_OLD_LAYERS) and isinstance(value, memoryview):
                name, kind, blobs = _layer(value, LAYER if key == NET_LAYERS else OLD_LAYER)
                if name in types and (blobs or types[name] == "LRN"):
                    raise TriptychError(f"it has two layers named {name!r}")
                types[name] = kind
                if blobs and len(blobs) > len(PARAMETERS.get(kind, ())):
                    raise TriptychError(f"its layer {name!r} of type {kind} has {len(blobs)} blobs")
                for parameter, blob in zip(PARAMETERS.get(kind, ()), blobs, strict=False):
                    tensors[f"{name}/{parameter}"] = blob
    except TriptychError as error:
        raise told_of(path, error) from None
    return Source(path, "Caffe model", ("caffe",), tensors, departures=tuple(_departures(types)))


def _departures(types: dict[str, str]) -> Iterator[str]:
    """Where the order of the layers is another than in the network whose names they bear."""
    order = [name for name in types if name in ("norm1", "pool1")]
    if order == ["pool1", "norm1"] and types["norm1"] == "LRN":
        yield "it is CaffeNet, which pools before it normalises, where BVLC's AlexNet normalises first"


def fields(content: memoryview) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """Number and value of each field of a message, and the field as it stands in the message."""
    position = 0
    for _ in range(MOST_FIELDS):
        if position == len(content):
            return
        start = position
        key, position = _varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(content, position)
            yield number, value, content[start:position]
            continue
        if wire == 2:
            size, position = _varint(content, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise Damaged(f"its protocol buffer is damaged (a field of wire type {wire})")
        if number == 0 or size > len(content) - position:
            raise Damaged("its protocol buffer is damaged or cut off")
        position += size
        yield number, content[position - size : position], content[start:position]
    raise Damaged(f"its protocol buffer has more than {MOST_FIELDS:,} fields")


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise Damaged("its protocol buffer is cut off")
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise Damaged("its protocol buffer is damaged (a number without an end)")


def _layer(content: memoryview, numbers: dict[str, int]) -> tuple[str, str, list[np.ndarray]]:
    """Name, type and blobs."""
    name, kind = "", ""
    blobs = []
    for number, value, _ in fields(content):
        if number == numbers["name"]:
            name = _text(value)
        elif number == numbers["type"]:
            kind = OLD_TYPES.get(value, f"number {value}") if isinstance(value, int) else _text(value)
        elif number == numbers["blobs"] and isinstance(value, memoryview):
            blobs.append(value)
    return name, kind, [_blob(blob, f"{name}/{index}") for index, blob in enumerate(blobs)]


def _text(value: int | memoryview) -> str:
    if not isinstance(value, memoryview) or len(value) > 1000:
        raise TriptychError("its protocol buffer has something else in place of a name")
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise TriptychError("its protocol buffer has a name that is not UTF-8") from None


def _blob(content: memoryview, name: str) -> np.ndarray:
    """A blob, whose shape is a list or, in old files, four numbers, the first of them 1 where there is no such axis.

    Its data are packed into one field, or each in a field of its own.
    """
    old = {}
    shape: tuple[int, ...] | None = None
    packed: list[memoryview] = []
    dtype = "<f4"
    for number, value, _ in fields(content):
        if number in BLOB_OLD_SHAPE and isinstance(value, int):
            old[number] = value
        elif number == BLOB_SHAPE and isinstance(value, memoryview):
            shape = _dimensions(value)
        elif number == BLOB_DATA and isinstance(value, memoryview):
            packed.append(value)
        elif number == BLOB_DOUBLES and isinstance(value, memoryview):
            dtype = "<f8"
            packed.append(value)
    if shape is None:
        shape = tuple(old.get(number, 0) for number in BLOB_OLD_SHAPE)
        while len(shape) > 1 and shape[0] == 1 and (len(shape) != 4 or shape[1] == 1):
            shape = shape[1:]
    data = packed[0] if len(packed) == 1 else memoryview(b"".join(packed))
    if any(length >= 2**32 for length in shape) or itemsize(dtype) * prod(shape) != len(data):
        raise Damaged(f"the blob {name} is said to be {shape} {DTYPES[dtype]}, but has {len(data):,} bytes")
    return numbers(data, dtype, shape)


def _dimensions(content: memoryview) -> tuple[int, ...]:
    """BlobShape: its only field, `dim`, packed or not."""
    found: list[int] = []
    for _, value, _ in fields(content):
        if isinstance(value, int):
            found.append(value)
        position = 0
        while isinstance(value, memoryview) and position < len(value):
            number, position = _varint(value, position)
            found.append(number)
    if len(found) > 8:
        raise TriptychError("a blob has more than eight axes")
    return tuple(found)
