"""A graph's nodes as the rules see them that make one node of several. A rule starts at the last of these nodes."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence

import numpy as np

from common.graphs.graph import Node
from common.operations.operation import Operation

Constants = MutableMapping[str, np.ndarray]


class Region:
    """A graph's nodes as the rules see them."""

    def __init__(self, nodes: Sequence[Node], constants: Constants, outputs: set[str]) -> None:
        self.constants, self.outputs = constants, outputs
        self.makers = {node.output: node for node in nodes}
        self.readers: dict[str, list[str]] = {}
        for node in nodes:
            for name in node.reads:
                self.readers.setdefault(name, []).append(node.output)

    def before(self, name: str, *kinds: str) -> Node | None:
        """The node that makes a value, if it has one of these kinds and one reader."""
        node = self.makers.get(name)
        alone = node is not None and len(self.readers[name]) == 1 and name not in self.outputs
        return node if node is not None and alone and node.kind in kinds else None

    def split(self, node: Node) -> tuple[str, np.ndarray] | None:
        """The value and the constant that a node with two inputs reads. In a difference or a quotient the constant is
        second."""
        if len(node.inputs) != 2:
            return None
        first, second = node.inputs
        if second in self.constants and first not in self.constants:
            return first, self.constants[second]
        if first in self.constants and second not in self.constants and node.kind in ("Add", "Mul"):
            return second, self.constants[first]
        return None

    def number(self, node: Node) -> tuple[str, float] | None:
        """As `split`, where the constant is one number."""
        found = self.split(node)
        return (found[0], float(found[1].reshape(()))) if found and found[1].size == 1 else None

    def maker(self, name: str, *kinds: str) -> Node | None:
        """The node that makes a value, if it has one of these kinds, with any number of readers."""
        node = self.makers.get(name)
        return node if node is not None and node.kind in kinds else None

    def closed(self, last: Node, taken: Sequence[Node]) -> bool:
        """Whether only a node and the nodes that it replaces read the values of the latter."""
        inside = {last.output, *(node.output for node in taken)}
        made = (node.output for node in taken)
        return all(name not in self.outputs and inside.issuperset(self.readers[name]) for name in made)


Rule = Callable[[Node, Region], "tuple[Node, Sequence[Node]] | None"]
"""A rule gets the last of several nodes. It returns the one node that they are, and the other nodes that it
replaces."""


def applied(rule: Rule, nodes: Sequence[Node], constants: Constants, outputs: set[str]) -> list[Node]:
    region = Region(nodes, constants, outputs)
    taken: set[str] = set()
    instead: dict[str, Node] = {}
    for node in nodes:
        found = rule(node, region)
        if found and not taken & {other.output for other in found[1]}:
            instead[node.output] = found[0]
            taken |= {other.output for other in found[1]}
    return [instead.get(node.output, node) for node in nodes if node.output not in taken]


def close(found: float, wanted: float) -> bool:
    """Whether a number is the float32 nearest to another."""
    return abs(found - wanted) <= 2.0**-23 * abs(wanted)


def made(node: Node, kind: str, operation: Operation, value: str) -> Node:
    """The node of an operation that replaces a node and those before it, with one input and no parameters."""
    return Node(node.name, kind, operation, (value,), node.output, {}, node.source)
