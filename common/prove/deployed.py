"""The proof of a model as it is deployed: each runtime runs once more, and nothing but the outputs is asked for.

When every value is recorded, a runtime fuses less. So its outputs may have other bits than in deployment. These ways to
judge them are tried in turn:

- They are *the bits of the recorded run*, whose nodes have been judged; or those of another runtime's, if it is proved.
- *ONNX Runtime* writes the graph that it makes of a file. That graph is run node by node. If it gives the same bits,
  its values are those that were computed, and each that the specification has is judged (`common.prove.optimised`).
- A *compiler* leaves most of its fusions as they are if only a few values are asked for. So the outputs of products are
  asked for too: of all of them, of every second one, and so on, until the outputs have the deployed bits. If too few
  values are known then, the other ones are asked for in further runs.
- Else the bound is *carried from the inputs* to the outputs. It grows with every layer.

A carried bound that is wider than half of the largest number of a value says too little: that value is unproved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.graphs import Graph
from common.operations.rounding import Reference
from common.parity.measures import measure
from common.parity.results import INCOMPLETE
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL
from common.prove.judging import UNPROVED, Expected
from common.prove.litert import LITERT
from common.prove.optimised import PRODUCTS
from common.prove.results import ProofRun, RuntimeResult, judged
from common.prove.runtimes import ONNX_RUNTIMES, Recorded, Runtime
from common.prove.subject import EXPORT, Inputs, Subject

WIDEST = 0.5
"""The widest bound that is carried to a value, relative to the largest number of that value. Chosen, not derived: a
bound as wide as the value itself would allow any value of that size."""

STRIDES = 1, 2, 3, 4, 8
"""After which products a value is asked for beside the outputs: each, every second one, and so on."""

MOST_RUNS = 6
"""How often more values are asked for, if the first run with the deployed bits has too few. A compiler takes long."""


@dataclass
class Seen:
    """What is known of a runtime from its recorded run, on the random probe."""

    row: RuntimeResult
    outputs: Mapping[str, np.ndarray]
    """The outputs of the model, by their names in the specification."""
    names: Sequence[str]
    """All values that were recorded, by their own names."""


@dataclass
class AsDeployed:
    """One model in all runtimes.

    Args:
        subject: the model.
        feeds: its inputs on the random probe.
        graph: the specification; its inputs are `given`.
        called: for values of the specification, what they are called in the model's own graph.
    """

    subject: Subject
    feeds: Inputs
    graph: Graph
    given: Inputs
    called: Mapping[str, str]
    seen: dict[str, Seen] = field(default_factory=dict)

    def remember(self, runtime: Runtime, found: Recorded, row: RuntimeResult) -> None:
        """Keep what is needed of a runtime's recorded run."""
        outputs = {name: array.copy() for name, array in self._outputs(found).items()}
        self.seen[runtime.name] = Seen(row, outputs, list(found.values))

    def run(self, advance: Callable[[str], None]) -> ProofRun:
        """The model in all runtimes in which it is deployed."""
        rows = []
        for runtime in self.subject.deployed:
            rows.append(self._row(runtime))
            advance(f"{self.subject.text}: deployed in {runtime.name}")
        return ProofRun(self.subject.text, "deployed", rows, len(self.graph.nodes))

    def _row(self, runtime: Runtime) -> RuntimeResult:
        found = self.subject.record(runtime, self.feeds, ())
        if found.error:
            return judged(runtime, self.graph, {}, found, Expected())
        outputs = self._outputs(found)
        seen = self.seen[runtime.name]
        for name, other in sorted(self.seen.items(), key=lambda entry: entry[0] != runtime.name):
            proved = other.row.verdict in (IDENTICAL, CERTIFIED)
            if other.outputs and _same(outputs, other.outputs) and (proved or name == runtime.name):
                told = f" of {name}" * (name != runtime.name)
                return self._as_recorded(replace(other.row, backend=runtime.name), found.seconds, told)
        apart = _apart(outputs, seen.outputs)
        if runtime in (ONNX_RUNTIMES[1], EXPORT):
            optimised = self.subject.optimised(self.feeds)
            if self._gives(optimised, outputs):
                told = "judged at the values of the graph that ONNX Runtime makes of it, which gives these bits"
                return self._judged(runtime, replace(optimised, seconds=found.seconds), f"{apart}; {told}", apart)
        if runtime.optimise and runtime != LITERT:
            row = self._judged_on_the_way(runtime, seen, found, apart)
            if row:
                return row
        row = self._judged(runtime, found, f"{apart}; nothing between the inputs and the outputs is known", apart)
        widths = [f"{node.name}: {node.cause}" for node in row.layers if node.verdict == CERTIFIED and node.cause]
        return replace(row, note="; ".join((row.note or "", *widths)))

    def _as_recorded(self, row: RuntimeResult, seconds: float, whose: str) -> RuntimeResult:
        """The row of a runtime whose outputs have the bits of a recorded run: what was found there holds here."""
        outputs = {self.graph.makers()[name].name for name in self.graph.outputs if name in self.graph.makers()}
        first = row.first_divergence
        layers = [node for node in row.layers if node.name in outputs or node.name == first]
        said = f"the bits of the recorded run{whose}"
        if row.verdict == INCOMPLETE and not any(node.verdict == UNPROVED for node in layers):
            said += ", in which not every node is proved"
        return replace(row, layers=layers, note=said, seconds=seconds, timing={"run": seconds, "judge": 0.0})

    def _judged_on_the_way(self, runtime: Runtime, seen: Seen, found: Recorded, apart: str) -> RuntimeResult | None:
        """The row of a compiler, from runs with the deployed bits in which some values are asked for too.

        None if there is no such run. Of one with too few values, the bound may be too wide. Then other values are asked
        for in more runs.
        """
        outputs, chosen = self._outputs(found), _after_products(self.subject.graph, seen.names)
        values, more = dict(found.values), 0
        rows: list[RuntimeResult] = []
        for stride in STRIDES:
            for start in reversed(range(stride)):
                only = chosen[start::stride]
                if not only or more == MOST_RUNS or (start < stride - 1 and not rows):
                    continue
                attempt = self.subject.record(runtime, self.feeds, only)
                more += bool(rows)
                if not self._gives(attempt, outputs):
                    continue
                values |= attempt.values
                told = f"judged at {len(values)} values; it gives the same bits when they are asked for"
                told += f", in {len(rows) + 1} runs" * bool(rows)
                row = self._judged(runtime, replace(found, values=dict(values)), f"{apart}; {told}", apart)
                # Where the values of several runs do not go together, that need not be an error.
                if row.verdict != INCOMPLETE and not (rows and row.verdict == DIVERGED):
                    return row
                rows.append(row)
        return next((row for row in reversed(rows) if row.verdict == INCOMPLETE), None)

    def _gives(self, attempt: Recorded, outputs: Mapping[str, np.ndarray]) -> bool:
        return not attempt.error and _same(outputs, self._outputs(attempt))

    def _judged(self, runtime: Runtime, found: Recorded, note: str, apart: str) -> RuntimeResult:
        found = found.renamed(self.called)
        fused = replace(runtime, optimise=True)
        with np.errstate(over="ignore", invalid="ignore"):  # a bound may grow beyond all numbers on the way
            row = judged(fused, self.graph, self.given, found, Expected(), widest=WIDEST)
        row = replace(row, note="; ".join(filter(None, (row.note, note))))
        if row.verdict != INCOMPLETE:
            return row
        layers = [replace(n, cause=f"{n.cause}; {apart}") if n.verdict == UNPROVED else n for n in row.layers]
        return replace(row, layers=layers)

    def _outputs(self, found: Recorded) -> dict[str, np.ndarray]:
        values = found.renamed(self.called).values
        return {name: values[name] for name in self.graph.outputs if name in values}


def _after_products(graph: Graph, recorded: Sequence[str]) -> list[str]:
    """The recorded values that are the first after a product, but not the outputs."""
    found, fresh = [], set[str]()
    seen = set(recorded) - set(graph.outputs)
    for node in graph.nodes:
        if node.kind in PRODUCTS or fresh.intersection(node.inputs):
            if node.output in seen:
                found.append(node.output)
            else:
                fresh.add(node.output)
    return found


def _same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether both have the same outputs with the same bits, but for the sign of zero."""
    return one.keys() == other.keys() and all(_equal(array, other[name]) for name, array in one.items())


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _apart(outputs: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> str:
    """How far the outputs are from those of the recorded run, in words."""
    pairs = [(array, recorded[name]) for name, array in outputs.items() if name in recorded]
    if not pairs:
        return "there is no recorded run to compare its outputs with"
    floats = [(a, b) for a, b in pairs if a.dtype == b.dtype == np.float32 and a.shape == b.shape]
    distances = [measure(a, Reference(b, None)).ulp for a, b in floats]
    if len(floats) < len(pairs) or None in distances:
        return "its outputs are not those of the recorded run"
    return f"its outputs are up to {max(d for d in distances if d is not None)} ULP from those of the recorded run"
