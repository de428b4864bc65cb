"""The exact probe of two networks: the second with integer weights, judged by the operations of the first.

The second's own graph gets integers (`common.prove.exact`). Its inputs and weights are then put into the nodes of the
first. So every node that can be exact has only one right result, to the bit, by the first one's operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, Node
from common.graphs.canonical import Canonical, canonical
from common.graphs.views import Surround
from common.operations import BatchNorm
from common.operations.onnx_node import Unread
from common.prove.alignment import Alignment, Pair, source_of
from common.prove.exact import GraphProbe, exact_probe, is_exact
from common.prove.judging import Expected
from common.prove.runtimes import ONNX_RUNTIMES, Recorded, Runtime, record
from common.prove.subject import Subject


@dataclass
class PairProbe:
    """The first's operations, on the values of the second."""

    graph: Graph
    """The nodes of the first that can be judged in this way. They read the second's values and weights."""
    expected: Expected
    probe: GraphProbe
    there: Canonical
    file: Path
    missed: Sequence[str]
    """The nodes that can be exact, but round on these numbers."""

    def record(self, runtime: Runtime) -> Recorded:
        return record(runtime, self.file, self.probe.feeds, self.file.parent)

    def values(self, found: Recorded) -> dict[str, np.ndarray]:
        """The values of a runtime, in canonical layout."""
        return self.there.values({**self.probe.feeds, **found.values})


def exact_pair(
    alignment: Alignment, second: Subject, recorded: Mapping[str, np.ndarray], axes: Mapping[str, tuple[int, ...]]
) -> PairProbe:
    """Integers for the second, and the results that the first's operations require.

    Args:
        alignment: of both.
        second: the second.
        recorded: its values on other numbers.
        axes: how the values are transposed (`Canonical.axes`).

    Raises:
        TriptychError: ONNX Runtime cannot run the second with them.
    """
    import onnx

    probe = exact_probe(second.model, second.graph, recorded)
    file = second.folder / "exact pair.onnx"
    large = probe.model.ByteSize() > 1 << 30
    onnx.save(probe.model, file, save_as_external_data=large, location="exact pair.data")
    found = record(ONNX_RUNTIMES[0], file, probe.feeds, file.parent)
    if found.error:
        raise TriptychError(f"ONNX Runtime cannot run {second.text} on the exact probe: {found.error}")
    read = {name for node in probe.graph.nodes for name in node.reads}
    ends = tuple(node.output for node in probe.graph.nodes if node.output not in read)  # it is cut in many places
    cut = replace(probe.graph, outputs=ends)
    shapes = {name: array.shape for name, array in {**probe.feeds, **found.values}.items()}
    own = second.graph.makers()
    replaced = {
        name: axes[before]
        for node in cut.nodes
        for name, before in zip(node.inputs, own[node.output].inputs, strict=True)
        if name in cut.inputs and before in axes
    }
    there = canonical(cut, shapes, replaced)
    made = there.graph.makers()
    values = there.values({**probe.feeds, **found.values})
    known = {**there.graph.constants, **values}
    nodes, expected, missed = [], {}, []
    for pair in alignment.pairs:
        other = made.get(pair.second.output)
        node = _transplanted(pair, other, alignment, known) if other is not None else None
        if node is None:
            continue
        nodes.append(node)
        exact, can_be = _exact(node, known)
        if exact is not None:
            expected[node.output] = exact
        elif can_be:
            missed.append(node.name)
    inputs = {name: array.shape for name, array in probe.feeds.items()}
    graph = Graph(alignment.first.name, tuple(nodes), inputs, there.graph.constants, (), alignment.first.opset)
    return PairProbe(graph, Expected(expected, values), probe, there, file, missed)


def _transplanted(pair: Pair, other: Node, alignment: Alignment, known: Mapping[str, np.ndarray]) -> Node | None:
    """The first's operation on the inputs of the second's node; None if the two nodes read different values.

    Such nodes are judged on random numbers, where the values of both are known by name.
    """
    node, names, constants = pair.first, alignment.values, alignment.first.constants
    scaled = (found.operation.eps == 0 for found in (node, other) if isinstance(found.operation, BatchNorm))
    if pair.after is not None or other.operation != pair.second.operation or any(scaled):
        return None  # it is cut in the middle, or of a scale that was computed before, whose eps cannot be told
    sides = ((node.inputs, alignment.first.makers()), (pair.second.inputs, alignment.second.makers()))
    if any(name in makers and isinstance(makers[name].operation, Surround) for read, makers in sides for name in read):
        return None  # what is put around a map is there or not, depending on where the probe cuts
    uncut = [source_of(alignment.second, name) for name in pair.second.inputs]
    inputs = []
    for name in node.inputs:
        wanted = None if name in constants else names.get(source_of(alignment.first, name))
        places = [place for place, theirs in enumerate(uncut) if theirs == wanted and place < len(other.inputs)]
        if name in constants:
            places = [place for place, theirs in enumerate(pair.second.inputs) if theirs in alignment.second.constants]
        if not places or (len(places) > 1 and len(set(uncut)) > 1):
            return None
        inputs.append(other.inputs[places[0]])
        if name in constants and constants[name].shape != known[inputs[-1]].shape:
            return None
    parameters = {}
    for kind, name in node.parameters.items():
        if kind in other.parameters:
            parameters[kind] = other.parameters[kind]
            if name not in constants or constants[name].shape != known[parameters[kind]].shape:
                return None
        elif kind != "bias":
            return None
    if len(inputs) != len(other.inputs) or not all(name in known for name in (*inputs, *parameters.values())):
        return None
    return replace(node, inputs=tuple(inputs), output=other.output, parameters=parameters)


def _exact(node: Node, known: Mapping[str, np.ndarray]) -> tuple[np.ndarray | None, bool]:
    """The only right bits of a node's value, if it rounds nothing; and whether it rounds nothing on some numbers."""
    if node.operation is None or known.get(node.output, np.zeros(0)).dtype != np.float32:
        return None, False
    inputs, parameters = [known[n] for n in node.inputs], {kind: known[n] for kind, n in node.parameters.items()}
    with suppress(TriptychError, Unread, ValueError, IndexError):
        reference = node.operation.reference(inputs, parameters)
        unit = node.operation.unit(inputs, parameters) if reference.magnitude is not None else 0.0
        value = reference.value.astype(np.float32) if is_exact(node.operation, reference, unit) else None
        return value, reference.magnitude is not None
    return None, False
