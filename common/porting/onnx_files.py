"""ONNX models and frozen graphs of TensorFlow, matched by graph and shape.

Names do not count: exporters choose them freely.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np

from common.errors import TriptychError
from common.graphs.onnx_files import without_weights
from common.operations import BatchNorm
from common.porting import frozen_graphs
from common.porting.conventions import CONVENTIONS, Convention
from common.porting.graph_defs import GraphDef
from common.porting.graph_matches import Match, identify
from common.porting.onnx_graphs import Graph
from common.porting.onnx_images import Affine, formula, proved, whole
from common.porting.skeletons import Node, pairs
from common.porting.source import Source, corrupt, told_of
from common.specs.architecture import Architecture, Preprocessing

FROZEN = "frozen TensorFlow graph"

STUMBLES = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
"""The exceptions that a damaged graph causes."""

PRODUCERS = {
    "pytorch": ("torchvision",),
    "tf2onnx": ("keras.applications",),
    "keras2onnx": ("keras.applications",),
    "tensorflow": ("slim", "keras.applications"),
}
"""For each producer of a file, the conventions whose names prove where the network is from."""

NUMBERED = ("torchvision", "torchvision before 0.1.8", "timm")
"""The conventions that number a VGG's layers, including its batch normalisations."""

UNPREPARED = (
    "its graph prepares the image itself, {}, and nothing says what x is: "
    "state a preprocessing that includes everything that is done to a pixel before the first layer"
)

CARRIED = "its names are those of {}, whose batch normalisations are folded into the convolutions: it is ported as {}"

FOLDED = (
    "its batch normalisations are folded into the convolutions: those written here have the scale 1 and add the folded "
    "bias"
)


def read_onnx(path: Path, content: memoryview) -> Source:
    """The weights of an ONNX model under canonical names.

    Raises:
        TriptychError: the file is damaged, refers to data outside its folder, or its graph is none of the catalogue's.
    """
    try:
        from google.protobuf.message import DecodeError
    except ImportError:
        raise TriptychError(f"cannot read {path}: onnx is not installed; pip install onnx") from None
    try:
        model, raw = without_weights(content)
        graph = Graph(path, model.graph, raw)
        outputs = graph.skeletons()
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    except (DecodeError, *STUMBLES) as error:
        if isinstance(error, TriptychError):
            raise told_of(path, error) from None
        raise corrupt(path, "it is damaged, or no ONNX model") from None
    return _matched(path, "ONNX model", graph, outputs, metadata, model.producer_name)


def read_frozen(path: Path, content: memoryview) -> Source:
    """The weights of a frozen graph of TensorFlow under canonical names.

    Raises:
        TriptychError: the file is damaged, is not frozen, or its graph is none of the catalogue's.
    """
    if not find_spec("onnx"):
        raise TriptychError(f"cannot read {path}: onnx is not installed; pip install onnx")
    try:
        translated, raw, ones = frozen_graphs.translated(GraphDef(content))
        graph = Graph(path, translated, raw)
        outputs = graph.skeletons()
        graph.constants.changes |= dict.fromkeys(ones, "1, as it has no scale")
    except STUMBLES as error:
        if isinstance(error, TriptychError):
            raise told_of(path, error) from None
        raise corrupt(path, "it is damaged, or no graph of TensorFlow") from None
    return _matched(path, FROZEN, graph, outputs, {}, "tensorflow")


def _matched(
    path: Path, form: str, graph: Graph, outputs: list[Node], metadata: dict[str, str], producer: str
) -> Source:
    """The weights of a graph, after the network has been found."""
    match = identify(path, form, outputs, metadata.get("architecture"))
    if form == FROZEN:  # what pads otherwise there is another network, as it is in a checkpoint
        match = replace(match, departures=(*match.departures, *match.notes), notes=())
    if match.alternatives:
        metadata.pop("architecture", None)  # what fits several has to be told
    else:
        metadata["architecture"] = match.spec.name
    weights = _Weights({}, {}, {}, {})
    for head in match.heads:
        theirs = next((node for node in outputs if node.signature == head.signature), None)
        for mine, node in pairs(head, theirs) if theirs else ():
            weights.take(match.spec, graph, mine, node)
    try:
        affine = _affine(match, graph)
        recipe, notes = _preparation(affine, match, metadata, producer)
        notes += _carried(match)
    except TriptychError as error:
        raise told_of(path, error) from None
    if weights.made:
        notes.append(FOLDED)
    return Source(
        path,
        form,
        ("canonical",),
        weights.tensors,
        weights.spelled,
        metadata,
        (*match.notes, *notes),
        changes=weights.changes,
        errors=weights.errors,
        batch_norm_eps=graph.eps,
        preprocessing=recipe,
        unprepared="" if affine.identity or recipe else UNPREPARED.format(formula(affine)),
        departures=match.departures,
    )


@dataclass(frozen=True)
class _Weights:
    """The parameters of a graph by canonical name: as in `Source`."""

    tensors: dict[str, np.ndarray]
    spelled: dict[str, str]
    changes: dict[str, str]
    errors: dict[str, float]

    @property
    def made(self) -> bool:
        """Whether some normalisations were folded in the file."""
        return any(change.startswith("folded") for change in self.changes.values())

    def take(self, spec: Architecture, graph: Graph, mine: Node, node: Node) -> None:
        """Take the parameters of a node, under canonical names."""
        parameters = dict(node.parameters)
        biased = f"{mine.name}/bias" in spec.parameter_shapes
        if biased and "bias" not in parameters and "weight" in parameters:  # exporters leave out what is 0
            self._made(f"{mine.name}/bias", np.zeros(mine.shape[0], np.float32), parameters["weight"][0], "no bias")
        if mine.norm:
            weight = parameters["weight"][0]
            shift = None if biased else parameters.pop("bias", None)
            self._unit(spec, mine.norm, weight, mine.shape[0], shift)
        elif mine.kind == "BatchNorm" and "mean" not in parameters:
            scale, shift = parameters.pop("gamma"), parameters.pop("beta", None)
            self._unit(spec, mine.name, scale[0], mine.shape[0], shift)
            parameters["gamma"] = scale
        for kind, (name, array) in parameters.items():
            key = f"{mine.name}/{kind}"
            self.tensors[key], self.spelled[key] = array, name
            if rounding := graph.errors.get(f"{node.name}/{kind}"):
                self.errors[key] = rounding
            if change := graph.constants.changes.get(name):
                self.changes[key] = change

    def _unit(
        self, spec: Architecture, layer: str, origin: str, count: int, shift: tuple[str, np.ndarray] | None
    ) -> None:
        """Add a normalisation that only adds: its scale is 1 and its mean 0."""
        (operation,) = (each.operation for each in spec.layers if each.name == layer)
        assert isinstance(operation, BatchNorm)
        self._made(f"{layer}/gamma", np.ones(count, np.float32), origin)
        self._made(f"{layer}/mean", np.zeros(count, np.float32), origin)
        self._made(f"{layer}/variance", _unit_variance(operation.eps, count), origin)
        if shift is None:
            self._made(f"{layer}/beta", np.zeros(count, np.float32), origin)
        else:
            self.tensors[f"{layer}/beta"], self.spelled[f"{layer}/beta"] = shift[1], shift[0]

    def _made(self, key: str, array: np.ndarray, origin: str, why: str = "folded") -> None:
        self.tensors[key], self.spelled[key] = array, origin
        self.changes[key] = f"{why}: {array[0]:g}"


def _affine(match: Match, graph: Graph) -> Affine:
    """The change that the graph makes to the image before the first layer."""
    first = {graph.images.get(node.value, Affine()) for _, node in match.matched if node.inputs[0] is graph.image}
    if len(first) > 1:
        raise TriptychError("its graph prepares the image in two different ways")
    return first.pop() if first else Affine()


def _preparation(
    affine: Affine, match: Match, metadata: dict[str, str], producer: str
) -> tuple[Preprocessing | None, list[str]]:
    """How to prepare photographs for the first layer, if that is proved, and notes for the report."""
    said = metadata.get("preprocessing")
    if affine.identity:
        return (None, []) if said is not None else _of_producer(match, producer)
    told = [f"the graph prepares the image itself, {formula(affine)}, which is now part of the preprocessing"]
    recipe = proved(affine) if said is None else whole(affine, Preprocessing.from_json(said))
    return recipe, told if recipe else []


def _of_producer(match: Match, producer: str) -> tuple[Preprocessing | None, list[str]]:
    """The preprocessing that the exporter and the names of the layers prove."""
    conventions = map(CONVENTIONS.__getitem__, PRODUCERS.get(producer.lower(), ()))
    for known, each in product(conventions, (match, *match.unfolded)):
        recipe = known.recipe(each.spec) if each.spec.name in known.architectures else None
        if recipe is not None and _named_by(known, each):
            return recipe, [f"its producer, {producer}, and its names prove the preprocessing of {known.name}"]
    return None, []


def _carried(match: Match) -> list[str]:
    """A note if the names prove that a network without batch normalisations once had some."""
    return [
        CARRIED.format(each.spec.name, match.spec.name)
        for each in match.unfolded
        if each.spec.name != match.spec.name and any(_named_by(CONVENTIONS[name], each) for name in NUMBERED)
    ]


def _named_by(known: Convention, match: Match) -> bool:
    """Whether the layers have a convention's names; the head may have another name."""
    layers = [(mine, node) for mine, node in match.matched if mine.kind in ("Conv", "Dense")]
    agreeing = 0
    for mine, node in layers:
        name = known.layer(match.spec, mine.name).replace("/", ".")
        places = map(_module_path, (node.parameters["weight"][0], node.name))
        agreeing += any(re.search(rf"(^|\.){re.escape(name)}(_\d+)?([.:;]|$)", place) for place in places)
    return agreeing >= len(layers) - 1


def _module_path(name: str) -> str:
    """The module path in a node's name by PyTorch's exporter: `/layer2/layer2.0/conv1/Conv` → `layer2.0.conv1.Conv`."""
    parts: list[str] = []
    for part in name.split("/"):
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def _unit_variance(eps: float, count: int) -> np.ndarray:
    """Variances that give exactly 1 in float32 when eps is added, so that a normalisation has the scale 1."""
    variance = np.float32(1 - eps)
    for candidate in (variance, np.nextafter(variance, np.float32(2)), np.nextafter(variance, np.float32(0))):
        if candidate + np.float32(eps) == np.float32(1):
            return np.full(count, candidate)
    raise TriptychError(f"no float32 gives 1 with {eps:g}")
