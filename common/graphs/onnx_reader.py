"""ONNX files as graphs: each node as the operation that it is. Opsets 7 to 23, weights inside or beside the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError
from common.graphs.graph import Graph, Node
from common.graphs.rearrangement import REARRANGES, Rearrangement
from common.operations import (
    LRN,
    Add,
    AveragePool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    GlobalAveragePool,
    MaxPool,
    Operation,
    ReLU,
    Shape,
    Sigmoid,
    Softmax,
)
from common.operations.arithmetic import Divide, Multiply, Power, Reciprocal, SquareRoot, Subtract
from common.operations.conv_nd import ConvND, ConvTranspose
from common.operations.matmul import Gemm, MatMul
from common.operations.moments import GroupNorm, LayerNorm
from common.operations.pools_nd import AveragePoolND, MaxPoolND
from common.operations.rectifiers import ELU, Clip, HardSigmoid, HardSwish, LeakyReLU, PReLU
from common.operations.reductions import Length, Mean, Sum
from common.operations.smooth import GELU, Erf, Exp, Log, Mish, Softplus, Swish, Tanh

if TYPE_CHECKING:
    import onnx

SOURCES = ("pkg.torch.onnx.name_scopes", "namespace")
"""Metadata in which exporters say where in the user's code a node comes from."""


@dataclass(frozen=True)
class Given:
    """What a reader is told of a node."""

    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    """"" where an optional input is left out."""
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    opset: int

    def constant(self, place: int) -> np.ndarray | None:
        """The constant input at a place, or None if it is none, or left out."""
        return self.constants.get(self.inputs[place]) if place < len(self.inputs) else None

    def scalar(self, place: int, attribute: str, otherwise: float | None) -> float | None:
        """A number that older opsets have as an attribute and newer ones as an input."""
        if place < len(self.inputs) and self.inputs[place]:
            found = self.constant(place)
            if found is None or found.size != 1:
                raise Unread(f"its {attribute} is computed")
            return float(found.reshape(()))
        return self.attributes.get(attribute, otherwise)

    def rank(self) -> int:
        if self.inputs[0] not in self.shapes:
            raise Unread("the shape of its input is not known")
        return len(self.shapes[self.inputs[0]])


class Unread(Exception):
    """Why nobody can say what a node's result may be off by."""


@dataclass(frozen=True)
class Found:
    """The operation that a node is, and which of its inputs are what to it."""

    operation: Operation
    inputs: tuple[int, ...] = (0,)
    parameters: Mapping[str, int] = field(default_factory=dict)


Reader = Callable[[Given], Found]
READERS: dict[str, Reader] = {}


def reads(*kinds: str) -> Callable[[Reader], Reader]:
    """Enter a reader for ONNX's operators of these names."""

    def enter(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(kinds, reader))
        return reader

    return enter


def _elementwise(make: Callable[[], Operation], places: int = 1) -> Reader:
    return lambda given: Found(make(), tuple(range(places)))


READERS |= {
    "Relu": _elementwise(ReLU),
    "Sigmoid": _elementwise(Sigmoid),
    "Tanh": _elementwise(Tanh),
    "Exp": _elementwise(Exp),
    "Log": _elementwise(Log),
    "Erf": _elementwise(Erf),
    "Softplus": _elementwise(Softplus),
    "Mish": _elementwise(Mish),
    "HardSwish": _elementwise(HardSwish),
    "Sqrt": _elementwise(SquareRoot),
    "Reciprocal": _elementwise(Reciprocal),
    "GlobalAveragePool": _elementwise(GlobalAveragePool),
    "Sub": _elementwise(Subtract, 2),
    "Mul": _elementwise(Multiply, 2),
    "Div": _elementwise(Divide, 2),
    "Pow": _elementwise(Power, 2),
    "MatMul": _elementwise(MatMul, 2),
    "PRelu": _elementwise(PReLU, 2),
    "Add": _elementwise(Add, 2),
    "Sum": lambda given: Found(Add(), tuple(range(len(given.inputs)))),
    "LeakyRelu": lambda given: Found(LeakyReLU(given.attributes.get("alpha", 0.01))),
    "Elu": lambda given: Found(ELU(given.attributes.get("alpha", 1.0))),
    "Swish": lambda given: Found(Swish(given.attributes.get("alpha", 1.0))),
    "Gelu": lambda given: Found(GELU(given.attributes.get("approximate", "none") == "tanh")),
    "HardSigmoid": lambda given: Found(
        HardSigmoid(given.attributes.get("alpha", 0.2), given.attributes.get("beta", 0.5))
    ),
    "Clip": lambda given: Found(Clip(given.scalar(1, "min", None), given.scalar(2, "max", None))),
}


@dataclass(frozen=True)
class _Window:
    kernel: Shape
    stride: Shape
    dilation: Shape
    padding: tuple[tuple[int, int], ...]
    overhang: Shape

    @property
    def plain(self) -> bool:
        """Whether the catalogue's operations have it: two axes, not dilated."""
        return len(self.kernel) == 2 and set(self.dilation) == {1}


def _window(given: Given, kernel: Sequence[int]) -> _Window:
    """See ONNX's Conv and MaxPool: `auto_pad`, `pads` (all beginnings, then all ends), `ceil_mode`."""
    axes = len(kernel)
    stride, dilation = (tuple(given.attributes.get(name, [1] * axes)) for name in ("strides", "dilations"))
    automatic = given.attributes.get("auto_pad", "NOTSET")
    pads = given.attributes.get("pads", [0] * 2 * axes) if automatic == "NOTSET" else [0] * 2 * axes
    padding = tuple(zip(pads[:axes], pads[axes:], strict=True))
    spans = [(length - 1) * apart + 1 for length, apart in zip(kernel, dilation, strict=True)]
    overhang = [0] * axes
    if automatic.startswith("SAME") or given.attributes.get("ceil_mode"):
        if given.inputs[0] not in given.shapes:
            raise Unread("the shape of its input is not known")
        sizes = given.shapes[given.inputs[0]][2:]
        if automatic.startswith("SAME"):
            totals = [
                max((-(-size // step) - 1) * step + span - size, 0)
                for size, step, span in zip(sizes, stride, spans, strict=True)
            ]
            smaller = [(total // 2, total - total // 2) for total in totals]
            padding = tuple(side if automatic == "SAME_UPPER" else side[::-1] for side in smaller)
        else:
            for axis, (size, step, span) in enumerate(zip(sizes, stride, spans, strict=True)):
                room = size + sum(padding[axis]) - span
                number = -(-room // step) + 1
                if (number - 1) * step >= size + padding[axis][0]:  # the last window must begin inside
                    number -= 1
                overhang[axis] = max((number - 1) * step - room, 0)
    return _Window(tuple(kernel), stride, dilation, padding, tuple(overhang))


def _weights(given: Given) -> tuple[Shape, dict[str, int]]:
    if given.inputs[1] not in given.shapes:
        raise Unread("the shape of its kernel is not known")
    biased = len(given.inputs) > 2 and bool(given.inputs[2])
    return given.shapes[given.inputs[1]], {"weight": 1} | ({"bias": 2} if biased else {})


@reads("Conv")
def _conv(given: Given) -> Found:
    shape, parameters = _weights(given)
    window, groups = _window(given, shape[2:]), given.attributes.get("group", 1)
    if window.plain:
        (top_bottom, left_right), (height, width), (down, across) = window.padding, window.kernel, window.stride
        conv = Conv(
            (height, width),
            (down, across),
            (top_bottom, left_right),
            filters=shape[0],
            groups=groups,
            bias="bias" in parameters,
        )
        return Found(conv, parameters=parameters)
    return Found(ConvND(window.stride, window.dilation, window.padding, groups), parameters=parameters)


@reads("ConvTranspose")
def _conv_transpose(given: Given) -> Found:
    shape, parameters = _weights(given)
    window = _window(given, shape[2:])
    if given.attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in given.attributes:
        raise Unread("its padding follows from the shape of its result")
    beyond = tuple(given.attributes.get("output_padding", [0] * len(window.kernel)))
    groups = given.attributes.get("group", 1)
    operation = ConvTranspose(window.stride, window.dilation, window.padding, groups, beyond)
    return Found(operation, parameters=parameters)


@reads("Gemm")
def _gemm(given: Given) -> Found:
    attributes = given.attributes
    factors = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    turned = bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))
    places = tuple(place for place, name in enumerate(given.inputs) if name)
    weight, bias = given.constant(1), given.constant(2)
    vector = len(places) < 3 or (bias is not None and bias.ndim == 1)
    if factors == (1.0, 1.0) and turned == (False, True) and weight is not None and vector:
        parameters = {"weight": 1} | ({"bias": 2} if len(places) > 2 else {})
        return Found(Dense(len(weight)), parameters=parameters)
    return Found(Gemm(*factors, turned), places)


@reads("MaxPool")
def _max_pool(given: Given) -> Found:
    window = _window(given, given.attributes["kernel_shape"])
    sides = tuple((a, b + more) for (a, b), more in zip(window.padding, window.overhang, strict=True))
    if window.plain:  # padding never wins, so that what hangs over is padding as well
        (height, width), (down, across) = window.kernel, window.stride
        return Found(MaxPool((height, width), (down, across), (sides[0], sides[1])))
    return Found(MaxPoolND(window.kernel, window.stride, window.padding, window.dilation, window.overhang))


@reads("AveragePool")
def _average_pool(given: Given) -> Found:
    window = _window(given, given.attributes["kernel_shape"])
    if window.plain and not np.any(window.padding) and not any(window.overhang):
        (height, width), (down, across) = window.kernel, window.stride
        return Found(AveragePool((height, width), (down, across)))
    counts = bool(given.attributes.get("count_include_pad", 0))
    operation = AveragePoolND(
        window.kernel, window.stride, window.padding, window.dilation, window.overhang, counts_padding=counts
    )
    return Found(operation)


def _reduces(kind: type[Mean] | type[Sum] | type[Length]) -> Reader:
    def reader(given: Given) -> Found:
        axes = given.attributes.get("axes")
        if len(given.inputs) > 1 and given.inputs[1]:
            found = given.constant(1)
            if found is None:
                raise Unread("its axes are computed")
            axes = found.tolist()
        if not axes and given.attributes.get("noop_with_empty_axes"):
            raise Unread("it reduces nothing")
        return Found(kind(tuple(axes) if axes else None, bool(given.attributes.get("keepdims", 1))))

    return reader


READERS |= {"ReduceMean": _reduces(Mean), "ReduceSum": _reduces(Sum), "ReduceL2": _reduces(Length)}


@reads("BatchNormalization")
def _batch_norm(given: Given) -> Found:
    if given.attributes.get("training_mode"):
        raise Unread("it is in training mode")
    parameters = {"gamma": 1, "beta": 2, "mean": 3, "variance": 4}
    return Found(BatchNorm(given.attributes.get("epsilon", 1e-5)), parameters=parameters)


@reads("LayerNormalization")
def _layer_norm(given: Given) -> Found:
    parameters = {"gamma": 1} | ({"beta": 2} if len(given.inputs) > 2 and given.inputs[2] else {})
    norm = LayerNorm(given.attributes.get("epsilon", 1e-5), given.attributes.get("axis", -1))
    return Found(norm, parameters=parameters)


@reads("InstanceNormalization")
def _instance_norm(given: Given) -> Found:
    return Found(GroupNorm(given.attributes.get("epsilon", 1e-5)), parameters={"gamma": 1, "beta": 2})


@reads("GroupNormalization")
def _group_norm(given: Given) -> Found:
    if given.opset < 21:
        raise Unread("before opset 21 its scale is that of a group")
    norm = GroupNorm(given.attributes.get("epsilon", 1e-5), given.attributes["num_groups"])
    return Found(norm, parameters={"gamma": 1, "beta": 2})


@reads("Softmax")
def _softmax(given: Given) -> Found:
    axis = given.attributes.get("axis", -1 if given.opset >= 13 else 1)
    if given.opset < 13 and axis not in (-1, given.rank() - 1):
        raise Unread("before opset 13 it takes several axes for one")
    return Found(Softmax(axis))


@reads("LRN")
def _lrn(given: Given) -> Found:
    attributes = given.attributes
    alpha, beta, k = (attributes.get(name, usual) for name, usual in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return Found(LRN(attributes["size"], alpha, beta, k))


def read_model(path: str | Path) -> onnx.ModelProto:
    """An ONNX file with its weights, every constant an initializer, every node with a name of its own.

    Raises:
        TriptychError: it is no ONNX file.
    """
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    try:
        model = onnx.load(str(path))
    except FileNotFoundError as error:
        raise TriptychError(f"there is no file {error.filename or path}") from None
    except Exception as error:  # protobuf's and onnx's own have no common base class
        raise TriptychError(f"{path} cannot be read as ONNX: {error}") from None
    if not model.graph.node:
        raise TriptychError(f"{path} is no ONNX file, or one without a single node")
    kept, names = [], set()
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Constant":
            (value,) = ReferenceEvaluator(node).run(None, {})
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), node.output[0]))
            continue
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{number}"
        names.add(node.name)
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def read_graph(path: str | Path, model: onnx.ModelProto | None = None) -> Graph:
    """An ONNX file as a graph.

    Args:
        path: of the file; weights in external data are read from beside it.
        model: the model, if it has been read by `read_model`.

    Raises:
        TriptychError: it is no ONNX file, or does not say of which shape its inputs are.
    """
    from onnx import numpy_helper, shape_inference

    model = model or read_model(path)
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inferred = shape_inference.infer_shapes(model).graph
    shapes: dict[str, Shape] = {name: array.shape for name, array in constants.items()}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dimensions = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dimensions):
            shapes.setdefault(value.name, tuple(dim.dim_value for dim in dimensions))
    inputs = {value.name: _stated_shape(path, value) for value in graph.input if value.name not in constants}
    nodes = []
    for proto in graph.node:
        nodes += _nodes(proto, constants, shapes, opset)
    return Graph(str(path), tuple(nodes), inputs, constants, tuple(value.name for value in graph.output), opset)


def _stated_shape(path: str | Path, value: onnx.ValueInfoProto) -> Shape:
    dimensions = value.type.tensor_type.shape.dim
    if value.type.tensor_type.elem_type != 1:
        raise TriptychError(
            f"{path} takes {value.name}, which is not float32; give it with --input {value.name}=FILE.npy"
        )
    sizes = [dim.dim_value or None for dim in dimensions]
    if sizes and sizes[0] is None:
        sizes[0] = 1
    if None in sizes:
        found = "×".join(str(size or dim.dim_param or "?") for size, dim in zip(sizes, dimensions, strict=True))
        raise TriptychError(
            f"{path} takes {value.name} of shape {found}; say which with --input-shape {value.name}=1x3x224x224"
        )
    return tuple(size for size in sizes if size is not None)


def _nodes(
    proto: onnx.NodeProto, constants: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], opset: int
) -> list[Node]:
    """One for each output that is wanted."""
    from onnx import helper

    name = proto.name
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    attributes = {key: text.decode() if isinstance(text, bytes) else text for key, text in attributes.items()}
    given = Given(attributes, tuple(proto.input), constants, shapes, opset)
    source = next((entry.value for entry in proto.metadata_props if entry.key in SOURCES), None)
    nodes = []
    for place, output in enumerate(proto.output):
        if not output:
            continue
        label = name if place == 0 else f"{name}:{place}"
        found, why = None, None
        try:
            found = _operation(proto, given, place)
        except Unread as reason:
            why = str(reason)
        if found is None:
            why = why or f"nobody has said what {proto.op_type} may be off by"
            present = tuple(value for value in proto.input if value)
            nodes.append(Node(label, proto.op_type, None, present, output, source=source, why=why))
            continue
        values = tuple(proto.input[where] for where in found.inputs)
        parameters = {kind: proto.input[where] for kind, where in found.parameters.items()}
        nodes.append(Node(label, proto.op_type, found.operation, values, output, parameters, source))
    return nodes


def _operation(proto: onnx.NodeProto, given: Given, place: int) -> Found | None:
    if proto.domain not in ("", "ai.onnx"):
        raise Unread(f"it is an operator of {proto.domain}")
    if any(attribute.HasField("g") or attribute.graphs for attribute in proto.attribute):
        raise Unread("it holds another graph (control flow)")
    if proto.op_type == "Concat" and given.attributes["axis"] == 1:
        return Found(Concat(), tuple(range(len(given.inputs))))
    if proto.op_type in READERS and place == 0:
        return READERS[proto.op_type](given)
    rearranges = proto.op_type in REARRANGES
    if proto.op_type == "Resize":
        rearranges = given.attributes.get("mode", "nearest") == "nearest"
    if not rearranges:
        return None
    names = list(dict.fromkeys(name for name in proto.input if name))
    places = tuple(list(proto.input).index(name) for name in names)
    return Found(Rearrangement(proto.op_type, proto.SerializeToString(), given.opset, place), places)
