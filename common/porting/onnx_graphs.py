"""An ONNX graph as a skeleton: walked node by node, each operator that matters read by the method for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError
from common.onnx.lrn import find_lrn
from common.porting.onnx_constants import Constants
from common.porting.onnx_images import Affine, channels_taken, joined
from common.porting.skeletons import SUM, Between, Node, image_node, join, lrn_entry, sign
from common.porting.statistics import rounding_error

if TYPE_CHECKING:
    import onnx

MOST_NODES, MOST_BETWEEN = 100_000, 200

LAYOUTS = [("Transpose", order) for order in ((0, 3, 1, 2), (0, 2, 3, 1), (0, 1, 2, 3))]
"""From one layout of a map into the other: the graph means the same map. Any other turns it round."""

NEUTRAL = {
    *("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Expand"),
    *("GlobalAveragePool", "AveragePool", "ReduceMean"),
}
"""Operators between layers that are not compared: the shapes of the weights show what they have done."""


class Graph:
    """A GraphProto, its constants apart.

    `made` has, for each value that depends on the image, the node of the skeleton that it comes from; `passed` what
    has been done to it since; `images` what has been done to the image itself.
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
                self._read(node)
            first = next(iter(node.output), "")
            for other in filter(None, node.output[1:]) if first in self.made else ():
                self.made[other] = self.made[first]  # a part, say, of which nothing is known but what it is of
                self.passed[other] = [*self.passed[first], (node.op_type, "another result")]
                self.images[other] = self.images.get(first, Affine())
        return [self.made[value.name] for value in self.graph.output if value.name in self.made]

    def _read(self, node: onnx.NodeProto) -> None:
        from onnx import helper

        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        dynamic = [name for name in node.input if name in self.made]
        output = node.output[0]
        if not dynamic:
            self.constants.fold(node, attributes)
            return
        values = [name for name in dynamic if self.made[name] is not self.sizes]
        if node.op_type == "Shape" or not values:
            self.made[output], self.passed[output] = self.sizes, []
            return
        constants = [self.constants.get(name) for name in node.input if name]
        if all(self.made[name] is self.image for name in values) and self._of_image(
            node, attributes, constants, values
        ):
            return
        made = self._READERS.get(node.op_type, Graph._other)(self, node, attributes, constants, values)
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

    def _of_image(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> bool:
        """Whether this is done to the image before the first layer, and is understood."""
        constant = next((array for array in constants if array is not None), None)
        before, first = self.images[values[0]], node.input[0] == values[0]
        kind = node.op_type
        if kind in ("Mul", "Div", "Add", "Sub") and constant is not None and len(values) == 1:
            if any(entry[0] == "Pad" for entry in self.passed[values[0]]):
                return False  # a border of zeros is one of something else then
            number = np.asarray(constant, np.float64)
            if kind == "Div" and (not first or not np.all(number)):
                return False
            made = {
                "Mul": lambda: before.then(scale=number),
                "Div": lambda: before.then(scale=1 / number),
                "Add": lambda: before.then(shift=number),
                "Sub": lambda: before.then(shift=-number) if first else before.then(scale=-1.0, shift=number),
            }[kind]()
        elif kind == "BatchNormalization" and all(array is not None for array in constants[1:5]):
            gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in constants[1:5])
            scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
            made = before.then(scale=scale, shift=beta - mean * scale)
        elif kind == "Concat" and len(values) == len(node.input):
            made = joined([self.images[name] for name in values])
        elif kind in ("Gather", "Slice") and (channels := channels_taken(kind, attributes, constants)) is not None:
            made = before.select(channels)
        else:
            return False
        self.made[node.output[0]], self.passed[node.output[0]] = self.image, list(self.passed[values[0]])
        self.images[node.output[0]] = made
        return True

    def _other(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> Between:
        """What is worth comparing of an operator without parameters."""
        kind = node.op_type
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
            return [(kind, _border(attributes, constants))]
        if kind in NEUTRAL:
            return [(kind,)] if kind == "GlobalAveragePool" else []
        if kind == "Gather" and attributes.get("axis") in (1, 2, 3):
            return []  # channels, or places of a mean, that the shapes of the weights show
        return [(kind, "of several values")] if len(values) > 1 else [(kind,)]

    def _node(self, kind: str, node: Any, x: str, **rest: Any) -> Node:
        return Node(
            kind, node.name or node.output[0], (self.made[x],), between=(_compared(self.passed[x]),), value=x, **rest
        )

    def _conv(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> Node | Between:
        if len(constants) < 2 or constants[1] is None or constants[1].ndim != 4:
            return [("Conv", "without weights")]
        weight = constants[1]
        parameters = {"weight": self.constants.named(node.input[1], weight)}
        if len(constants) > 2 and constants[2] is not None:
            parameters["bias"] = self.constants.named(node.input[2], constants[2].reshape(-1))
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

    def _gemm(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> Node | Between:
        if len(constants) < 2 or constants[1] is None or constants[1].ndim != 2:
            return [("Gemm", "without weights")]
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            raise TriptychError(f"its node {node.name!r} is a Gemm with factors, which no dense layer has")
        made = self._dense(node, constants[1] if attributes.get("transB", 0) else constants[1].T, values[0])
        if not attributes.get("transB", 0):
            self.constants.changes.setdefault(made.parameters["weight"][0], "in,out → out,in")
        if len(constants) > 2 and constants[2] is not None:
            made.parameters["bias"] = self.constants.named(node.input[2], constants[2].reshape(-1))
        return made

    def _matmul(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> Node | Between:
        if len(constants) < 2 or constants[1] is None or constants[1].ndim != 2:
            return [("MatMul", "without weights")]
        made = self._dense(node, constants[1].T, values[0])
        self.constants.changes.setdefault(made.parameters["weight"][0], "in,out → out,in")
        return made

    def _dense(self, node: Any, weight: np.ndarray, x: str) -> Node:
        name = self.constants.origins.get(node.input[1], node.input[1])
        turned = [entry for entry in self.passed[x] if entry[0] == "Transpose"]
        maps = [before for before in (self.made[x],) if before.kind in ("Conv", "BatchNorm") and before.shape]
        places = weight.shape[1] // maps[0].shape[0] if maps and weight.shape[1] % maps[0].shape[0] == 0 else 1
        if len(turned) % 2 and turned[-1][1] == (0, 2, 3, 1) and places > 1:
            # The flatten runs H, W, C, as it does in graphs that come from TensorFlow.
            weight = weight.reshape(-1, places, maps[0].shape[0]).transpose(0, 2, 1).reshape(weight.shape)
            self.constants.changes[name] = "(H,W,C) → (C,H,W)"
        return self._node("Dense", node, x, parameters={"weight": (name, weight)}, shape=weight.shape)

    def _batchnormalization(
        self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]
    ) -> Node | Between:
        if len(constants) < 5 or any(constant is None for constant in constants[1:5]):
            return [("BatchNormalization", "without weights")]
        eps = float(attributes.get("epsilon", 1e-5))
        if self.eps not in (None, eps):
            raise TriptychError(f"its batch normalisations have different eps, {self.eps:g} and {eps:g}")
        self.eps = eps
        kinds = ("gamma", "beta", "mean", "variance")
        parameters = {k: self.constants.named(node.input[i], constants[i]) for i, k in enumerate(kinds, start=1)}
        return self._node("BatchNorm", node, values[0], parameters=parameters, shape=constants[1].shape)

    def _mul(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> Node | Between:
        """A scale of each channel is a batch normalisation's, by itself or after one; sub-sampling has one too."""
        constant = next((array for array in constants if array is not None), None)
        if constant is None or len(values) > 1:
            return [("Mul", "of several values")]
        if constant.size == 1:
            return [("Mul", f"{float(constant.reshape(())):.4g}")]
        x, name = values[0], next(name for name in node.input if name not in self.made)
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
        """Caffe's Scale layer after its BatchNorm, whose own scale and shift are mostly 1 and 0.

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

    def _add(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> Node | Between:
        """The sum of two branches, or a bias."""
        if len(values) > 1:
            return self._join("Add", node, values)
        constant = next((array for array in constants if array is not None), None)
        before = self.made[values[0]]
        if constant is None or _compared(self.passed[values[0]]) or before.kind == "image":
            return [("Add", "of a constant")]
        name = next(name for name in node.input if name not in self.made)
        bias = self.constants.named(name, constant.reshape(-1))
        if before.kind == "BatchNorm" and bias[1].shape == before.shape:
            return self._affine(before, beta=bias)
        if before.kind == "SubSampling" and "bias" not in before.parameters:
            bias = self.constants.named(name, constant)
        if before.kind in ("Conv", "Dense", "SubSampling") and "bias" not in before.parameters:
            return replace(before, parameters={**before.parameters, "bias": bias})
        return [("Add", "of a constant")]

    def _concat(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> Node | Between:
        return self._join("Concat", node, values) if len(values) > 1 else []

    def _div(self, node: Any, attributes: dict[str, Any], constants: list[Any], values: list[str]) -> Between:
        """The end of a normalisation that is written as several nodes: its first value is what it normalises."""
        found = find_lrn(node, self.makers, self.constants.get)
        if found is not None:
            return [lrn_entry(found.size, found.alpha, found.beta, found.k)]
        return self._other(node, attributes, constants, values)

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
    """By ONNX's operators, those that are more than `_other`."""

    def _join(self, kind: str, node: Any, values: list[str]) -> Node:
        between = [_compared(self.passed[name]) for name in values]
        return join(kind, node.name or node.output[0], [self.made[name] for name in values], between)


def _compared(between: Between) -> Between:
    return [entry for entry in between if entry[0] != "GlobalAveragePool" and entry not in LAYOUTS]


def _pads(attributes: Mapping[str, Any], kernel: tuple[int, ...], strides: tuple[int, ...] = (1, 1)) -> Any:
    """(top, left, bottom, right), or the name of a rule that depends on the size of the image."""
    rule = attributes.get("auto_pad", b"NOTSET")
    rule = rule.decode("ascii", "replace") if isinstance(rule, bytes) else str(rule)
    if rule in ("SAME_UPPER", "SAME_LOWER"):
        if set(strides) == {1} and all(length % 2 for length in kernel):
            return tuple(length // 2 for length in kernel) * 2
        return rule
    return tuple(attributes.get("pads", (0, 0, 0, 0)))


def _border(attributes: Mapping[str, Any], constants: list[Any]) -> Any:
    """(top, left, bottom, right) of a Pad, wherever the axis of the channels is."""
    pads = constants[1] if len(constants) > 1 else attributes.get("pads")
    if pads is None or len(pads) != 8:
        return "by an unknown amount"
    amounts = [int(n) for n in pads]
    first = 1 if (amounts[1] or amounts[5]) and not (amounts[3] or amounts[7]) else 2
    return (amounts[first], amounts[first + 1], amounts[first + 4], amounts[first + 5])


def unit_variance(eps: float, count: int) -> np.ndarray:
    """Variances to which eps is added to make exactly 1 in float32, so that a normalisation has the scale 1."""
    variance = np.float32(1 - eps)
    for candidate in (variance, np.nextafter(variance, np.float32(2)), np.nextafter(variance, np.float32(0))):
        if candidate + np.float32(eps) == np.float32(1):
            return np.full(count, candidate)
    raise TriptychError(f"no float32 gives 1 with {eps:g}")
