"""Nodes that only one of two networks has, and whether they make a difference.

If all nodes that read such a node agree with the other network, the node makes no difference. If its value is returned,
or if a node that reads it differs, the networks differ by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.graphs import Graph
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL
from common.prove.alignment import Alignment, Unaligned, source_of
from common.prove.judging import UNPROVED, NodeVerdict
from common.prove.results import Alone


def alone_in(alignment: Alignment, layers: Sequence[NodeVerdict]) -> tuple[list[Alone], list[Alone]]:
    """The nodes that only the first has, and those that only the second has, each with its verdict.

    Args:
        alignment: of both.
        layers: the verdicts on the first's nodes.
    """
    found = {layer.name: layer for layer in layers}
    first = {pair.first.output: found.get(pair.first.name) for pair in alignment.pairs}
    second = {pair.second.output: found.get(pair.first.name) for pair in alignment.pairs}
    second |= {pair.after.output: found.get(pair.first.name) for pair in alignment.pairs if pair.after}
    return (
        [_alone(node, alignment.first, first, "first") for node in alignment.only_first],
        [_alone(node, alignment.second, second, "second") for node in alignment.only_second],
    )


def _alone(found: Unaligned, graph: Graph, aligned: Mapping[str, NodeVerdict | None], which: str) -> Alone:
    reached, returned = _reached(found.node.output, graph, aligned)
    differing = [layer.name for layer in reached if layer and layer.verdict == DIVERGED]
    agreeing = [layer.name for layer in reached if layer and layer.verdict in (CERTIFIED, IDENTICAL)]
    if returned:
        verdict, cause = DIVERGED, f"the {which} network returns its result"
    elif differing:
        verdict, cause = DIVERGED, f"{differing[0]}, which reads it, differs"
    elif reached and len(agreeing) == len(reached):
        verdict, cause = CERTIFIED, "what reads it agrees"
    else:
        verdict, cause = UNPROVED, "not all nodes that read it were judged"
    nearest = found.nearest.name if found.nearest else None
    return Alone(found.node.name, found.node.kind, found.node.source, nearest, verdict, cause, returned)


def _reached(
    value: str, graph: Graph, aligned: Mapping[str, NodeVerdict | None]
) -> tuple[list[NodeVerdict | None], bool]:
    """The verdicts of the first aligned nodes that a value leads to, and whether it leads to an output without any."""
    reached: list[NodeVerdict | None] = []
    returned, seen, left = False, {value}, [value]
    while left:
        name = left.pop()
        returned = returned or name in graph.outputs
        for node in graph.nodes:
            if name not in node.reads or node.output in seen:
                continue
            seen.add(node.output)
            if node.output in aligned:
                reached.append(aligned[node.output])
            else:
                left.append(node.output)
    return reached, returned


def difference_of_outputs(alignment: Alignment) -> str | None:
    """A sentence if the second returns another value than the first, and both networks have both values; else None."""
    graphs = alignment.first, alignment.second
    ours, theirs = ([source_of(graph, name, graph.makers()) for name in graph.outputs] for graph in graphs)
    if len(ours) != len(theirs):
        return f"the second returns {len(theirs)} values, the first {len(ours)}"
    called = alignment.values
    aligned = set(called.values())
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        if one in called and other in aligned and called[one] != other:
            return f"output {place} is {other}, not {called[one]}, the counterpart of the first one's {one}"
    return None
