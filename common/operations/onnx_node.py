"""An ONNX node as an operation reads it, and the graph that an operation is written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from common.operations.arrays import Shape

Parameter: TypeAlias = "np.ndarray | None"
"""A parameter of a layer that is written: float32, in the canonical layout. None if the layer does not have it."""


class OnnxGraph(Protocol):
    """The graph that `Operation.to_onnx` writes to."""

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of that name, and return its output, which has the same name."""

    def constants(self, layer: str, **arrays: np.ndarray | None) -> list[str]:
        """Add the arrays of a layer that are not None, and return their names: `conv1/weight`."""


class Unread(Exception):
    """The reason why there is no bound for a node's result."""


def attributes_of(proto: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name: numbers, lists of them, tensors, text."""
    from onnx import helper

    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in found.items()
    }


@dataclass(frozen=True)
class OnnxNode:
    """One result of a node, with the constants and shapes that the node reads."""

    proto: onnx.NodeProto
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    """With all axes. A value of unknown shape is absent."""
    opset: int
    result: int = 0
    """The place of the output among the node's outputs."""

    @property
    def kind(self) -> str:
        """What ONNX calls the operator: `Conv`."""
        return self.proto.op_type

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """ "" where an optional input is left out."""
        return tuple(self.proto.input)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return attributes_of(self.proto)

    def has(self, place: int) -> bool:
        """Whether the input at a place is given."""
        return place < len(self.inputs) and bool(self.inputs[place])

    def constant(self, place: int) -> np.ndarray | None:
        """The input at a place, if it is a constant."""
        return self.constants.get(self.inputs[place]) if place < len(self.inputs) else None

    def scalar(self, place: int, attribute: str, otherwise: float | None) -> float | None:
        """A number that older opsets have as an attribute and newer ones as an input."""
        if not self.has(place):
            return self.attributes.get(attribute, otherwise)
        found = self.constant(place)
        if found is None or found.size != 1:
            raise Unread(f"its {attribute} is computed")
        return float(found.reshape(()))

    def shape(self, place: int, what: str = "its input") -> Shape:
        """The shape of the input at a place, with all its axes."""
        if self.inputs[place] not in self.shapes:
            raise Unread(f"the shape of {what} is not known")
        return self.shapes[self.inputs[place]]
