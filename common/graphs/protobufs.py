"""Protocol buffers without their schema, as views of the file: in them Caffe, ONNX and TensorFlow keep their graphs.

A protocol buffer is a sequence of fields, each a key and a varint, four or eight bytes, or a length and that many
bytes.

Source: protobuf.dev, Encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import Damaged, TriptychError

MOST_FIELDS = 1_000_000

Value = int | memoryview
"""A varint, or the bytes of everything else."""


def fields(content: memoryview) -> Iterator[tuple[int, Value, memoryview]]:
    """Number and value of each field of a message, and the field as it stands in the message."""
    position = 0
    for _ in range(MOST_FIELDS):
        if position == len(content):
            return
        start = position
        key, position = varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = varint(content, position)
            yield number, value, content[start:position]
            continue
        if wire == 2:
            size, position = varint(content, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise Damaged(f"its protocol buffer is damaged (a field of wire type {wire})")
        if number == 0 or size > len(content) - position:
            raise Damaged("its protocol buffer is damaged or cut off")
        position += size
        yield number, content[position - size : position], content[start:position]
    raise Damaged(f"its protocol buffer has more than {MOST_FIELDS:,} fields")


def varint(content: memoryview, position: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the least of them first, and where it ends."""
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


def encoded(number: int) -> bytes:
    """An integer as `varint` reads it."""
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*content, number])


def beginning(field: int, length: int) -> bytes:
    """What stands before the bytes of a field: its key and how many they are."""
    return encoded(field << 3 | 2) + encoded(length)


def integers(value: Value) -> Iterator[int]:
    """A repeated field of integers, as it is here: one integer, or several packed together."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = varint(value, position)
        yield number


def signed(number: int) -> int:
    """The signed integer that a varint of 64 bits stands for."""
    return number - (1 << 64) if number >= 1 << 63 else number


def text_of(value: Value) -> str:
    """A field that is a name.

    Raises:
        TriptychError: it is no name.
    """
    if not isinstance(value, memoryview) or len(value) > 1000:
        raise TriptychError("its protocol buffer has something else in place of a name")
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise TriptychError("its protocol buffer has a name that is not UTF-8") from None
