"""`.caffemodel`: the protocol buffer `caffe.NetParameter`. Only layers, their types and blobs are read.

Caffe's schema is compiled into Caffe; the few field numbers that matter are here. Both forms of a layer are read:
`layers` from before 2014, with its type as a number, and `layer`.

Source: caffe.proto.
"""

from __future__ import annotations

from itertools import islice
from math import prod
from pathlib import Path

import numpy as np

from common.errors import Damaged, TriptychError
from common.graphs.protobufs import fields, integers, text_of
from common.porting.source import DTYPES, Source, itemsize, numbers, told_of

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


def looks_like_net(content: memoryview) -> bool:
    """Whether a file begins as a NetParameter does: with the network's name, or a layer that has a name itself."""
    try:
        key, value, _ = next(fields(content))
        if key == NET_NAME and isinstance(value, memoryview):
            bytes(value[:1000]).decode()
            return len(value) < 1000 and any(key in (NET_OLD_LAYERS, NET_LAYERS) for key, _, _ in fields(content))
        named = {NET_OLD_LAYERS: OLD_LAYER["name"], NET_LAYERS: LAYER["name"]}.get(key)
        inner = fields(value) if isinstance(value, memoryview) else ()
        return any(number == named and text_of(name) for number, name, _ in inner)
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
    return Source(path, "Caffe model", ("caffe",), tensors, metadata=_shown(types))


def _shown(types: dict[str, str]) -> dict[str, str]:
    """Which of two networks with the same names it is, by the order of its layers."""
    order = " ".join([name for name in types if types[name] in ("LRN", "Pooling")][:2])
    named = {"norm1 pool1": "alexnet_bvlc", "pool1 norm1": "caffenet"}.get(order)
    return {"architecture": named} if named else {}


def _layer(content: memoryview, numbers: dict[str, int]) -> tuple[str, str, list[np.ndarray]]:
    """Name, type and blobs."""
    name, kind = "", ""
    blobs = []
    for number, value, _ in fields(content):
        if number == numbers["name"]:
            name = text_of(value)
        elif number == numbers["type"]:
            kind = OLD_TYPES.get(value, f"number {value}") if isinstance(value, int) else text_of(value)
        elif number == numbers["blobs"] and isinstance(value, memoryview):
            blobs.append(value)
    return name, kind, [_blob(blob, f"{name}/{index}") for index, blob in enumerate(blobs)]


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
    """BlobShape: its only field, `dim`."""
    found = tuple(islice((number for _, value, _ in fields(content) for number in integers(value)), 9))
    if len(found) > 8:
        raise TriptychError("a blob has more than eight axes")
    return found
