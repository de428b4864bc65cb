"""Which of ONNX's operators is which of our operations, and which of its inputs are what to it; opsets 7 to 23."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

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
from common.operations.rectifiers import ELU, SELU, Clip, HardSigmoid, HardSwish, LeakyReLU, PReLU
from common.operations.reductions import Length, Mean, Sum
from common.operations.smooth import GELU, Erf, Exp, Log, Mish, Softplus, Swish, Tanh
from common.operations.windows import Paddings, same_paddings

if TYPE_CHECKING:
    import onnx


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
    "Selu": lambda given: Found(
        ELU(given.attributes.get("alpha", SELU.alpha), given.attributes.get("gamma", SELU.scale))
    ),
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
    padding: Paddings
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
            odd_at_end = same_paddings(sizes, spans, stride)
            padding = tuple(side if automatic == "SAME_UPPER" else side[::-1] for side in odd_at_end)
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


def operation_of(proto: onnx.NodeProto, given: Given, place: int) -> Found:
    """The operation that gives one of a node's results.

    Raises:
        Unread: nobody has said what that may be off by.
    """
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
        raise Unread(f"nobody has said what {proto.op_type} may be off by")
    names = list(dict.fromkeys(name for name in proto.input if name))
    places = tuple(list(proto.input).index(name) for name in names)
    return Found(Rearrangement(proto.op_type, proto.SerializeToString(), given.opset, place), places)
