"""Two networks that should be the same: aligned, the first one's weights moved into the second, both judged by the
first.

Each node of the second is judged on the inputs that the second itself had there. So a difference does not reach the
layers after it, and one run finds all differences. For each, attributes of the second are tried in the place of the
first's. If they certify the output, they are proved to be the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from safetensors.numpy import load_file

from common.errors import TriptychError, argument
from common.graphs import Graph, Node
from common.graphs.canonical import Canonical, canonical
from common.layouts import TURNS
from common.operations.recurrent import Recurrent
from common.parity.results import INCOMPLETE
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL
from common.prove.alignment import align, moves_only, source_of
from common.prove.differences import difference
from common.prove.explaining import Explainer
from common.prove.judging import UNPROVED, Expected, NodeVerdict
from common.prove.marks import Marks
from common.prove.moving import Moved, Names, move, restored, unfilled
from common.prove.pair_probe import exact_pair
from common.prove.results import ProofRun, RuntimeResult, Side, judged
from common.prove.runtimes import FILE_RUNTIMES, ONNX_RUNTIMES, Recorded, Runtime, record
from common.prove.subject import Subject, TorchSubject
from common.prove.unaligned import alone_in, difference_of_outputs
from common.prove.variables import changed, read


@dataclass
class First:
    """The network by which others are judged."""

    subject: Subject
    feeds: Mapping[str, np.ndarray]
    canonical: Canonical
    """The graph, with normalisations as the author wrote them."""
    names: Names
    values: Mapping[str, np.ndarray]
    """Its values, in canonical layout."""

    @classmethod
    def of(cls, subject: Subject, feeds: Mapping[str, np.ndarray], recorded: Recorded) -> First:
        """Made from its values in ONNX Runtime."""
        variables = read(subject)
        found = _canonical(subject.graph, {**feeds, **recorded.values})
        values = found.values({**feeds, **recorded.values})
        return cls(subject, feeds, replace(found, graph=restored(found.graph, variables)), Names(variables), values)

    def pair_with(
        self, second: Subject, weights: str, probes: tuple[str, ...], advance: Callable[[str], None]
    ) -> list[ProofRun]:
        """Another network, judged by this one.

        Args:
            second: that network. If weights are moved, it has those of the first afterwards.
            weights: `first`, or `own` if nothing is to be moved.
            probes: `exact`, `random` or both.
            advance: called after each row.

        Raises:
            TriptychError: they do not take the same inputs, or have nothing in common.
        """
        moved = None
        if weights == "first":
            second, moved, _ = self.moved_into(second)
        return _PairProof(self, second, self._feeds_of(second), moved, advance).runs(probes)

    def _feeds_of(self, second: Subject) -> dict[str, np.ndarray]:
        """The inputs of the first, in the layout of the second."""
        ours, theirs = list(self.feeds.values()), second.graph.inputs
        if len(ours) != len(theirs):
            raise TriptychError(f"{second.text} takes {len(theirs)} inputs, but {self.subject.text} {len(ours)}")
        feeds = {}
        for array, (name, shape) in zip(ours, theirs.items(), strict=True):
            turns: Sequence[tuple[int, ...]] = TURNS[4] if array.ndim == len(shape) == 4 else [tuple(range(array.ndim))]
            fitting = [turn for turn in turns if tuple(array.shape[axis] for axis in turn) == tuple(shape)]
            if not fitting:
                takes = ["×".join(map(str, sizes)) for sizes in (shape, array.shape)]
                raise TriptychError(f"{second.text} takes {takes[0]}, but {self.subject.text} {takes[1]}")
            feeds[name] = np.ascontiguousarray(array.transpose(fitting[0]))
        return feeds

    def moved_into(self, second: Subject) -> tuple[Subject, Moved, list[str]]:
        """Another network with this one's weights; the moves; and the weights of the other for which this one has none.

        Raises:
            TriptychError: they do not take the same inputs, or no weight could be moved, or it has recurrent layers.
        """
        recurrent = next((node for node in second.graph.nodes if isinstance(node.operation, Recurrent)), None)
        if recurrent:
            raise TriptychError(
                f"{second.text} has recurrent layers ({recurrent.kind}), whose weights cannot be moved yet; give it "
                f"the weights of {self.subject.text} and prove both with {argument('weights', 'own')}"
            )
        feeds = self._feeds_of(second)
        has_marks = isinstance(second, TorchSubject) and bool(second.own)
        own = load_file(second.own) if isinstance(second, TorchSubject) and second.own else read(second)
        marks = Marks(own)
        marked = second if has_marks else changed(second, marks.arrays, "marked")
        found = record(ONNX_RUNTIMES[0], marked.path, feeds, marked.folder)
        if found.error:
            raise TriptychError(f"ONNX Runtime cannot run {second.text}: {found.error}")
        there = _canonical(marked.graph, {**feeds, **found.values})
        aligned = align(self.canonical, there)
        moved = move(aligned, there.graph, marks, own, self.names)
        if not moved.moves and any(len(node.parameters) for node in there.graph.nodes):
            raise TriptychError(
                f"{second.text} has nothing in common with {self.subject.text}: no weight could be moved; "
                f"prove each by itself"
            )
        return changed(second, moved.variables, "moved"), moved, unfilled(aligned, marks, moved)


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
            results.append(self._judged(runtime, self.alignment.first, values, found, Expected(), theirs))
            self.advance(f"{self.second.text}: random in {runtime.name}")
        return self._run("random", results)

    def _exact(self) -> ProofRun:
        probe = exact_pair(self.alignment, self.second, self.recorded, self.theirs.axes)
        results = []
        for runtime in FILE_RUNTIMES:
            found = probe.record(runtime)
            results.append(self._judged(runtime, probe.graph, probe.values(found), found, probe.expected, {}))
            self.advance(f"{self.second.text}: exact in {runtime.name}")
        exact = len(probe.expected.values), len(probe.graph.nodes)
        return replace(self._run("exact", results), exact=exact, missed=probe.missed)

    def _judged(
        self,
        runtime: Runtime,
        graph: Graph,
        values: Mapping[str, np.ndarray],
        found: Recorded,
        expected: Expected,
        theirs: Mapping[str, np.ndarray],
    ) -> RuntimeResult:
        """The row of a runtime in the report.

        Args:
            runtime: the runtime of the values.
            graph: the first's nodes that are judged.
            values: the second's values, by their names in that graph.
            found: the answer of the runtime.
            expected: of an exact probe.
            theirs: the values by the second's names, if the nodes of both may read different values.
        """
        row = judged(runtime, graph, {}, replace(found, values=dict(values)), expected, causes=False)
        if not row.layers:
            return row
        explainer = Explainer(self.alignment, graph, values, theirs)
        layers = [explainer.explained(layer) if layer.verdict == DIVERGED else layer for layer in row.layers]
        beyond = [layer for layer in self._beyond(layers) if layer.verdict == DIVERGED or not expected.values]
        layers += beyond
        if any(layer.verdict == UNPROVED for layer in beyond):
            row = replace(row, verdict=INCOMPLETE)
        first = next((layer for layer in layers if layer.verdict == DIVERGED), None)
        if first:
            row = replace(row, status="diverged", verdict=DIVERGED, first_divergence=first.name)
            row = replace(row, source=first.source, likely_cause=first.cause)
        return replace(row, layers=layers)

    def _beyond(self, layers: Sequence[NodeVerdict]) -> Iterator[NodeVerdict]:
        """Differences that belong to no aligned node: nodes and outputs that only one network has."""
        sides = zip(alone_in(self.alignment, layers), ("", f" of {self.second.text}"), strict=True)
        for alone, owner in ((alone, owner) for side, owner in sides for alone in side):
            if alone.returned or alone.verdict == UNPROVED:
                cause = f"only one of the networks has it: {alone.cause}"
                yield _without_ratio(f"{alone.name}{owner}", alone.verdict, cause, alone.kind, alone.source)
        told = difference_of_outputs(self.alignment)
        if told:
            yield _without_ratio("outputs", DIVERGED, told, "Output", None)

    def _run(self, probe: str, results: list[RuntimeResult]) -> ProofRun:
        aligned = self.alignment
        layers = sorted(
            (layer for row in results for layer in row.layers), key=lambda layer: _WORST.index(layer.verdict)
        )
        only_first, only_second = alone_in(aligned, layers)
        side = Side(
            len(aligned.pairs),
            only_first,
            only_second,
            {pair.first.name: _called(pair.second) for pair in aligned.pairs},
            None if self.moved is None else [vars(found) for found in self.moved.moves],
            [] if self.moved is None else self.moved.without_place,
            dict(self._within(layers)),
            self._end_to_end(),
        )
        nodes = sum(not moves_only(node) for node in aligned.first.nodes) + len(only_second)
        return ProofRun(self.second.text, probe, results, nodes, specification=self.first.subject.text, pair=side)

    def _end_to_end(self) -> float | None:
        """See `Side.end_to_end`."""
        theirs, called, apart = self.theirs.values(self.recorded), self.alignment.values, []
        for name in self.alignment.first.outputs:
            one = self.first.values.get(source_of(self.alignment.first, name))
            other = theirs.get(called.get(source_of(self.alignment.first, name), ""))
            if one is not None and other is not None and one.size == other.size and one.any():
                apart.append(float(np.abs(one.reshape(-1) - other.reshape(-1)).max() / np.abs(one).max()))
        return max(apart, default=None)

    def _within(self, layers: Sequence[NodeVerdict]) -> Iterator[tuple[str, str]]:
        """The nodes whose attributes differ while the values stay within the bound, and the differences."""
        agreeing = {layer.name for layer in layers if layer.verdict in (CERTIFIED, IDENTICAL)}
        differing = {layer.name for layer in layers if layer.verdict == DIVERGED}
        for pair in self.alignment.pairs:
            first, second = pair.first, pair.second
            if first.name in agreeing - differing and type(first.operation) is type(second.operation):
                told = difference(first, second, self.first.canonical.shapes.get(first.inputs[0], ()))
                if told:
                    yield first.name, told


_WORST = IDENTICAL, CERTIFIED, UNPROVED, DIVERGED


def _called(node: Node) -> str:
    return f"{node.name} in {node.source}" if node.source else node.name


def _without_ratio(name: str, verdict: str, cause: str, kind: str, source: str | None) -> NodeVerdict:
    return NodeVerdict(name, verdict, None, "other", None, cause=cause, kind=kind, source=source)


def _of_shape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array in a shape that differs only by axes of length 1."""
    same = [size for size in array.shape if size != 1] == [size for size in shape if size != 1]
    return array.reshape(shape) if same else array
