"""What a graph is: values, and the nodes that make them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from common.operations.arrays import Shape
from common.operations.operation import Operation


@dataclass(frozen=True)
class Node:
    """One operation of a graph, with its inputs and its output. Arrays have all axes, also the batch's."""

    name: str
    """Unique in its graph."""
    kind: str
    """What the graph calls the operation: `Conv`."""
    operation: Operation | None
    """None: no bound has been derived, and the node is `unproved`."""
    inputs: tuple[str, ...]
    """The values that the operation takes as inputs."""
    output: str
    """The value that it makes."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The values that it takes as parameters, keyed as in `Operation.parameter_shapes`."""
    source: str | None = None
    """Its name in the user's own code: a module's path, a layer."""
    why: str | None = None
    """If it is unproved, the reason."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.inputs, *self.parameters.values())


@dataclass(frozen=True)
class Graph:
    """A network as somebody else's program wrote it."""

    name: str
    nodes: tuple[Node, ...]
    inputs: Mapping[str, Shape]
    """The shape of each input."""
    constants: Mapping[str, np.ndarray]
    """Weights, and all other values that do not depend on the inputs."""
    outputs: tuple[str, ...]
    opset: int = 0
    other_types: Mapping[str, np.dtype] = field(default_factory=dict)
    """The type of each input that is not float32: integers, such as the numbers of tokens, or truth values."""

    def makers(self) -> dict[str, Node]:
        """The node that makes each value."""
        return {node.output: node for node in self.nodes}
