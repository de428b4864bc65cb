"""`tensorflow.GraphDef` as data: its nodes in order, their attributes, and its constants as views of the file.

Source: graph.proto, node_def.proto, attr_value.proto and tensor.proto in TensorFlow.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from common.errors import Damaged, TriptychError
from common.graphs.protobufs import fields, integers, signed, text_of
from common.porting.source import itemsize, numbers

NODE, NAME, OP, INPUT, ATTRIBUTE = 1, 1, 2, 3, 5
LIST, TEXT, INTEGER, NUMBER, FLAG, TENSOR = 1, 2, 3, 4, 5, 8
"""Fields of an AttrValue."""
DTYPE, SHAPE, CONTENT, FLOATS, DOUBLES, INTEGERS, LONGS, FLAGS = 1, 2, 4, 5, 6, 7, 10, 11
DIMENSION = 2
"""Fields of a TensorProto, and of its shape."""

DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 6: "|i1", 9: "<i8", 10: "|b1", 14: "bf16", 19: "<f2"}
WHOLE = ("<i4", "<i8", "|u1", "|i1", "|b1")
MOST_NODES, MOST_INTEGERS = 20_000, 10_000
SMALL = 1 << 20
"""Bytes that one number may stand for, where a constant is the same everywhere."""

VARIABLES = ("Variable", "VariableV2", "VarHandleOp")


def looks_like_graph(content: memoryview) -> bool:
    """Whether a file begins as a GraphDef does: with a node, which has a name and an operator."""
    try:
        field, node, _ = next(fields(content))
        begun = {number: value for number, value, _ in islice(fields(node), 2)} if isinstance(node, memoryview) else {}
        return field == NODE and all(isinstance(begun.get(number), memoryview) for number in (NAME, OP))
    except (TriptychError, StopIteration):
        return False


@dataclass(frozen=True)
class TFNode:
    """A NodeDef."""

    name: str
    op: str
    inputs: tuple[str, ...]
    """`name` of a node's first result, `name:1` of its second; those that only have to come before are left out."""
    attributes: Mapping[str, memoryview]

    def _attribute(self, name: str, field: int) -> Any:
        content = self.attributes.get(name)
        found = [value for number, value, _ in fields(content) if number == field] if content is not None else []
        return found[-1] if found else None

    def text(self, name: str) -> str:
        value = self._attribute(name, TEXT)
        return "" if value is None else text_of(value)

    def integer(self, name: str, default: int) -> int:
        value = self._attribute(name, INTEGER)
        return value if isinstance(value, int) else default

    def number(self, name: str, default: float) -> float:
        value = self._attribute(name, NUMBER)
        return struct.unpack("<f", value)[0] if isinstance(value, memoryview) else default

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._attribute(name, FLAG)
        return default if value is None else bool(value)

    def integers(self, name: str) -> tuple[int, ...]:
        value = self._attribute(name, LIST)
        found = fields(value) if isinstance(value, memoryview) else ()
        return tuple(signed(n) for number, each, _ in found if number == INTEGER for n in islice(integers(each), 65))

    def places(self, name: str) -> tuple[int, int]:
        """Of a list of four numbers, those for height and width."""
        found = self.integers(name) or (1, 1, 1, 1)
        if len(found) != 4:
            raise TriptychError(f"its node {self.name!r} has {len(found)} {name}, expected 4")
        return (found[2], found[3]) if self.channels_first else (found[1], found[2])

    @property
    def channels_first(self) -> bool:
        return self.text("data_format") == "NCHW"

    @property
    def random(self) -> bool:
        return "Random" in self.op


class GraphDef:
    """A frozen graph.

    Raises:
        TriptychError: it is damaged, has a loop, or is not frozen; or nothing in it is convolved.
    """

    def __init__(self, content: memoryview) -> None:
        self.size = len(content)
        self.nodes: dict[str, TFNode] = {}
        for field, value, _ in fields(content):
            if field != NODE or not isinstance(value, memoryview):
                continue
            node = _node(value)
            if node.name in self.nodes:
                raise Damaged(f"two of its nodes are named {node.name!r}")
            self.nodes[node.name] = node
            if len(self.nodes) > MOST_NODES:
                raise TriptychError(f"its graph has more than {MOST_NODES:,} nodes")
        if any(node.op in VARIABLES for node in self.nodes.values()):
            raise TriptychError("it is a graph that is not frozen: its weights are in a checkpoint; give that instead")

    @staticmethod
    def owner(name: str) -> str:
        """The node that a value is of."""
        return name.partition(":")[0]

    @cached_property
    def order(self) -> list[TFNode]:
        """Every node after those that it reads."""
        found: dict[str, TFNode] = {}
        begun: set[str] = set()
        for first in self.nodes:
            waiting = [first]
            while waiting:
                name = waiting[-1]
                if name in found:
                    waiting.pop()
                    continue
                missing = [self.owner(each) for each in self.nodes[name].inputs if self.owner(each) not in found]
                if any(each not in self.nodes for each in missing):
                    raise Damaged(f"its node {name!r} reads one that is not there")
                if missing and name in begun:
                    raise TriptychError("its graph has a loop, and no network of the catalogue has one")
                if missing:
                    begun.add(name)
                    waiting += missing
                else:
                    found[name] = self.nodes[waiting.pop()]
        return list(found.values())

    @cached_property
    def _constant(self) -> set[str]:
        """The nodes that depend on constants alone."""
        found: set[str] = set()
        for node in self.order:
            made = node.inputs and all(self.owner(name) in found for name in node.inputs)
            if node.op == "Const" or (made and not node.random and node.op != "PlaceholderWithDefault"):
                found.add(node.name)
        return found

    @cached_property
    def image(self) -> str:
        """Where the values that are convolved come from."""
        node = next((node for node in self.order if node.op == "Conv2D"), None)
        if node is None:
            raise TriptychError("it has no convolution, and every network of the catalogue has one")
        while True:
            read = next((name for name in node.inputs if self.owner(name) not in self._constant), None)
            if read is None:
                return node.name
            node = self.nodes[self.owner(read)]

    @cached_property
    def flow(self) -> set[str]:
        """The nodes that the values of the image reach; its sizes are none."""
        found = {self.image}
        for node in self.order:
            if node.op != "Shape" and not node.random and any(self.owner(name) in found for name in node.inputs):
                found.add(node.name)
        return found

    @cached_property
    def pixels(self) -> set[str]:
        """The nodes that the values of the image reach before the first layer."""
        found = {self.image}
        for node in self.order:
            read = [name for name in map(self.owner, node.inputs) if name in self.flow]
            if read and node.op not in ("Conv2D", "MatMul") and all(name in found for name in read):
                found.add(node.name)
        return found

    @cached_property
    def fed(self) -> set[str]:
        """The nodes that depend on what else is fed, such as a probability, or on random numbers."""
        found: set[str] = set()
        for node in self.order:
            given = node.op.startswith("Placeholder") or node.random
            if node.name not in self.flow and (given or any(self.owner(name) in found for name in node.inputs)):
                found.add(node.name)
        return found

    @cached_property
    def results(self) -> dict[str, list[str]]:
        """By node, those of its results that are read, after the first."""
        read = dict.fromkeys(name for node in self.order for name in node.inputs if ":" in name)
        found: dict[str, list[str]] = {}
        for name in read:
            found.setdefault(self.owner(name), []).append(name)
        return found

    def source(self, name: str) -> TFNode:
        """The node that makes a value, those left out that only pass it on."""
        node = self.nodes[self.owner(name)]
        while node.op == "Identity" and node.inputs:
            node = self.nodes[self.owner(node.inputs[0])]
        return node

    @cached_property
    def channels(self) -> tuple[int, ...]:
        """How the axis of the channels may be called."""
        first = any(node.channels_first for node in self.order if node.op == "Conv2D")
        return (1, -3) if first else (3, -1)

    def split_of(self, name: str, place: int, count: int) -> str | None:
        """What a value is the part of, if it is this one of so many."""
        node = self.nodes[self.owner(name)]
        if node.op != "Split" or len(node.inputs) != 2 or node.integer("num_split", 0) != count:
            return None
        axis = self.array(node.inputs[0])
        along = axis is not None and axis.size == 1 and int(axis.reshape(())) in (*self.channels, 3)  # or of a kernel
        return node.inputs[1] if along and int(name.partition(":")[2] or 0) == place else None

    def array(self, name: str) -> np.ndarray | None:
        """The constant that a value is, if it is one, perhaps in another shape."""
        node = self.source(name)
        if node.op == "Reshape":
            node = self.source(node.inputs[0])
        return self.constant(node.name) if node.op == "Const" else None

    def constant(self, name: str) -> np.ndarray | None:
        """The numbers of a constant, as a view of the file where it has them as they are; None for what is no number.

        Raises:
            TriptychError: it does not have the data that it promises.
        """
        tensor = self.nodes[name]._attribute("value", TENSOR)
        if not isinstance(tensor, memoryview):
            raise Damaged(f"its constant {name!r} has no value")
        dtype, data = "", memoryview(b"")
        shape: tuple[int, ...] = ()
        for field, value, _ in fields(tensor):
            if field == DTYPE and isinstance(value, int):
                dtype = DTYPES.get(value, "")
            elif field == SHAPE and isinstance(value, memoryview):
                shape = _shape(value)
            elif field in (CONTENT, FLOATS, DOUBLES) and isinstance(value, memoryview):
                data = memoryview(b"".join((data, value))) if data else value
            elif field in (INTEGERS, LONGS, FLAGS) and dtype in WHOLE:
                few = [signed(number) for number in islice(integers(value), MOST_INTEGERS)]
                data = memoryview(b"".join((data, np.array(few).astype(dtype).tobytes())))
        if not dtype:
            return None
        size, count = itemsize(dtype), prod(shape)
        if len(data) < size * count <= SMALL and len(data) % size == 0:  # the last number stands for the rest, or 0
            last = bytes(data[-size:]) or bytes(size)
            data = memoryview(bytes(data) + last * (count - len(data) // size))
        if size * count != len(data):
            raise Damaged(f"its constant {name!r} is said to be {shape} {dtype}, but has {len(data):,} bytes")
        return numbers(data, dtype, shape)


def _node(content: memoryview) -> TFNode:
    name = op = ""
    inputs, attributes = [], {}
    for field, value, _ in fields(content):
        if field == NAME:
            name = text_of(value)
        elif field == OP:
            op = text_of(value)
        elif field == INPUT and not (read := text_of(value)).startswith("^"):
            inputs.append(read.removesuffix(":0"))
        elif field == ATTRIBUTE and isinstance(value, memoryview):
            entry = {number: part for number, part, _ in fields(value)}
            key, attribute = entry.get(1), entry.get(2)
            if isinstance(key, memoryview) and isinstance(attribute, memoryview):
                attributes[text_of(key)] = attribute
    return TFNode(name, op, tuple(inputs), attributes)


def _shape(content: memoryview) -> tuple[int, ...]:
    """TensorShapeProto."""
    sizes = []
    for field, value, _ in fields(content):
        if field == DIMENSION and isinstance(value, memoryview):
            found = [signed(size) for number, size, _ in fields(value) if number == 1 and isinstance(size, int)]
            sizes.append(found[-1] if found else 0)
    if len(sizes) > 8 or min(sizes, default=0) < 0 or max(sizes, default=0) >= 2**40:
        raise Damaged("a constant has an impossible shape")
    return tuple(sizes)
