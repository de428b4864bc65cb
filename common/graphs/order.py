"""Sorts nodes into the order in which a graph's outputs need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from common.graphs.graph import Graph, Node


def in_order(graph: Graph, turns: Callable[[Node], Sequence[str]] = lambda node: node.reads) -> list[Node]:
    """The nodes in the order in which the outputs need them, whatever their order in the file is.

    Args:
        graph: the graph.
        turns: the inputs of a node, in the order in which they are to be followed.
    """
    makers = graph.makers()
    ordered: dict[str, Node] = {}
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(graph.outputs)]
    while stack:
        name, ready = stack.pop()
        if name in ordered or name not in makers:
            continue
        if ready:
            ordered[name] = makers[name]
            continue
        stack.append((name, True))
        stack += [(read, False) for read in reversed(turns(makers[name]))]
    return list(ordered.values())
