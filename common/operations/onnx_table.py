"""The table of which operation reads which of ONNX's operators.

A class with `@reads` above it names its ONNX operators. Its `Operation.from_onnx` makes the operation from a node.
Opsets 7 to 23 are read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TypeVar

from common.operations.onnx_node import OnnxNode, Unread
from common.operations.operation import Found, Operation

OperationClass = TypeVar("OperationClass", bound=type[Operation])

_READERS: dict[str, type[Operation]] = {}


def reads(*kinds: str) -> Callable[[OperationClass], OperationClass]:
    """Enter a class as the reader of ONNX's operators of these names."""

    def enter(operation: OperationClass) -> OperationClass:
        _READERS.update(dict.fromkeys(kinds, operation))
        return operation

    return enter


@cache
def _readers() -> dict[str, type[Operation]]:
    """The table, after every file of this package has been imported."""
    for module in iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")
    return _READERS


def operation_of(node: OnnxNode) -> Found:
    """The operation of a node's result.

    Raises:
        Unread: no bound has been derived for it.
    """
    if node.proto.domain not in ("", "ai.onnx"):
        raise Unread(f"it is an operator of {node.proto.domain}")
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.proto.attribute):
        raise Unread("it holds another graph (control flow)")
    reader = _readers().get(node.kind)
    if reader is None or (node.result and not reader.any_result):
        raise nobody_knows(node)
    return reader.from_onnx(node)


def nobody_knows(node: OnnxNode) -> Unread:
    return Unread(f"no bound has been derived for {node.kind}")
