"""Turns what a node puts around a map into the padding of the node that reads the map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from common.graphs.graph import Node
from common.graphs.views import Surround
from common.operations import Conv, MaxPool
from common.operations.conv_nd import ConvND
from common.operations.operation import Operation
from common.operations.pooling import AveragePool
from common.operations.pools_nd import AveragePoolND
from common.operations.rearrangement import Rearrangement


def surrounding(node: Node, constants: Mapping[str, np.ndarray], rank: int) -> Surround | None:
    """The border that a `Pad` puts around an array of so many axes. None if it is computed, negative, or repeats more
    than the border."""
    assert isinstance(node.operation, Rearrangement)
    given, attributes = [constants.get(name) for name in node.inputs[1:]], node.operation.attributes
    pads = given[0].tolist() if given and given[0] is not None else attributes.get("pads")
    mode = attributes.get("mode", "constant")
    unknown = any(array is None for array in given) or len(given) > 2
    if unknown or mode not in ("constant", "edge") or not pads or len(pads) != 2 * rank or min(pads) < 0:
        return None
    value: Any = given[1] if len(given) > 1 else attributes.get("value", 0.0)
    return Surround(tuple(zip(pads[:rank], pads[rank:], strict=True)), None if mode == "edge" else float(value))


def with_padding(operation: Operation, around: Surround, not_negative: bool) -> Operation | None:
    """The operation with the padding that a node before it has added; None if the operation cannot pad like this."""
    sides = around.sides
    if len(sides) < 3 or any(map(any, sides[:2])):
        return None
    if isinstance(operation, Conv | ConvND) and around.fill == 0 and not isinstance(operation.padding, str | int):
        return replace(operation, padding=_summed(operation.padding, sides[2:]))
    if isinstance(operation, MaxPool) and not isinstance(operation.padding, str | int):
        kernel, _, own = operation.window((1, 1, 1))
        repeated = around.fill is None and not np.any(own)  # which is in the same windows as the border itself
        repeated = repeated and all(max(side) < size for side, size in zip(sides[2:], kernel, strict=True))
        lowest = around.fill is not None and around.fill <= np.finfo(np.float32).min
        if repeated or lowest or (around.fill == 0 and not_negative):
            return replace(operation, padding=_summed(operation.padding, sides[2:]))
    if isinstance(operation, AveragePool) and around.fill == 0 and len(sides) == 4:
        kernel, stride, own = operation.window((1, 1, 1))
        if not np.any(own):
            return AveragePoolND(kernel, stride, sides[2:], (1, 1), (0, 0), counts_padding=True)
    return None


def _summed(one: Any, other: Any) -> Any:
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(one, other, strict=True))
