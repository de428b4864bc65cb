"""The differences of two nodes that correspond to each other, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from common.graphs import Node
from common.operations import Shape
from common.operations.windows import Windowed


def difference(first: Node, second: Node, shape: Shape) -> str | None:
    """The difference of two nodes' operations, in words. None if there is none, or no words for it.

    Args:
        first: a node of the first network.
        second: its counterpart.
        shape: the shape of the first one's first input, with the batch axis.
    """
    one, other = first.operation, second.operation
    if one is None or other is None or one == other:
        return None
    if type(one) is not type(other):
        return f"it is {other.kind}, not {one.kind}"
    if isinstance(one, Windowed) and isinstance(other, Windowed) and len(shape) == 4:
        sides = [operation.window(shape[1:])[2] for operation in (other, one)]
        new, old = ((top, left, bottom, right) for (top, bottom), (left, right) in sides)
        parts = [f"padded {new}, not {old} (top, left, bottom, right)"] if new != old else []
        parts += [told for name, told in _changes(one, other) if name != "padding"]
    else:
        parts = [told for _, told in _changes(one, other)]
    return "; ".join(parts) or None


def _changes(one: Any, other: Any) -> Iterator[tuple[str, str]]:
    for entry in fields(one):
        old, new = getattr(one, entry.name), getattr(other, entry.name)
        if not _same(old, new) and entry.name not in ("node", "opset", "bias"):
            words = _WORDS.get(entry.name)
            yield entry.name, words[bool(new)] if words else f"{entry.name} is {_number(new)}, not {_number(old)}"


def _same(old: Any, new: Any) -> bool:
    """Whether two attributes are the same number. A file has it in float32, a program with more digits."""
    both = isinstance(old, float) and isinstance(new, float)
    return bool(np.float32(old) == np.float32(new)) if both else old == new


_WORDS = {
    "counts_padding": ("the padding is not counted", "the padding is counted"),
    "approximate": ("it is exact, not approximated by tanh", "it is approximated by tanh, not exact"),
}
"""The words for an attribute that is false, and for one that is true."""


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
