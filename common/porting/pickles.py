"""Pickles as data, read by a machine that can call nothing.

A pickle is a program. `pickle.loads` runs it, and its author decides what it calls. The machine here imports nothing
and calls nothing. A global is a name. Calling it yields a `Call`, a record of the name and the arguments. The caller
decides which records it understands; the others do nothing. Some formats have no place for foreign objects, such as
`bvlc_alexnet.npy`. There a global is refused if it is not on an exact allow-list. Strings of bytes are views of the
file, so a pickle of arrays is read without copying them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from common.errors import Damaged, TriptychError

MOST_OPERATIONS = 250_000
"""Of one pickle, which bounds the memory that small objects take. The largest network of the catalogue takes 60,000."""

LONGEST_KEY = 1_000
"""Characters of a name."""

LONGEST_INTEGER = 1_000
"""Bytes. The state of a random generator, which training keeps, is an array."""


class Symbol(NamedTuple):
    """The name of a global: module and attribute. Nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """What a pickle would have called, had it been run, and what it would have done with the result."""

    symbol: Any
    """Who: a `Symbol`, or a record of what another call would have given."""
    arguments: tuple[Any, ...]
    state: Any = None
    """The argument of `__setstate__`."""
    items: dict[Any, Any] = field(default_factory=dict)
    """What would have been put in with `[…] = …`."""
    elements: list[Any] = field(default_factory=list)
    """What would have been put in with `append`, or with `add` of a set."""


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to something kept beside the pickle."""

    key: Any


@dataclass(frozen=True, eq=False)
class Opaque:
    """A key of a dict that is neither text nor a plain number; two are never the same, so that none is ever hashed."""

    key: Any


ENCODE = Symbol("_codecs", "encode")
"""What Python 3 calls to write bytes in a protocol of Python 2."""

_MARK = object()


class PickleMachine:
    """Reads one pickle.

    Args:
        content: that begins with the pickle.
        symbols: every global that it may name; any if None, and what they would have made is then kept as records.

    After `run`, `end` is where the pickle ended, and `references` what it refers to beside it.
    """

    def __init__(self, content: memoryview, symbols: Collection[Symbol] | None, start: int = 0) -> None:
        self.references: list[Persistent] = []
        self.content = content
        self.symbols = symbols
        self.end = start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle describes.

        Raises:
            TriptychError: it names a global or uses an opcode that is not allowed, or it is damaged.
        """
        try:
            for _ in range(MOST_OPERATIONS):
                opcode = self._take(1)[0]
                if opcode == ord("."):
                    (result,) = self.stack
                    return result
                if opcode not in self.OPERATIONS:
                    raise _refusal(f"the opcode 0x{opcode:02x} at byte {self.end - 1}, which no array needs")
                self.OPERATIONS[opcode](self)
        except (IndexError, ValueError, TypeError, KeyError, AttributeError, struct.error, OverflowError) as error:
            if isinstance(error, TriptychError):
                raise
            raise Damaged(f"its pickle is damaged at byte {self.end}") from None
        raise _refusal(f"more than {MOST_OPERATIONS:,} operations")

    def _take(self, size: int) -> memoryview:
        piece = self.content[self.end : self.end + size]
        if size < 0 or len(piece) != size:
            raise Damaged(f"its pickle ends at byte {len(self.content)}, in the middle of an object")
        self.end += size
        return piece

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _line(self) -> str:
        piece = bytes(self.content[self.end : self.end + LONGEST_KEY])
        self.end += piece.index(b"\n") + 1
        return piece[: piece.index(b"\n")].decode("ascii")

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                values = self.stack[position + 1 :]
                del self.stack[position:]
                return values
        raise ValueError("no mark")

    def _symbol(self, module: Any, name: Any) -> None:
        symbol = Symbol(str(module)[:LONGEST_KEY], str(name)[:LONGEST_KEY])
        if self.symbols is not None and symbol not in self.symbols:
            raise _refusal(f"the global {str(symbol)!r} at byte {self.end}, which could run code")
        self._push(symbol)

    def _stack_symbol(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        self._symbol(module, name)

    def _reduce(self) -> None:
        arguments, symbol = self.stack.pop(), self.stack.pop()
        callables = Symbol if self.symbols is not None else (Symbol, Call)
        if not (isinstance(symbol, callables) and isinstance(arguments, tuple)):
            raise _refusal(f"a call of something that is no global, at byte {self.end}")
        self._push(Call(symbol, arguments))

    def _new_object(self, values: list[Any]) -> None:
        """`class.__new__(class, …)`, which is a call as well; foreign objects are written so."""
        if self.symbols is not None:
            raise _refusal(f"a new object at byte {self.end}, which no array needs")
        symbol, arguments = values[0], values[1] if len(values) > 1 else ()
        if not isinstance(symbol, Symbol | Call) or not isinstance(arguments, tuple):
            raise TypeError
        self._push(Call(symbol, arguments))

    def _build(self) -> None:
        state, call = self.stack.pop(), self.stack[-1]
        if not isinstance(call, Call) or call.state is not None:
            raise _refusal(f"__setstate__ of something that is no new object, at byte {self.end}")
        call.state = state

    def _set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Call) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            name = _plain_key(key)
            if name in items:
                raise TriptychError(f"its pickle has two entries named {name!r}")
            items[name] = value

    def _append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        target = target.elements if isinstance(target, Call) and self.symbols is None else target
        if not isinstance(target, list):
            raise TypeError
        target.extend(values)

    def _reference(self) -> None:
        reference = Persistent(self.stack.pop())
        self.references.append(reference)
        self._push(reference)

    def _integer(self, size: int) -> None:
        if size > LONGEST_INTEGER:
            raise _refusal(f"an integer of {size:,} bytes at byte {self.end}")
        self._push(int.from_bytes(self._take(size), "little", signed=True))

    def _tuple(self, size: int) -> None:
        values = tuple(self.stack[-size:])
        if len(values) != size or _MARK in values:
            raise ValueError
        del self.stack[-size:]
        self._push(values)

    def _text(self, size: int) -> None:
        self._push(str(self._take(size), "utf-8", "surrogatepass"))

    def _remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _protocol(self) -> None:
        if self._number("B") > 5:
            raise ValueError

    OPERATIONS: ClassVar[dict[int, Callable[[PickleMachine], Any]]] = {
        ord(code): operation
        for code, operation in {
            "\x80": lambda m: m._protocol(),
            "\x95": lambda m: m._take(8),  # FRAME: a hint for streams
            "(": lambda m: m._push(_MARK),
            "0": lambda m: m.stack.pop(),
            "N": lambda m: m._push(None),
            "\x88": lambda m: m._push(True),
            "\x89": lambda m: m._push(False),
            "K": lambda m: m._push(m._number("B")),
            "M": lambda m: m._push(m._number("<H")),
            "J": lambda m: m._push(m._number("<i")),
            "\x8a": lambda m: m._integer(m._number("B")),
            "\x8b": lambda m: m._integer(m._number("<I")),
            "G": lambda m: m._push(m._number(">d")),
            # Strings of bytes: Python 2's, then Python 3's.
            "U": lambda m: m._push(m._take(m._number("B"))),
            "T": lambda m: m._push(m._take(m._number("<i"))),
            "C": lambda m: m._push(m._take(m._number("B"))),
            "B": lambda m: m._push(m._take(m._number("<I"))),
            "\x8e": lambda m: m._push(m._take(m._number("<Q"))),
            "\x8c": lambda m: m._text(m._number("B")),
            "X": lambda m: m._text(m._number("<I")),
            "\x8d": lambda m: m._text(m._number("<Q")),
            "}": lambda m: m._push({}),
            "]": lambda m: m._push([]),
            ")": lambda m: m._push(()),
            "t": lambda m: m._push(tuple(m._pop_mark())),
            "\x85": lambda m: m._tuple(1),
            "\x86": lambda m: m._tuple(2),
            "\x87": lambda m: m._tuple(3),
            "a": lambda m: m._append([m.stack.pop()]),
            "e": lambda m: m._append(m._pop_mark()),
            "s": lambda m: m._set_items([m.stack.pop(-2), m.stack.pop()]),
            "u": lambda m: m._set_items(m._pop_mark()),
            "q": lambda m: m._remember(m._number("B")),
            "r": lambda m: m._remember(m._number("<I")),
            "\x94": lambda m: m._remember(len(m.memo)),
            "h": lambda m: m._push(m.memo[m._number("B")]),
            "j": lambda m: m._push(m.memo[m._number("<I")]),
            "c": lambda m: m._symbol(m._line(), m._line()),
            "\x93": lambda m: m._stack_symbol(),
            "R": lambda m: m._reduce(),
            "b": lambda m: m._build(),
            "Q": lambda m: m._reference(),
            # What foreign objects need besides: instances, sets.
            "\x81": lambda m: m._new_object([m.stack.pop(-2), m.stack.pop()]),
            "\x92": lambda m: m._new_object([m.stack.pop(-3), m.stack.pop(-2), m.stack.pop()]),
            "\x8f": lambda m: m._push([]),
            "\x90": lambda m: m._append(m._pop_mark()),
            "\x91": lambda m: m._push(m._pop_mark()),
        }.items()
    }


def _plain_key(key: Any) -> Any:
    """A key of a dict: text, a plain number, or what stands for a key that is neither."""
    if key is None or isinstance(key, bool | int | float):
        return key
    try:
        return key_of(key)
    except TriptychError:
        return Opaque(key)


def key_of(key: Any) -> str:
    """A name that may be bytes: as Python 2 writes them, or as Python 3 does for it.

    Raises:
        TriptychError: it is neither text nor bytes, or longer than any name.
    """
    if isinstance(key, Call) and key.symbol == ENCODE and len(key.arguments) == 2 and key.arguments[1] == "latin1":
        key = key.arguments[0]
    if isinstance(key, memoryview) and len(key) <= LONGEST_KEY:
        return bytes(key).decode("latin-1")
    if isinstance(key, str) and len(key) <= LONGEST_KEY:
        return key
    raise TriptychError(f"its pickle has a {type(key).__name__} for a name, where text is expected")


def _refusal(what: str) -> TriptychError:
    return TriptychError(f"its pickle holds {what}; nothing of it was run")
