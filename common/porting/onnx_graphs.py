"""An ONNX graph as a skeleton: walked node by node, each operator that matters read by the method for it.

`prove` reads a node as the operation that it is (`common.graphs`), for which all shapes must be known. Here none are: a
file is read whatever size of image it is for, a frozen graph states no shapes at all, and what only has to be compared
with the catalogue's networks needs no bound. So the same `OnnxNode` is read for what tells one network from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError
from common.onnx.lrn import find_lrn
from common.operations.onnx_node import OnnxNode
from common.porting.onnx_constants import Constants
from common.porting.onnx_images import Affine, channels_taken, joined
from common.porting.skeletons import SUM, Between, Node, image_node, join, lrn_entry, sign
from common.porting.statistics import rounding_error

if TYPE_CHECKING:
    import onnx

MOST_NODES, MOST_BETWEEN = 100_000, 200

LAYOUTS = [("Transpose", order) for order in ((0, 3, 1, 2), (0, 2, 3, 1), (0, 1, 2, 3))]
"""Transpositions between the two layouts of a map. Any other transposition changes the map."""

NEUTRAL = {
    *("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Expand"),
    *("GlobalAveragePool", "AveragePool", "ReduceMean"),
}
"""Operators between layers that are not compared. The shapes of the weights show their effect."""


class Graph:
    """A GraphProto, its constants apart.

    For each value that depends on the image, `made` has the node of the skeleton that it comes from, `passed` the
    operators since then, and `images` the change of the image itself.
    """

    def __init__(self, path: Path, graph: onnx.GraphProto, raw: list[memoryview | None]) -> None:
        if len(graph.node) > MOST_NODES:
            raise TriptychError(f"its graph has {len(graph.node):,} nodes")
        self.graph = graph
        self.constants = Constants(path, graph, raw)
        self.errors: dict[str, float] = {}
        """By node and kind of parameter."""
        self.eps: float | None = None
        self.makers: dict[str, onnx.NodeProto] = {}
        self.made: dict[str, Node] = {}
        self.passed: dict[str, Between] = {}
        self.image, self.sizes = image_node(), Node("sizes", "sizes")
        self.images: dict[str, Affine] = {}

    def skeletons(self) -> list[Node]:
        """The last node before each output."""
        for value in self.graph.input:
            if value.name not in self.constants.tensors:
                self.made[value.name], self.passed[value.name] = self.image, []
                self.images[value.name] = Affine()
        for node in self.graph.node:
            self.makers |= dict.fromkeys(node.output, node)
            if node.output:
                self._read(OnnxNode(node, self.constants, {}, 0))
            first = next(iter(node.output), "")
            for other in filter(None, node.output[1:]) if first in self.made else ():
                self.made[other] = self.made[first]  # a part, say, of which nothing is known but what it is of
                self.passed[other] = [*self.passed[first], (node.op_type, "another result")]
                self.images[other] = self.images.get(first, Affine())
        return [self.made[value.name] for value in self.graph.output if value.name in self.made]

    def _read(self, node: OnnxNode) -> None:
        dynamic = [name for name in node.inputs if name in self.made]
        output = node.proto.output[0]
        if not dynamic:
            self.constants.fold(node)
            return
        values = [name for name in dynamic if self.made[name] is not self.sizes]
        if node.kind == "Shape" or not values:
            self.made[output], self.passed[output] = self.sizes, []
            return
        if all(self.made[name] is self.image for name in values) and self._of_image(node, values):
            return
        made = self._READERS.get(node.kind, Graph._other)(self, node, values)
        if isinstance(made, Node):
            kept = made.name == self.made[values[0]].name  # a bias, say, after what may have turned the map
            self.made[output] = sign(made)
            self.passed[output] = [entry for entry in self.passed[values[0]] if kept and entry[0] == "Transpose"]
        else:
            self.made[output] = self.made[values[0]]
            self.passed[output] = [*self.passed[values[0]], *made]
            if len(self.passed[output]) > MOST_BETWEEN:
                raise TriptychError(f"its graph has more than {MOST_BETWEEN} operators between two layers")
            if values[0] in self.images:
                self.images[output] = self.images[values[0]]

    def _of_image(self, node: OnnxNode, values: list[str]) -> bool:
        """Read an operator on the image before the first layer; returns whether it is understood."""
        constant = self._constant(node)
        before, first = self.images[values[0]], node.inputs[0] == values[0]
        kind = node.kind
        if kind in ("Mul", "Div", "Add", "Sub") and constant is not None and len(values) == 1:
            if any(entry[0] == "Pad" for entry in self.passed[values[0]]):
                return False  # a border of zeros is one of something else then
            number = np.asarray(constant[1], np.float64)
            if kind == "Div" and (not first or not np.all(number)):
                return False
            made = {
                "Mul": lambda: before.then(scale=number),
                "Div": lambda: before.then(scale=1 / number),
                "Add": lambda: before.then(shift=number),
                "Sub": lambda: before.then(shift=-number) if first else before.then(scale=-1.0, shift=number),
            }[kind]()
        elif kind == "BatchNormalization" and (found := _normalisation(node)):
            gamma, beta, mean, variance = (array.astype(np.float64) for array in found)
            scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
            made = before.then(scale=scale, shift=beta - mean * scale)
        elif kind == "Concat" and len(values) == len(node.inputs):
            made = joined([self.images[name] for name in values])
        elif kind in ("Gather", "Slice") and (channels := channels_taken(node)) is not None:
            made = before.select(channels)
        else:
            return False
        output = node.proto.output[0]
        self.made[output], self.passed[output], self.images[output] = self.image, list(self.passed[values[0]]), made
        return True

    def _other(self, node: OnnxNode, values: list[str]) -> Between:
        """The entries to compare for an operator without parameters."""
        kind, attributes = node.kind, node.attributes
        if kind == "MaxPool":
            kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", (1, 1)))
            pads = "ceil" if attributes.get("ceil_mode") else _pads(attributes, kernel, strides)
            return [(kind, kernel, strides, pads)]
        if kind == "LRN":
            numbers = (attributes.get("alpha", 1e-4), attributes.get("beta", 0.75), attributes.get("bias", 1.0))
            return [lrn_entry(attributes["size"], *numbers)]
        if kind == "Transpose":
            return [(kind, tuple(attributes.get("perm", ())))]
        if kind == "Pad":
            return [(kind, _border(node))]
        if kind in NEUTRAL:
            return [(kind,)] if kind == "GlobalAveragePool" else []
        if kind == "Gather" and attributes.get("axis") in (1, 2, 3):
            return []  # channels, or places of a mean, that the shapes of the weights show
        return [(kind, "of several values")] if len(values) > 1 else [(kind,)]

    def _constant(self, node: OnnxNode) -> tuple[str, np.ndarray] | None:
        """The first constant that a node reads, and its name."""
        return next(((name, self.constants[name]) for name in node.inputs if name in self.constants), None)

    def _node(self, kind: str, node: OnnxNode, x: str, **rest: Any) -> Node:
        return Node(kind, _name(node), (self.made[x],), between=(_compared(self.passed[x]),), value=x, **rest)

    def _conv(self, node: OnnxNode, values: list[str]) -> Node | Between:
        weight, bias, attributes = node.constant(1), node.constant(2), node.attributes
        if weight is None or weight.ndim != 4:
            return [("Conv", "without weights")]
        parameters = {"weight": self.constants.named(node.inputs[1], weight)}
        if bias is not None:
            parameters["bias"] = self.constants.named(node.inputs[2], bias.reshape(-1))
        if weight.shape[2:] == (1, 1) and ("GlobalAveragePool",) in self.passed[values[0]]:
            # Caffe2 writes a dense layer after a global average as a convolution.
            name, weight = parameters["weight"][0], weight[:, :, 0, 0]
            self.constants.changes[name], parameters["weight"] = "out,in,1,1 → out,in", (name, weight)
            return self._node("Dense", node, values[0], parameters=parameters, shape=weight.shape)
        strides = tuple(attributes.get("strides", (1, 1)))
        whole = weight.shape[2:] == (7, 7) and strides == (1, 1) and not any(_pads(attributes, (7, 7)))
        if whole or (weight.shape[2:] == (1, 1) and self.made[values[0]].kind == "Dense"):
            # VGG's first dense layer as a convolution of the whole map, and those after it, as slim and timm write it.
            name, weight = parameters["weight"][0], weight.reshape(len(weight), -1)
            self.constants.changes[name], parameters["weight"] = "out,C,H,W → out,(C,H,W)", (name, weight)
            return self._node("Dense", node, values[0], parameters=parameters, shape=weight.shape)
        numbers: tuple[Any, ...] = (strides, _pads(attributes, weight.shape[2:], strides))
        if set(attributes.get("dilations", (1,))) != {1}:
            numbers = ((*strides, "dilated"), numbers[1])
        return self._node("Conv", node, values[0], parameters=parameters, shape=weight.shape, numbers=numbers)

    def _gemm(self, node: OnnxNode, values: list[str]) -> Node | Between:
        weight, bias, attributes = node.constant(1), node.constant(2), node.attributes
        if weight is None or weight.ndim != 2:
            return [("Gemm", "without weights")]
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            raise TriptychError(
                f"its node {node.proto.name!r} is a Gemm with alpha, beta or transA, which no dense layer has"
            )
        made = self._dense(node, weight if attributes.get("transB", 0) else weight.T, values[0])
        if not attributes.get("transB", 0):
            self.constants.changes.setdefault(made.parameters["weight"][0], "in,out → out,in")
        if bias is not None:
            made.parameters["bias"] = self.constants.named(node.inputs[2], bias.reshape(-1))
        return made

    def _matmul(self, node: OnnxNode, values: list[str]) -> Node | Between:
        weight = node.constant(1)
        if weight is None or weight.ndim != 2:
            return [("MatMul", "without weights")]
        made = self._dense(node, weight.T, values[0])
        self.constants.changes.setdefault(made.parameters["weight"][0], "in,out → out,in")
        return made

    def _dense(self, node: OnnxNode, weight: np.ndarray, x: str) -> Node:
        name = self.constants.origins.get(node.inputs[1], node.inputs[1])
        turned = [entry for entry in self.passed[x] if entry[0] == "Transpose"]
        maps = [before for before in (self.made[x],) if before.kind in ("Conv", "BatchNorm") and before.shape]
        places = weight.shape[1] // maps[0].shape[0] if maps and weight.shape[1] % maps[0].shape[0] == 0 else 1
        if len(turned) % 2 and turned[-1][1] == (0, 2, 3, 1) and places > 1:
            # The flatten runs H, W, C, as it does in graphs that come from TensorFlow.
            weight = weight.reshape(-1, places, maps[0].shape[0]).transpose(0, 2, 1).reshape(weight.shape)
            self.constants.changes[name] = "(H,W,C) → (C,H,W)"
        return self._node("Dense", node, x, parameters={"weight": (name, weight)}, shape=weight.shape)

    def _batchnormalization(self, node: OnnxNode, values: list[str]) -> Node | Between:
        found = _normalisation(node)
        if found is None:
            return [("BatchNormalization", "without weights")]
        eps = float(node.attributes.get("epsilon", 1e-5))
        if self.eps not in (None, eps):
            raise TriptychError(f"its batch normalisations have different eps, {self.eps:g} and {eps:g}")
        self.eps = eps
        kinds = ("gamma", "beta", "mean", "variance")
        parameters = {
            kind: self.constants.named(name, array)
            for kind, name, array in zip(kinds, node.inputs[1:5], found, strict=True)
        }
        return self._node("BatchNorm", node, values[0], parameters=parameters, shape=found[0].shape)

    def _mul(self, node: OnnxNode, values: list[str]) -> Node | Between:
        """A scale for each channel is a batch normalisation, or belongs to the one before it, or to a sub-sampling."""
        found = self._constant(node)
        if found is None or len(values) > 1:
            return [("Mul", "of several values")]
        x, (name, constant) = values[0], found
        if constant.size == 1:
            return [("Mul", f"{float(constant.reshape(())):.4g}")]
        if SUM in self.passed[x]:
            parameters = {"weight": self.constants.named(name, constant)}
            return self._node("SubSampling", node, x, parameters=parameters, shape=constant.shape)
        if constant.size != max(constant.shape):
            return [("Mul", "of each value")]
        gamma = self.constants.named(name, constant.reshape(-1))
        if self.made[x].kind == "BatchNorm" and not _compared(self.passed[x]):
            return self._affine(self.made[x], gamma=gamma)
        return self._node("BatchNorm", node, x, parameters={"gamma": gamma}, shape=gamma[1].shape)

    def _affine(self, before: Node, gamma: Any = None, beta: Any = None) -> Node:
        """Caffe's Scale layer after its BatchNorm layer, whose own scale and shift are mostly 1 and 0.

        (x · s + b) · m + a has the scale s · m and the shift b · m + a, computed in float64 and rounded once.
        """
        parameters = dict(before.parameters)
        for kind, origin in (("gamma", gamma), ("beta", gamma), ("beta", beta)):
            if origin is None or (origin is gamma and kind not in parameters):
                continue
            if kind not in parameters:
                parameters[kind] = origin
                continue
            name, array = parameters[kind]
            by, factor = origin
            exact = array.astype(np.float64) + factor if origin is beta else array.astype(np.float64) * factor
            rounded = exact.astype(np.float32)
            unchanged = np.array_equal(rounded, factor)
            parameters[kind] = (by if unchanged and (kind == "gamma" or origin is beta) else name, rounded)
            self.errors[f"{before.name}/{kind}"] = rounding_error(rounded, exact)
        return replace(before, parameters=parameters)

    def _add(self, node: OnnxNode, values: list[str]) -> Node | Between:
        """The sum of two branches, or a bias."""
        if len(values) > 1:
            return self._join("Add", node, values)
        found, before = self._constant(node), self.made[values[0]]
        if found is None or _compared(self.passed[values[0]]) or before.kind == "image":
            return [("Add", "of a constant")]
        name, constant = found
        bias = self.constants.named(name, constant.reshape(-1))
        if before.kind == "BatchNorm" and bias[1].shape == before.shape:
            return self._affine(before, beta=bias)
        if before.kind == "SubSampling" and "bias" not in before.parameters:
            bias = self.constants.named(name, constant)
        if before.kind in ("Conv", "Dense", "SubSampling") and "bias" not in before.parameters:
            return replace(before, parameters={**before.parameters, "bias": bias})
        return [("Add", "of a constant")]

    def _concat(self, node: OnnxNode, values: list[str]) -> Node | Between:
        return self._join("Concat", node, values) if len(values) > 1 else []

    def _div(self, node: OnnxNode, values: list[str]) -> Between:
        """A division may be the end of an LRN that is written as several nodes."""
        found = find_lrn(node.proto, self.makers, self.constants.get)
        if found is not None:
            return [lrn_entry(found.size, found.alpha, found.beta, found.k)]
        return self._other(node, values)

    _READERS = MappingProxyType(
        {
            "Conv": _conv,
            "Gemm": _gemm,
            "MatMul": _matmul,
            "BatchNormalization": _batchnormalization,
            "Mul": _mul,
            "Div": _div,
            "Add": _add,
            "Sum": _add,
            "Concat": _concat,
        }
    )
    """The methods for ONNX's operators; `_other` is for all others."""

    def _join(self, kind: str, node: OnnxNode, values: list[str]) -> Node:
        between = [_compared(self.passed[name]) for name in values]
        return join(kind, _name(node), [self.made[name] for name in values], between)


def _compared(between: Between) -> Between:
    return [entry for entry in between if entry[0] != "GlobalAveragePool" and entry not in LAYOUTS]


def _name(node: OnnxNode) -> str:
    return node.proto.name or node.proto.output[0]


def _normalisation(node: OnnxNode) -> list[np.ndarray] | None:
    """gamma, beta, mean and variance of a batch normalisation, if all of them are constants."""
    found = [array for array in map(node.constant, range(1, 5)) if array is not None]
    return found if len(found) == 4 else None


def _pads(attributes: Mapping[str, Any], kernel: tuple[int, ...], strides: tuple[int, ...] = (1, 1)) -> Any:
    """(top, left, bottom, right), or the name of a rule that depends on the size of the image."""
    rule = attributes.get("auto_pad", "NOTSET")
    if rule in ("SAME_UPPER", "SAME_LOWER"):
        if set(strides) == {1} and all(length % 2 for length in kernel):
            return tuple(length // 2 for length in kernel) * 2
        return rule
    return tuple(attributes.get("pads", (0, 0, 0, 0)))


def _border(node: OnnxNode) -> Any:
    """(top, left, bottom, right) of a Pad, wherever the axis of the channels is."""
    pads = node.constant(1) if node.has(1) else node.attributes.get("pads")
    if pads is None or len(pads) != 8:
        return "by an unknown amount"
    amounts = [int(n) for n in pads]
    first = 1 if (amounts[1] or amounts[5]) and not (amounts[3] or amounts[7]) else 2
    return (amounts[first], amounts[first + 1], amounts[first + 4], amounts[first + 5])
