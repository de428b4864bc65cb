"""The proof of a model: run on integers and on random numbers, in every runtime, and each node judged."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.graphs import Graph
from common.graphs.onnx_files import load
from common.graphs.onnx_reader import inputs_of
from common.implementations import FRAMEWORKS
from common.operations.preprocessing import Preprocessing
from common.prove.deployed import AsDeployed
from common.prove.devices import check_device
from common.prove.exact import exact_probe
from common.prove.input_files import PLAIN, Picture, as_input, layouts, only_input
from common.prove.judging import Expected
from common.prove.litert import LITERT, record_file
from common.prove.matching import corresponding
from common.prove.models import ModelName
from common.prove.ready import make_ready
from common.prove.results import ProofRun, judged
from common.prove.runtimes import ONNX_RUNTIMES, Recorded, record, runtimes_of_file
from common.prove.sensitivity import sensitivity_of
from common.prove.subject import TORCH_RUNTIMES, Example, InMemory, Shapes, Subject, TorchSubject
from common.specs import get_spec
from common.specs.seeded import seeded_generator

PROBES = ("exact", "random")
WEIGHTS = ("first", "own")


@dataclass(frozen=True)
class Request:
    """What a model is proved on."""

    probes: Sequence[str] = PROBES
    shape: Sequence[int] | None = None
    """The shape of the model's only input, batch axis first, if the model does not say it."""
    seed: int = 0
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The user's arrays for some of the model's inputs, for the random probe."""
    shapes: Shapes = field(default_factory=dict)
    """The shapes of others, batch axis first, if the model does not say them."""
    example: Example | None = None
    """The user's arrays for all inputs, in order."""
    picture: Picture | None = None
    """The only input of the random probe, or an image that becomes it."""
    backends: Sequence[str] | None = None
    """The runtimes of a model that is not a file; all if None."""
    weights: str | None = None
    """One of `WEIGHTS`: the weights of a second network. None: see `is_other_network`."""
    sensitivity: bool = False
    """Whether to measure what the exact probe sees."""
    deployed: bool = False
    """Whether each runtime also runs as it is deployed, on the inputs of the random probe."""
    device: str = "cpu"
    """`cpu`, `cuda` or `webgpu`: where ONNX Runtime runs the model's file, specification or export."""
    keep: bool = False
    """Whether the values on random numbers are kept, for the report."""


Advance = Callable[[str], None]
Given = ModelName | InMemory


def results_of(names: Sequence[Given], request: Request) -> int:
    """How many results there will be: rows times probes."""
    files = [isinstance(name, ModelName) and (name.is_onnx or name.is_session) for name in names]
    of_file, others = runtimes_of_file(request.device), 1 + len(TORCH_RUNTIMES) * (request.device == "cpu")
    rows = sum(len((Subject if is_file else TorchSubject).runtimes_on(request.device)) for is_file in files)
    deployed = sum(len(of_file[1:]) if is_file else others for is_file in files)
    results = sum({"exact": len(of_file), "random": rows}[probe] for probe in request.probes)
    return results + request.deployed * deployed


def prove(names: Sequence[Given], request: Request = Request(), advance: Advance = lambda done: None) -> list[ProofRun]:
    """Prove a model in every runtime, and other models by its graph. There is a run for each probe, with a row for each
    runtime.

    The specification is the graph of an ONNX file, or the unfolded export of a PyTorch model. Every other model counts
    as an export of the first, or as the same network. It is judged by the first one's specification, on random numbers.

    Raises:
        TriptychError: there is no such model, its input shape is not known, or two are not the same graph.
    """
    for sized in request.shapes:
        if sized in request.inputs or request.example is not None:
            raise TriptychError(f"the shape of {sized} is that of the array that is given for it; leave the shape out")
    others = names[1:]
    paired = [request.weights or is_other_network(name) for name in others]
    if not all(paired) and "random" not in request.probes:
        raise TriptychError("several models are compared on random numbers; leave out --probe, or add --probe random")
    if request.deployed and "random" not in request.probes:
        raise TriptychError("as deployed, a model runs on random numbers; leave out --probe, or add --probe random")
    if request.deployed and any(paired):
        raise TriptychError("two networks are not compared as deployed; prove each by itself")
    if request.device != "cpu":
        check_device(request.device, names, paired=any(paired))
    if any(paired) and request.backends is None:
        request = replace(request, backends=PAIRED)
    if isinstance(names[0], ModelName) and names[0].is_tflite:
        raise TriptychError(f"{names[0].text} is judged by the model that it was made from; name that model before it")
    only_onnx = all(isinstance(name, ModelName) and (name.is_onnx or name.is_tflite) for name in names)
    require_packages(*(() if only_onnx else ("torch", "onnxscript")), "onnx", "onnxruntime")
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as place, ExitStack() as ends:

        def ready(name: Given, number: int, **options: Any) -> Subject:
            options |= {name: getattr(request, name) for name in ("seed", "backends", "device")} | {"turn": any(paired)}
            return make_ready(name, Path(place) / str(number), ends, **options)

        proof = _Proof(_first(names[0], request, ready), request, advance, preprocessing_of(names[0]))
        runs = proof.runs()
        for number, (name, as_pair) in enumerate(zip(others, paired, strict=True), start=1):
            if isinstance(name, ModelName) and name.is_tflite:
                runs.append(proof.run_of_litert(name))
                continue
            other = ready(name, number, marked=as_pair == "first", **like(proof.feeds))
            runs += proof.pair_with(other) if as_pair else proof.runs_of(other)
        return runs


def _first(name: Given, request: Request, ready: Callable[..., Subject]) -> Subject:
    """The first model, for the inputs that are given. The channels of an array may be on another axis than its own."""
    given = {what: getattr(request, what) for what in ("example", "inputs", "shape", "shapes")}
    if request.picture is not None and (request.inputs or request.example is not None):
        raise TriptychError("--probe FILE is the only input of a model; leave it out, or leave out --input")
    if not isinstance(request.picture, np.ndarray) or request.shape:
        return ready(name, 0, **given)
    if isinstance(name, ModelName) and name.is_onnx:
        only_input([value.name for value in inputs_of(load(name.home, weights=False))], name.text)
    refusals = []
    for number, array in enumerate(layouts(request.picture)):
        try:
            return ready(name, -number, **given | {"example": (array,), "shape": array.shape})
        except TriptychError as error:
            refusals.append(error)
    raise refusals[0]


def preprocessing_of(name: Given) -> Preprocessing:
    """How an image is prepared for a model: for one of the catalogue as its paper says."""
    if isinstance(name, ModelName) and name.home in {framework.package for framework in FRAMEWORKS.values()}:
        return get_spec(name.name).preprocessing
    return PLAIN


PAIRED = ("torch", "keras-torch", "onnxruntime", "openvino")
"""The runtimes of two networks. For other runtimes, each network is proved by itself."""


def is_other_network(name: Given) -> str | None:
    """The weights of a second model, if the user does not say: those of the first, if it is built by name.

    Returns `first` for a model that is built by name; None for an ONNX or LiteRT file, which counts as an export of the
    first; `own` for every other model with weights of its own.
    """
    if isinstance(name, InMemory):
        return None
    if name.is_onnx or name.is_tflite:
        return None
    return "first" if name.name else "own"


class _Proof:
    """One model, its inputs, and its runtimes."""

    def __init__(self, subject: Subject, request: Request, advance: Advance, recipe: Preprocessing) -> None:
        self.subject, self.request, self.advance = subject, request, advance
        given = {subject.inputs_by_name.get(name, name): array for name, array in request.inputs.items()}
        if request.example is not None:
            names = list(self.graph.inputs)
            if len(request.example) != len(names):
                takes = ", ".join(names)
                raise TriptychError(f"{len(request.example)} inputs are given; {self.graph.name} takes {takes}")
            given |= dict(zip(names, request.example, strict=True))
        if request.picture is not None:
            name = only_input(list(self.graph.inputs), self.graph.name)
            given[name] = as_input(request.picture, self.graph.inputs[name], self.graph.name, recipe)
        self.feeds = random_feeds(subject.graph, request.seed, _fitting(given, self.graph))

    @property
    def graph(self) -> Graph:
        return self.subject.graph

    def runs(self) -> list[ProofRun]:
        first = self.first = self.subject.record(ONNX_RUNTIMES[0], self.feeds)
        if first.error:
            raise TriptychError(f"ONNX Runtime cannot run {self.subject.text}: {first.error}")
        self.shapes = {name: array.shape for name, array in (self.feeds | first.values).items()}
        made = {"exact": self._exact, "random": self._random}
        runs = [made[probe](first) for probe in self.request.probes]
        if self.request.deployed:
            runs.append(self.as_deployed.run(self.advance))
        return [self._with_graph(run) for run in runs]

    def _with_graph(self, run: ProofRun) -> ProofRun:
        """A run, with the graph and the values that its report draws."""
        return replace(run, graph=self.graph, shapes=self.shapes, device=self.request.device)

    def pair_with(self, other: Subject) -> list[ProofRun]:
        """Prove another network by this one."""
        from common.prove.pairs import First

        weights = self.request.weights or "first"
        first = First.of(self.subject, self.feeds, self.first)
        runs = first.pair_with(other, weights, tuple(self.request.probes), self.advance)
        return [self._with_graph(run) for run in runs]

    def _random(self, first: Recorded) -> ProofRun:
        results, kept = [], {}
        own = dict.fromkeys((*self.graph.makers(), *self.graph.outputs))
        self.as_deployed = AsDeployed(self.subject, self.feeds, self.graph, self.feeds, {name: name for name in own})
        for runtime in self.subject.runtimes:
            found = first if runtime == ONNX_RUNTIMES[0] else self.subject.record(runtime, self.feeds)
            results.append(judged(runtime, self.graph, self.feeds, found, Expected()))
            self.as_deployed.remember(runtime, found, results[-1])
            kept[runtime.name] = self._kept(found.values)
            self.advance(f"{self.subject.text}: random in {runtime.name}")
        return ProofRun(self.subject.text, "random", results, len(self.graph.nodes), recorded=kept)

    def _kept(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The values for the report, of the first image of the batch, if they were asked for."""
        if not self.request.keep:
            return {}
        return {name: a[0].copy() for name, a in values.items() if a.ndim in (2, 3, 4) and a.dtype == np.float32}

    def _exact(self, first: Recorded) -> ProofRun:
        import onnx

        known = {**self.feeds, **first.values}
        probe = exact_probe(self.subject.model, self.graph, known, seed=self.request.seed)
        file = self.subject.folder / "exact.onnx"
        large = probe.model.ByteSize() > 1 << 30
        onnx.save(probe.model, file, save_as_external_data=large, location="exact.data")
        results = []
        for runtime in runtimes_of_file(self.request.device):
            found = record(runtime, file, probe.feeds, self.subject.folder)
            results.append(judged(runtime, probe.graph, probe.feeds, found, probe.expected))
            self.advance(f"{self.subject.text}: exact in {runtime.name}")
        values = len(probe.expected.values)
        exact = values, values + len(probe.bounded)
        seen = sensitivity_of(probe) if self.request.sensitivity else None
        nodes = len(self.graph.nodes)
        return ProofRun(self.subject.text, "exact", results, nodes, exact, probe.missed, sensitivity=seen)

    def runs_of(self, other: Subject) -> list[ProofRun]:
        """Prove another model by this one's specification."""
        if list(other.graph.inputs.values()) != list(self.graph.inputs.values()):
            takes = [" and ".join("×".join(map(str, s)) for s in g.inputs.values()) for g in (other.graph, self.graph)]
            raise TriptychError(f"{other.text} takes {takes[0]}, but {self.subject.text} {takes[1]}")
        called = corresponding(self.graph, other.graph)
        feeds = dict(zip(other.graph.inputs, self.feeds.values(), strict=True))
        results, kept = [], {}
        as_deployed = AsDeployed(other, feeds, self.graph, self.feeds, called)
        for runtime in other.runtimes:
            recorded = other.record(runtime, feeds)
            found = recorded.renamed(called)
            # What a folded graph makes of several nodes' numbers was not rounded between these.
            row = judged(replace(runtime, optimise=True), self.graph, self.feeds, found, Expected())
            results.append(row)
            as_deployed.remember(runtime, recorded, row)
            kept[runtime.name] = self._kept(found.values)
            self.advance(f"{other.text}: random in {runtime.name}")
        runs = [ProofRun(other.text, "random", results, len(self.graph.nodes), recorded=kept)]
        if self.request.deployed:
            runs.append(as_deployed.run(self.advance))
        return [self._with_graph(replace(run, specification=self.subject.text)) for run in runs]

    def run_of_litert(self, name: ModelName) -> ProofRun:
        """Prove a `.tflite` file by this model's specification."""
        if self.request.weights:
            raise TriptychError(f"{name.text} keeps its own weights, and is judged as an export; leave out --weights")
        folder = self.subject.folder
        found = record_file(Path(name.home), name.text, self.graph, {**self.feeds, **self.first.values}, folder)
        if found.error and not found.skipped:
            raise TriptychError(found.error)
        row = judged(LITERT, self.graph, self.feeds, found, Expected())
        seen = [node for node in self.graph.nodes if node.output in found.values and node.name != row.first_divergence]
        if row.first_divergence and seen:
            last = f"the last value that the file has in common with it is that of {seen[-1].name}"
            row = replace(row, note=last + (f" in {seen[-1].source}" if seen[-1].source else ""))
        self.advance(f"{name.text}: random in {LITERT.name}")
        nodes = len(self.graph.nodes)
        return self._with_graph(ProofRun(name.text, "random", [row], nodes, specification=self.subject.text))


def like(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inputs of the first model and their shape, for which another model is made ready."""
    arrays = list(feeds.values())
    return {"example": arrays, "shape": list(arrays[0].shape) if len(arrays) == 1 else None}


def random_feeds(graph: Graph, seed: int, given: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Normal random numbers, float32, for all inputs of a model that are not given.

    Raises:
        TriptychError: an input takes integers or truth values, and is not given. Which of them have a meaning, the
            model does not say.
    """
    given = given or {}
    for name, kind in graph.other_types.items():
        if name not in given:
            told = f"give it with --input {name}=FILE.npy, or as part of an example from Python"
            raise TriptychError(f"{graph.name} takes {name}, which is {kind}, not float32; {told}")
    return {
        name: given[name] if name in given else seeded_generator(seed, name).standard_normal(shape, np.float32)
        for name, shape in graph.inputs.items()
    }


def _fitting(given: Mapping[str, np.ndarray], graph: Graph) -> Mapping[str, np.ndarray]:
    """The user's inputs, checked against those of the model.

    Raises:
        TriptychError: it has no such input, or one of another shape or type.
    """
    for name, array in given.items():
        if name not in graph.inputs:
            raise TriptychError(f"{graph.name} has no input {name!r}; it takes {', '.join(graph.inputs)}")
        if array.shape != graph.inputs[name]:
            found, wanted = ("×".join(map(str, shape)) for shape in (array.shape, graph.inputs[name]))
            raise TriptychError(f"--input {name} is {found}, but {graph.name} takes {wanted}")
        kind = graph.other_types.get(name, np.dtype(np.float32))
        if array.dtype != kind:
            raise TriptychError(f"--input {name} is {array.dtype}, but {graph.name} takes {kind}")
    return given


def require_packages(*names: str) -> None:
    """Check that packages are installed.

    Raises:
        TriptychError: one is not.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        installed = "pip install -c constraints.txt -e '.[prove]'"
        raise TriptychError(f"a proof needs {' and '.join(missing)}, not installed here; {installed}")
