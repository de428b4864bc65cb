"""Two networks that should be one: aligned, the first one's weights moved into the second, both judged by the first.

Each node of the second is judged from what the second itself had before it, so that a difference in one layer does not
reach those after it: all differences are found in one run. Of each, the second's own attributes are tried in the place
of the first's. If they certify it, the difference is proved to be these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from common.errors import TriptychError
from common.graphs import Graph, Node
from common.graphs.canonical import Canonical, canonical
from common.operations.evaluation import evaluate
from common.operations.windows import Windowed
from common.parity.measures import certifies
from common.parity.verdicts import DIVERGED
from common.prove.alignment import Alignment, Unaligned, align, moves_only
from common.prove.judging import Expected, NodeVerdict, with_cause
from common.prove.marks import Marks
from common.prove.moving import Moved, Names, move, restored
from common.prove.pair_probe import exact_pair
from common.prove.regions import Known
from common.prove.results import Alone, ProofRun, RuntimeResult, Side, judged
from common.prove.runtimes import ONNX_RUNTIMES, Recorded, Runtime, record
from common.prove.subject import Subject, TorchSubject
from common.prove.variables import changed, read


@dataclass
class First:
    """The network that the others are judged by."""

    subject: Subject
    feeds: Mapping[str, np.ndarray]
    canonical: Canonical
    """With its normalisations as its author wrote them."""
    names: Names

    @classmethod
    def of(cls, subject: Subject, feeds: Mapping[str, np.ndarray], recorded: Recorded) -> First:
        """From what ONNX Runtime made of it."""
        variables = read(subject)
        found = _canonical(subject.graph, {**feeds, **recorded.values})
        return cls(subject, feeds, replace(found, graph=restored(found.graph, variables)), Names(variables))

    def pair_with(
        self, second: Subject, weights: str, probes: tuple[str, ...], advance: Callable[[str], None]
    ) -> list[ProofRun]:
        """Another network, judged by this one.

        Args:
            second: that network; where the first one's weights are moved, it has these afterwards.
            weights: `first`, or `own`: nothing is moved.
            probes: `exact`, `random` or both.
            advance: called after each row.

        Raises:
            TriptychError: they do not take the same inputs, or have nothing in common.
        """
        feeds = self._feeds_of(second)
        moved = None
        if weights == "first":
            second, moved = self._moved_into(second, feeds)
        return _PairProof(self, second, feeds, moved, advance).runs(probes)

    def _feeds_of(self, second: Subject) -> dict[str, np.ndarray]:
        """What the first is given, laid out as the second takes it."""
        ours, theirs = list(self.feeds.values()), second.graph.inputs
        if len(ours) != len(theirs):
            raise TriptychError(f"{second.text} takes {len(theirs)} inputs, but {self.subject.text} {len(ours)}")
        feeds = {}
        for array, (name, shape) in zip(ours, theirs.items(), strict=True):
            turns = (
                [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)]
                if array.ndim == len(shape) == 4
                else [tuple(range(array.ndim))]
            )
            fitting = [turn for turn in turns if tuple(array.shape[axis] for axis in turn) == tuple(shape)]
            if not fitting:
                takes = ["×".join(map(str, sizes)) for sizes in (shape, array.shape)]
                raise TriptychError(f"{second.text} takes {takes[0]}, but {self.subject.text} {takes[1]}")
            feeds[name] = np.ascontiguousarray(array.transpose(fitting[0]))
        return feeds

    def _moved_into(self, second: Subject, feeds: Mapping[str, np.ndarray]) -> tuple[Subject, Moved]:
        has_marks = isinstance(second, TorchSubject) and bool(second.own)
        own = load_file(second.own) if isinstance(second, TorchSubject) and second.own else read(second)
        marks = Marks(own)
        marked = second if has_marks else changed(second, marks.arrays, "marked")
        found = record(ONNX_RUNTIMES[0], marked.path, feeds, marked.folder)
        if found.error:
            raise TriptychError(f"ONNX Runtime cannot run {second.text}: {found.error}")
        there = _canonical(marked.graph, {**feeds, **found.values})
        moved = move(align(self.canonical, there), there.graph, marks, own, self.names)
        if not moved.moves and any(len(node.parameters) for node in there.graph.nodes):
            raise TriptychError(
                f"{second.text} has nothing in common with {self.subject.text}: no weight could be moved; "
                f"prove each for itself"
            )
        return changed(second, moved.variables, "moved"), moved


_TURNS: Sequence[tuple[int, ...]] = ((0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2))
"""Where a map's channels may stand."""


def _canonical(graph: Graph, values: Mapping[str, np.ndarray]) -> Canonical:
    return canonical(graph, {name: array.shape for name, array in values.items()})


def _recorded(subject: Subject, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = subject.record(ONNX_RUNTIMES[0], feeds)
    if found.error:
        raise TriptychError(f"ONNX Runtime cannot run {subject.text}: {found.error}")
    return {**feeds, **found.values}


class _PairProof:
    def __init__(
        self,
        first: First,
        second: Subject,
        feeds: Mapping[str, np.ndarray],
        moved: Moved | None,
        advance: Callable[[str], None],
    ) -> None:
        self.first, self.second, self.feeds, self.moved, self.advance = first, second, feeds, moved, advance
        self.recorded = _recorded(second, feeds)
        found = _canonical(second.graph, self.recorded)
        self.theirs = replace(found, graph=restored(found.graph, read(second) if moved is None else moved.variables))
        self.alignment = align(first.canonical, self.theirs)

    def runs(self, probes: tuple[str, ...]) -> list[ProofRun]:
        made = {"exact": self._exact, "random": self._random}
        return [made[probe]() for probe in probes]

    def _random(self) -> ProofRun:
        results = []
        for runtime in self.second.runtimes:
            found = self.second.record(runtime, self.feeds) if runtime != ONNX_RUNTIMES[0] else Recorded(self.recorded)
            theirs = self.theirs.values({**self.feeds, **found.values})
            shapes, called = self.first.canonical.shapes, self.alignment.values
            values = {name: _of_shape(theirs[other], shapes[name]) for name, other in called.items() if other in theirs}
            results.append(self._judged(runtime, self.alignment.first, values, found, Expected()))
            self.advance(f"{self.second.text}: random in {runtime.name}")
        return self._run("random", results)

    def _exact(self) -> ProofRun:
        probe = exact_pair(self.alignment, self.second, self.recorded, self.theirs.axes)
        results = []
        for runtime in ONNX_RUNTIMES:
            found = probe.record(runtime)
            results.append(self._judged(runtime, probe.graph, probe.values(found), found, probe.expected))
            self.advance(f"{self.second.text}: exact in {runtime.name}")
        return replace(self._run("exact", results), exact=(len(probe.expected.values), len(probe.graph.nodes)))

    def _judged(
        self, runtime: Runtime, graph: Graph, values: dict[str, np.ndarray], found: Recorded, expected: Expected
    ) -> RuntimeResult:
        """The row of a runtime, from the second's values by their names in a graph."""
        row = judged(runtime, graph, {}, replace(found, values=values), expected, causes=False)
        known = Known(graph, {**graph.constants, **values})
        layers = [self._explained(graph, known, layer) for layer in row.layers]
        first = next((layer for layer in layers if layer.name == row.first_divergence), None)
        return replace(row, layers=layers, likely_cause=first.cause if first else None)

    def _explained(self, graph: Graph, known: Known, layer: NodeVerdict) -> NodeVerdict:
        """A difference with its cause: the second's own attributes, if they certify it; else a known mistake."""
        if layer.verdict != DIVERGED:
            return layer
        node = next(node for node in graph.nodes if node.name == layer.name)
        pair = next((pair for pair in self.alignment.pairs if pair.first.name == layer.name), None)
        told = self._by_attributes(node, pair.second, known) if pair and pair.after is None else None
        if told:
            return replace(layer, cause=told, explanations=(told,))
        return with_cause(graph, node, known, layer)

    def _by_attributes(self, node: Node, other: Node, known: Known) -> str | None:
        """What the second's node does otherwise, if that is all that makes the difference."""
        found = {name: known.certain(name) for name in node.reads}
        output = known.recorded[node.output]
        if other.operation is None or any(value is None for value in found.values()) or output.dtype != np.float32:
            return None
        read = {name: value for name, value in found.items() if value is not None}
        inputs = [read[name] for name in node.inputs]
        told = difference(node, other, inputs)
        if told is None:
            return None
        try:
            reference = evaluate(other.operation, inputs, {kind: read[name] for kind, name in node.parameters.items()})
        except (TriptychError, ValueError, IndexError):
            return None
        same = output.shape == reference.value.shape and certifies(output, reference, must_be_exact=False)
        return told if same else None

    def _run(self, probe: str, results: list[RuntimeResult]) -> ProofRun:
        side = _side(self.alignment, self.moved)
        nodes = sum(not moves_only(node) for node in self.alignment.first.nodes)
        return ProofRun(self.second.text, probe, results, nodes, specification=self.first.subject.text, pair=side)


def _of_shape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array, in a shape that differs by axes of length 1 alone."""
    same = [size for size in array.shape if size != 1] == [size for size in shape if size != 1]
    return array.reshape(shape) if same else array


def difference(first: Node, second: Node, inputs: list[np.ndarray]) -> str | None:
    """What two nodes' operations differ in, in words; None if they do not, or nothing can be said."""
    one, other = first.operation, second.operation
    if one is None or other is None or one == other:
        return None
    if type(one) is not type(other):
        return f"it is {other.kind}, not {one.kind}"
    if isinstance(one, Windowed) and isinstance(other, Windowed) and inputs[0].ndim == 4:
        shape = inputs[0].shape[1:]
        new, old = (
            (top, left, bottom, right) for (top, bottom), (left, right) in (o.window(shape)[2] for o in (other, one))
        )
        parts = [f"padded {new}, not {old} (top, left, bottom, right)"] if new != old else []
        parts += [told for name, told in _changes(one, other) if name != "padding"]
    else:
        parts = [told for _, told in _changes(one, other)]
    return "; ".join(parts) or None


def _changes(one: Any, other: Any) -> Iterator[tuple[str, str]]:
    for entry in fields(one):
        old, new = getattr(one, entry.name), getattr(other, entry.name)
        if old != new and entry.name not in ("node", "opset", "bias"):
            words = _WORDS.get(entry.name)
            yield entry.name, words[bool(new)] if words else f"{entry.name} is {_number(new)}, not {_number(old)}"


_WORDS = {
    "counts_padding": ("the padding is not counted", "the padding is counted"),
    "approximate": ("it is exact, not approximated by tanh", "it is approximated by tanh, not exact"),
}
"""What is said of an attribute that is false, and of one that is true."""


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _side(alignment: Alignment, moved: Moved | None) -> Side:
    def alone(found: Unaligned) -> Alone:
        node, nearest = found.node, found.nearest
        return Alone(node.name, node.kind, node.source, nearest.name if nearest else None)

    def called(node: Node) -> str:
        return f"{node.name} in {node.source}" if node.source else node.name

    return Side(
        len(alignment.pairs),
        [alone(found) for found in alignment.only_first],
        [alone(found) for found in alignment.only_second],
        {pair.first.name: called(pair.second) for pair in alignment.pairs},
        None if moved is None else [vars(found) for found in moved.moves],
        [] if moved is None else moved.without_place,
    )
