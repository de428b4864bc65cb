"""Why a node of the second network differs from that of the first.

A node is an operation, the values that it reads, and its weights. Parts of the second's node are put in the place of
the first's, as few as possible. If the result certifies the second's output, by the same bound as everywhere, these
parts are the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph, Node
from common.operations.evaluation import evaluate
from common.operations.onnx_node import Unread
from common.parity.measures import certifies
from common.prove.alignment import Alignment, Pair, source_of
from common.prove.differences import difference
from common.prove.judging import NodeVerdict, with_cause
from common.prove.regions import Known

Arrays = Mapping[str, np.ndarray]


class Explainer:
    """Explains nodes that differ: the first's nodes, evaluated on the values of the second in a runtime."""

    def __init__(self, alignment: Alignment, graph: Graph, values: Arrays, theirs: Arrays) -> None:
        """Keep the values for explanations.

        Args:
            alignment: the alignment of both networks.
            graph: the nodes of the first that are judged.
            values: the second's values, by the names of the first.
            theirs: the same values by their own names, in canonical layout. Empty on a probe on which both read the
                same.
        """
        self.alignment, self.graph, self.theirs = alignment, graph, theirs
        self.known = Known(graph, {**graph.constants, **values})
        self.nodes = {node.name: node for node in graph.nodes}
        self.pairs = {pair.first.name: pair for pair in alignment.pairs}
        self.called = {other: name for name, other in alignment.values.items()}
        self.makers = alignment.second.makers()

    def explained(self, layer: NodeVerdict) -> NodeVerdict:
        """A node that differs, with its explanation: its attributes, else a known mistake, else its inputs or
        weights."""
        node, pair = self.nodes[layer.name], self.pairs.get(layer.name)
        swapped = pair is not None and pair.after is None
        told = self._by(node, pair, 1) if pair and swapped else None
        if told is None:
            tried = with_cause(self.graph, node, self.known, layer)
            if tried.explanations or pair is None or not swapped:
                return tried
            told = self._by(node, pair, 3)
            if told is None:
                return tried
        return replace(layer, cause=told, explanations=(told,))

    def _by(self, node: Node, pair: Pair, most: int) -> str | None:
        """The fewest parts of the second's node that certify its result, at most `most`. With 1, only attributes are
        tried."""
        output = self.known.recorded[node.output]
        if output.dtype != np.float32 or pair.second.operation is None or node.operation is None:
            return None
        inputs = [self.known.certain(name) for name in node.inputs]
        weights = {kind: self.known.certain(name) for kind, name in node.parameters.items()}
        shape = next((array.shape for array in inputs[:1] if array is not None), ())
        changed = difference(node, pair.second, shape)
        reads = [self._value(name) for name in pair.second.inputs]
        others = {kind: self._value(name) for kind, name in pair.second.parameters.items()}
        parts: dict[str, Callable[[], str]] = {"operation": lambda: changed or ""}
        if most > 1:
            parts |= {"reads": lambda: self._reading(pair), "weights": lambda: "its weights differ"}
        possible = [part for part in parts if part != "operation" or changed]
        for number in range(1, min(most, len(possible)) + 1):
            for chosen in combinations(possible, number):
                operation = pair.second.operation if "operation" in chosen else node.operation
                given = reads if "reads" in chosen else inputs
                parameters = others if "weights" in chosen else weights
                if _explains(output, operation, given, parameters):
                    return "; ".join(parts[part]() for part in chosen)
        return None

    def _value(self, name: str) -> np.ndarray | None:
        return self.theirs.get(name, self.alignment.second.constants.get(name))

    def _reading(self, pair: Pair) -> str:
        """The values that the second's node reads instead of those of the first's."""
        ours = [source_of(self.alignment.first, name) for name in pair.first.inputs]
        told = []
        for name in pair.second.inputs:
            chain = list(self._alone_before(name))
            source = source_of(self.alignment.second, chain[-1].inputs[0] if chain else name)
            first = self.called.get(source, source)
            if chain:
                affine = self._affine(chain[::-1]) if source in self.alignment.second.inputs else None
                kinds = ", ".join(f"{node.kind}{f' in {node.source}' if node.source else ''}" for node in chain[::-1])
                told.append(f"it reads {first} scaled ({affine})" if affine else f"it reads {first} after {kinds}")
            elif first not in ours:
                told.append(f"it reads {first}, not {' and '.join(ours)}")
        return "; ".join(told) or "it reads other numbers"

    def _alone_before(self, name: str) -> Iterator[Node]:
        """The nodes before a value that only the second has, the last first, as long as each reads one value only."""
        while True:
            name = source_of(self.alignment.second, name, self.makers)
            node = self.makers.get(name)
            if node is None or name in self.called:
                return
            yield node
            read = [other for other in node.inputs if other not in self.alignment.second.constants]
            if len(read) != 1:
                return
            name = read[0]

    def _affine(self, chain: Sequence[Node]) -> str | None:
        """The effect of nodes on an image, as x · scale + shift for each channel. None if it is something else."""
        first = chain[0].inputs[0]
        shape = self.theirs[first].shape if first in self.theirs else ()
        if len(shape) != 4:
            return None
        results = []
        for number in (0.0, 1.0, 2.0):
            value = np.full((1, shape[1], 1, 1), number, np.float32)
            for node in chain:
                read = [self.alignment.second.constants.get(name, value) for name in node.inputs]
                if node.operation is None or node.parameters or any(array.size > shape[1] for array in read):
                    return None
                try:
                    value = evaluate(node.operation, read, {}).value
                except (TriptychError, ValueError, IndexError):
                    return None
            results.append(value.reshape(-1))
        shift, scale = results[0], results[1] - results[0]
        if not np.allclose(results[2] - results[1], scale):
            return None
        return f"x · {_channels(scale)}" + (f" + {_channels(shift)}" if shift.any() else "")


def _explains(
    output: np.ndarray, operation: object, inputs: Sequence[np.ndarray | None], parameters: Mapping[str, object]
) -> bool:
    if any(array is None for array in (*inputs, *parameters.values())):
        return False
    try:
        reference = evaluate(operation, inputs, parameters)  # type: ignore[arg-type]
    except (TriptychError, Unread, ValueError, IndexError):
        return False
    return output.shape == reference.value.shape and certifies(output, reference, must_be_exact=False)


def _channels(numbers: np.ndarray) -> str:
    """A number, or one for each channel."""
    alike = np.allclose(numbers, numbers[0])
    told = [f"{number:.4g}" for number in (numbers[:1] if alike else numbers)]
    return told[0] if alike else f"({', '.join(told)})"
