"""ONNX models, matched by graph and shape: names are whatever the exporter made of them.

A graph is reduced to its skeleton, the nodes that have parameters and those that join branches, and so is every network
of the catalogue. Where the skeletons are the same, walking both from the output at once says which weights are which
layer's. What lies between the nodes of the skeleton (strides, pools, normalisations) tells apart networks that have the
same skeleton, and where it differs from all of them, the report says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError
from common.onnx_lrn import find_lrn
from common.porting.caffe_files import fields
from common.porting.matching import rounding_error
from common.porting.source import Source, corrupt, mapped
from common.specs import get_spec, list_architectures
from common.specs.architecture import (
    IMAGE,
    LRN,
    Add,
    Architecture,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Layer,
    SubSampling,
    Windowed,
)

if TYPE_CHECKING:
    import onnx

IR_VERSION, GRAPH = 1, 7
"""Fields of a ModelProto."""

INITIALIZER, RAW_DATA = 5, 9
"""Of a GraphProto, and of the TensorProto that it is."""

LAYOUT = (
    "Identity",
    "Reshape",
    "Flatten",
    "Transpose",
    "Unsqueeze",
    "Squeeze",
    "Constant",
    "ConstantOfShape",
    "Expand",
)
"""Operators that only rearrange, which are carried out on constants."""

MOST_NODES = 100_000

Between = list[tuple[Any, ...]]
"""What lies between two nodes of a skeleton: operators and their numbers."""

SUM = ("Sum2x2",)
"""Four times a mean of 2×2, which is how ONNX writes their sum."""


@dataclass(eq=False)
class Node:
    """A node of a skeleton: of a file or of a specification."""

    kind: str
    name: str
    inputs: tuple[Node, ...] = ()
    parameters: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    """In a file: by kind, the initializer's name and the array."""
    shape: tuple[int, ...] = ()
    """Of the weights."""
    numbers: tuple[Any, ...] = ()
    """Stride and padding."""
    between: tuple[tuple[Any, ...], ...] = ()
    """What lies between the first input and this node."""
    signature: int = 0
    """The same for nodes with the same skeleton before them."""


def looks_like_model(content: memoryview) -> bool:
    """Whether a file is a ModelProto: a version, a graph and the versions of the operators."""
    try:
        found = {number: value for number, value, _ in fields(content)}
    except TriptychError:
        return False
    return isinstance(found.get(IR_VERSION), int) and isinstance(found.get(GRAPH), memoryview)


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
        model, raw = _parse(content)
        graph = _Reader(path, model.graph, raw)
        outputs = graph.skeletons()
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        producer = model.producer_name
    except (DecodeError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        if isinstance(error, TriptychError):
            raise error if str(path) in str(error) else corrupt(path, str(error)) from None
        raise corrupt(path, "it is damaged, or no ONNX model") from None
    spec, alternatives, notes = _identify(path, outputs, metadata.get("architecture"))
    if alternatives:
        metadata.pop("architecture", None)  # what fits several has to be told
    else:
        metadata["architecture"] = spec.name
    ours = {name: skeleton(spec, head) for name, head in spec.outputs.items()}
    tensors: dict[str, np.ndarray] = {}
    spelled: dict[str, str] = {}
    changes: dict[str, str] = {}
    errors: dict[str, float] = {}
    for head in ours.values():
        theirs = next((node for node in outputs if node.signature == head.signature), None)
        for layer, node in _pairs(head, theirs) if theirs else ():
            for kind, (name, array) in node.parameters.items():
                key = f"{layer}/{kind}"
                tensors[key], spelled[key] = array, name
                if rounding := graph.errors.get(f"{node.name}/{kind}"):
                    errors[key] = rounding
                if change := graph.changes.get(name):
                    changes[key] = change
    notes += [] if "preprocessing" in metadata else [_preprocessing_note(producer)]
    return Source(
        path,
        "ONNX model",
        ("canonical",),
        tensors,
        spelled,
        metadata,
        tuple(notes),
        changes=changes,
        errors=errors,
        batch_norm_eps=graph.eps,
    )


def _preprocessing_note(producer: str) -> str:
    exporter = producer or "an unknown exporter"
    return f"the file (by {exporter}) does not say how to prepare photographs: taken to be the architecture's own way"


def _parse(content: memoryview) -> tuple[onnx.ModelProto, list[memoryview | None]]:
    """The model with its initializers' data left in the file, and where those are.

    A protobuf message is the concatenation of its fields, so those with the data can be left out before it is parsed.
    """
    import onnx

    rest, raw = bytearray(), []
    graph = onnx.GraphProto()
    for number, value, piece in fields(content):
        if number != GRAPH or not isinstance(value, memoryview):
            rest += piece
            continue
        for inner, tensor, field_of_graph in fields(value):
            if inner != INITIALIZER or not isinstance(tensor, memoryview):
                graph.MergeFromString(bytes(field_of_graph))
                continue
            parts = list(fields(tensor))
            data = [part for which, part, _ in parts if which == RAW_DATA]
            raw.append(data[-1] if data and isinstance(data[-1], memoryview) else None)
            graph.initializer.add().MergeFromString(b"".join(part for which, _, part in parts if which != RAW_DATA))
    model = onnx.ModelProto.FromString(bytes(rest))
    model.graph.CopyFrom(graph)
    return model, raw


class _Reader:
    """A GraphProto, its constants apart."""

    def __init__(self, path: Path, graph: onnx.GraphProto, raw: list[memoryview | None]) -> None:
        if len(graph.node) > MOST_NODES:
            raise TriptychError(f"its graph has {len(graph.node):,} nodes")
        self.path = path
        self.graph = graph
        self.files: dict[str, memoryview] = {}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        if len(self.tensors) != len(graph.initializer):
            raise TriptychError("two of its initializers share a name")
        self.raw = {tensor.name: data for tensor, data in zip(graph.initializer, raw, strict=True)}
        self.constants: dict[str, np.ndarray] = {}
        self.origins: dict[str, str] = {}
        self.changes: dict[str, str] = {}
        self.errors: dict[str, float] = {}
        """By node and kind of parameter."""
        self.eps: float | None = None
        self.makers: dict[str, onnx.NodeProto] = {}
        self.made: dict[str, Node] = {}
        self.passed: dict[str, list[tuple[Any, ...]]] = {}
        self.image = Node("image", IMAGE, signature=hash("image"))

    def skeletons(self) -> list[Node]:
        """The last node before each output."""
        for value in self.graph.input:
            if value.name not in self.tensors:
                self.made[value.name], self.passed[value.name] = self.image, []
        for node in self.graph.node:
            self.makers |= dict.fromkeys(node.output, node)
            for output in node.output[1:]:
                self.made.pop(output, None)
            self._read(node)
        return [self.made[value.name] for value in self.graph.output if value.name in self.made]

    def _constant(self, name: str) -> np.ndarray | None:
        if name not in self.constants and name in self.tensors:
            self.constants[name] = self._array(self.tensors[name])
            self.origins[name] = name
        return self.constants.get(name)

    def _array(self, tensor: onnx.TensorProto) -> np.ndarray:
        from onnx import TensorProto, helper, numpy_helper

        if tensor.data_type == TensorProto.STRING:
            raise TriptychError(f"{tensor.name} is made of text, expected float32")
        shape, dtype = tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type)
        data = self._external(tensor) if tensor.data_location == TensorProto.EXTERNAL else self.raw.get(tensor.name)
        size = prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or (size > 8 * tensor.ByteSize() + 64 if data is None else size != len(data)):
            raise TriptychError(f"{tensor.name} is said to be {shape} {dtype}, which it does not have the data for")
        return numpy_helper.to_array(tensor) if data is None else np.frombuffer(data, dtype).reshape(shape)

    def _external(self, tensor: onnx.TensorProto) -> memoryview:
        """The data of a tensor that lies in a file beside the model."""
        said = {entry.key: entry.value for entry in tensor.external_data}
        location, folder = said.get("location", ""), self.path.resolve().parent
        file = folder / location
        if Path(location).is_absolute() or not file.resolve().is_relative_to(folder) or file.is_symlink():
            raise TriptychError(f"{tensor.name} refers to data outside the model's folder: {location!r}")
        if location not in self.files:
            self.files[location] = mapped(file)
        offset = int(said.get("offset", 0))
        length = int(said.get("length", len(self.files[location]) - offset))
        if offset < 0 or length < 0:
            raise TriptychError(f"{tensor.name} lies before the beginning of {location}")
        return self.files[location][offset : offset + length]

    def _read(self, node: onnx.NodeProto) -> None:
        from onnx import helper

        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        constants = [self._constant(name) for name in node.input if name]
        dynamic = [name for name in node.input if name in self.made]
        if not node.output:
            return
        output = node.output[0]
        if not dynamic:
            if node.op_type in LAYOUT:
                self._fold(node, attributes, constants)
            return
        read = getattr(self, f"_{node.op_type.lower()}", None)
        made = read(node, attributes, constants, dynamic) if read else _between(node.op_type, attributes)
        if isinstance(made, Node):
            made.signature = _signature(made)
            self.made[output], self.passed[output] = made, []
        else:
            self.made[output] = self.made[dynamic[0]]
            self.passed[output] = [*self.passed[dynamic[0]], *made]

    def _fold(self, node: onnx.NodeProto, attributes: dict[str, Any], constants: list[np.ndarray | None]) -> None:
        """Rearrange a constant."""
        output, operator = node.output[0], node.op_type
        array = constants[0] if constants else None
        if operator == "Constant":
            if "value" in attributes:
                self.constants[output], self.origins[output] = self._array(attributes["value"]), output
            elif "value_ints" in attributes or "value_int" in attributes:
                self.constants[output] = np.array(attributes.get("value_ints", attributes.get("value_int")))
            elif "value_float" in attributes or "value_floats" in attributes:
                self.constants[output] = np.array(
                    attributes.get("value_floats", attributes.get("value_float")), np.float32
                )
            return
        if array is None:
            return
        sizes = [int(n) for n in constants[1].reshape(-1)] if len(constants) > 1 and constants[1] is not None else None
        if operator == "ConstantOfShape":
            value = self._array(attributes["value"]).reshape(()) if "value" in attributes else np.float32(0)
            folded = np.broadcast_to(value, tuple(int(n) for n in array.reshape(-1)))
        elif operator == "Identity":
            folded = array
        elif operator == "Reshape":
            wanted = sizes if sizes is not None else list(attributes["shape"])
            folded = array.reshape([array.shape[i] if n == 0 else n for i, n in enumerate(wanted)])
        elif operator == "Flatten":
            axis = attributes.get("axis", 1)
            folded = array.reshape(prod(array.shape[:axis]), -1)
        elif operator == "Transpose":
            folded = array.transpose(attributes.get("perm", range(array.ndim)[::-1]))
        elif operator == "Unsqueeze":
            folded = np.expand_dims(array, tuple(sizes if sizes is not None else attributes["axes"]))
        elif operator == "Squeeze":
            axes = sizes if sizes is not None else attributes.get("axes")
            folded = np.squeeze(array, tuple(axes) if axes is not None else None)
        else:
            return
        self.constants[output] = folded
        self.origins[output] = origin = self.origins.get(node.input[0], output)
        if operator not in ("Identity", "ConstantOfShape"):
            self.changes[origin] = f"{operator} {tuple(array.shape)} → {tuple(folded.shape)}"

    def _named(self, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
        return self.origins.get(name, name), array

    def _node(self, kind: str, node: onnx.NodeProto, x: str, **rest: Any) -> Node:
        return Node(kind, node.name or node.output[0], (self.made[x],), between=tuple(self.passed[x]), **rest)

    def _conv(self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]) -> Node | Between:
        if len(constants) < 2 or constants[1] is None or constants[1].ndim != 4:
            return []
        weight = constants[1]
        parameters = {"weight": self._named(node.input[1], weight)}
        if len(constants) > 2 and constants[2] is not None:
            parameters["bias"] = self._named(node.input[2], constants[2].reshape(-1))
        if weight.shape[2:] == (1, 1) and ("GlobalAveragePool",) in self.passed[dynamic[0]]:
            # Caffe2 writes a dense layer behind a global average as a convolution.
            name, weight = parameters["weight"][0], weight[:, :, 0, 0]
            self.changes[name], parameters["weight"] = "out,in,1,1 → out,in", (name, weight)
            return self._node("Dense", node, dynamic[0], parameters=parameters, shape=weight.shape)
        numbers = (tuple(attributes.get("strides", (1, 1))), tuple(attributes.get("pads", (0, 0, 0, 0))))
        return self._node("Conv", node, dynamic[0], parameters=parameters, shape=weight.shape, numbers=numbers)

    def _gemm(self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]) -> Node | Between:
        if len(constants) < 2 or constants[1] is None or constants[1].ndim != 2:
            return []
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            raise TriptychError(f"its node {node.name!r} is a Gemm with factors, which no dense layer has")
        made = self._dense(node, constants[1] if attributes.get("transB", 0) else constants[1].T, dynamic[0])
        if not attributes.get("transB", 0):
            self.changes.setdefault(made.parameters["weight"][0], "in,out → out,in")
        if len(constants) > 2 and constants[2] is not None:
            made.parameters["bias"] = self._named(node.input[2], constants[2].reshape(-1))
        return made

    def _matmul(
        self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]
    ) -> Node | Between:
        if len(constants) < 2 or constants[1] is None or constants[1].ndim != 2:
            return []
        made = self._dense(node, constants[1].T, dynamic[0])
        self.changes.setdefault(made.parameters["weight"][0], "in,out → out,in")
        return made

    def _dense(self, node: Any, weight: np.ndarray, x: str) -> Node:
        name = self.origins.get(node.input[1], node.input[1])
        turned = [entry for entry in self.passed[x] if entry[0] == "Transpose"]
        maps = [before for before in (self.made[x],) if before.kind in ("Conv", "BatchNorm") and before.shape]
        if len(turned) % 2 and turned[-1][1] == (0, 2, 3, 1) and maps and weight.shape[1] % maps[0].shape[0] == 0:
            # The flatten runs H, W, C, as it does in graphs that come from TensorFlow.
            channels = maps[0].shape[0]
            places = weight.shape[1] // channels
            weight = weight.reshape(-1, places, channels).transpose(0, 2, 1).reshape(weight.shape)
            self.changes[name] = "(H,W,C) → (C,H,W)"
        return self._node("Dense", node, x, parameters={"weight": (name, weight)}, shape=weight.shape)

    def _batchnormalization(
        self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]
    ) -> Node | Between:
        if any(constant is None for constant in constants[1:5]) or len(constants) < 5:
            return []
        eps = float(attributes.get("epsilon", 1e-5))
        if self.eps not in (None, eps):
            raise TriptychError(f"its batch normalisations have different eps, {self.eps:g} and {eps:g}")
        self.eps = eps
        kinds = ("gamma", "beta", "mean", "variance")
        parameters = {kind: self._named(node.input[i], constants[i]) for i, kind in enumerate(kinds, start=1)}
        return self._node("BatchNorm", node, dynamic[0], parameters=parameters, shape=constants[1].shape)

    def _mul(self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]) -> Node | Between:
        """A scale behind a batch normalisation becomes its gamma; LeNet-5's sub-sampling has one of its own."""
        constant = next((array for array in constants if array is not None), None)
        x, name = dynamic[0], next((name for name in node.input if name not in self.made), "")
        if constant is None or len(dynamic) > 1:
            return []
        if constant.size == 1:
            return [SUM] if constant.dtype == np.float32 and float(constant.reshape(())) == 4.0 else []
        if self.made[x].kind == "BatchNorm" and not self.passed[x]:
            return self._affine(self.made[x], gamma=self._named(name, constant.reshape(-1)))
        if SUM in self.passed[x]:
            parameters = {"weight": self._named(name, constant)}
            return self._node("SubSampling", node, x, parameters=parameters, shape=constant.shape)
        return []

    def _affine(self, before: Node, gamma: Any = None, beta: Any = None) -> Node:
        """Caffe's Scale layer behind its BatchNorm, whose own scale and shift are mostly 1 and 0.

        (x · s + b) · m + a has the scale s · m and the shift b · m + a, computed in float64 and rounded once.
        """
        parameters = dict(before.parameters)
        for kind, origin in (("gamma", gamma), ("beta", gamma), ("beta", beta)):
            if origin is None:
                continue
            name, array = parameters[kind]
            by, factor = origin
            exact = array.astype(np.float64) + factor if origin is beta else array.astype(np.float64) * factor
            rounded = exact.astype(np.float32)
            unchanged = np.array_equal(rounded, factor)
            parameters[kind] = (by if unchanged and (kind == "gamma" or origin is beta) else name, rounded)
            self.errors[f"{before.name}/{kind}"] = rounding_error(rounded, exact)
        return Node(before.kind, before.name, before.inputs, parameters, before.shape, before.numbers, before.between)

    def _add(self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]) -> Node | Between:
        """The sum of two branches, or a bias."""
        if len(dynamic) > 1:
            return self._join("Add", node, dynamic)
        constant = next((array for array in constants if array is not None), None)
        before = self.made[dynamic[0]]
        if constant is None or self.passed[dynamic[0]] or before.kind == "image":
            return []
        name = next(name for name in node.input if name not in self.made)
        bias = self._named(name, constant.reshape(-1))
        if before.kind == "BatchNorm":
            return self._affine(before, beta=bias)
        if before.kind == "SubSampling" and "bias" not in before.parameters:
            bias = self._named(name, constant)
        if before.kind in ("Conv", "Dense", "SubSampling") and "bias" not in before.parameters:
            parameters = {**before.parameters, "bias": bias}
            return Node(
                before.kind, before.name, before.inputs, parameters, before.shape, before.numbers, before.between
            )
        return []

    def _sum(self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]) -> Node | Between:
        return self._add(node, attributes, constants, dynamic)

    def _concat(
        self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]
    ) -> Node | Between:
        return self._join("Concat", node, dynamic) if len(dynamic) > 1 else []

    def _div(self, node: Any, attributes: dict[str, Any], constants: list[Any], dynamic: list[str]) -> Between:
        """The end of a normalisation that is written as several nodes: its `dynamic[0]` is what it normalises."""
        found = find_lrn(node, self.makers, self._constant)
        return [_lrn(found.size, found.alpha, found.beta, found.k)] if found else []

    def _join(self, kind: str, node: Any, dynamic: list[str]) -> Node | Between:
        if all(self.made[name] is self.image for name in dynamic):
            return []  # something is done to the image
        return Node(kind, node.name or node.output[0], tuple(self.made[name] for name in dynamic))


def _between(operator: str, attributes: Mapping[str, Any]) -> Between:
    """What is worth comparing of an operator without parameters."""
    if operator == "MaxPool":
        pads = ("ceil",) if attributes.get("ceil_mode") else tuple(attributes.get("pads", (0, 0, 0, 0)))
        return [(operator, tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", (1, 1))), pads)]
    if operator == "LRN":
        numbers = (attributes.get("alpha", 1e-4), attributes.get("beta", 0.75), attributes.get("bias", 1.0))
        return [_lrn(attributes["size"], *numbers)]
    if operator == "Transpose":
        return [(operator, tuple(attributes.get("perm", ())))]
    return [(operator,)] if operator in ("Relu", "Pad", "GlobalAveragePool") else []


def _lrn(size: int, *numbers: float) -> tuple[Any, ...]:
    """Alpha, beta and k to four digits: a file keeps them in float32."""
    return ("LRN", size, *(f"{number:.4g}" for number in numbers))


def _signature(node: Node) -> int:
    before = [each.signature for each in node.inputs]
    return hash((node.kind, node.shape, tuple(sorted(before) if node.kind == "Add" else before)))


def skeleton(spec: Architecture, head: str) -> Node:
    """The skeleton of a network of the catalogue, up to a layer."""
    made: dict[str, Node] = {IMAGE: Node("image", IMAGE, signature=hash("image"))}
    passed: dict[str, list[tuple[Any, ...]]] = {IMAGE: []}
    for layer in spec.layers:
        kind = layer.operation.kind
        if isinstance(layer.operation, Conv | Dense | BatchNorm | SubSampling):
            shapes = layer.operation.parameter_shapes(*spec.input_shapes(layer))
            shape = next(iter(shapes.values()))
            numbers = _numbers(spec, layer) if isinstance(layer.operation, Conv) else ()
            before = layer.inputs[0]
            node = Node(kind, layer.name, (made[before],), {}, shape, numbers, tuple(passed[before]))
        elif isinstance(layer.operation, Add | Concat):
            node = Node(kind, layer.name, tuple(made[name] for name in layer.inputs))
        else:
            made[layer.name] = made[layer.inputs[0]]
            passed[layer.name] = [*passed[layer.inputs[0]], *_specified_between(spec, layer)]
            continue
        node.signature = _signature(node)
        made[layer.name], passed[layer.name] = node, []
    return made[head]


def _numbers(spec: Architecture, layer: Layer) -> tuple[Any, ...]:
    assert isinstance(layer.operation, Windowed)
    _, stride, ((top, bottom), (left, right)) = layer.operation.window(spec.input_shapes(layer)[0])
    return stride, (top, left, bottom, right)


def _specified_between(spec: Architecture, layer: Layer) -> list[tuple[Any, ...]]:
    operation = layer.operation
    if operation.kind == "MaxPool":
        assert isinstance(operation, Windowed)
        kernel, _, _ = operation.window(spec.input_shapes(layer)[0])
        return [("MaxPool", kernel, *_numbers(spec, layer))]
    if isinstance(operation, LRN):
        return [_lrn(operation.size, operation.alpha, operation.beta, operation.k)]
    return [("Relu",)] if operation.kind == "ReLU" else []


def _pairs(ours: Node, theirs: Node) -> list[tuple[str, Node]]:
    """Our layers and their nodes, of two skeletons that are the same."""
    pairs: dict[str, Node] = {}
    waiting = [(ours, theirs)]
    while waiting:
        mine, other = waiting.pop()
        if mine.name in pairs or mine.kind == "image":
            continue
        pairs[mine.name] = other
        inputs = other.inputs
        if mine.kind == "Add":
            wanted = [node.signature for node in mine.inputs]
            inputs = next(order for order in permutations(inputs) if [node.signature for node in order] == wanted)
        waiting += zip(mine.inputs, inputs, strict=True)
    return list(pairs.items())


def _differences(ours: Node, theirs: Node) -> list[str]:
    """Where two networks of the same skeleton differ in what has no parameters."""
    differences = []
    names = dict(_pairs(ours, theirs))
    waiting, seen = [ours], set()
    while waiting:
        mine = waiting.pop()
        if mine.name in seen or mine.kind == "image":
            continue
        seen.add(mine.name)
        waiting += mine.inputs
        other = names[mine.name]
        padded = any(entry[0] == "Pad" for entry in other.between)
        if mine.numbers and mine.numbers[: 1 if padded else 2] != other.numbers[: 1 if padded else 2]:
            differences.append(f"{mine.name} has stride and padding {other.numbers}, here {mine.numbers}")
        found, expected = (
            [entry for entry in between if entry[0] in ("MaxPool", "LRN", "Relu")]
            for between in (other.between, mine.between)
        )
        same = len(found) == len(expected) and all(
            f == e or (f[:3] == e[:3] and f[3:] == (("ceil",),)) for f, e in zip(found, expected, strict=True)
        )
        if not same:
            differences.append(f"before {mine.name} it has {_told(found)}, here {_told(expected)}")
    return differences


def _told(entries: list[tuple[Any, ...]]) -> str:
    return ", ".join(f"{entry[0]}{entry[1:] or ''}" for entry in entries) or "nothing"


def _identify(path: Path, outputs: list[Node], said: str | None) -> tuple[Architecture, list[str], list[str]]:
    """The network of the catalogue with the file's skeleton, others that fit as well, and how the rest differs."""
    fitting: list[tuple[list[str], Architecture]] = []
    for name in list_architectures():
        for classes in {node.shape[0] for node in outputs if node.shape} or {1000}:
            if not 0 < classes <= 100_000:
                continue
            spec = get_spec(name, num_classes=classes)
            ours = skeleton(spec, spec.outputs["logits"])
            theirs = next((node for node in outputs if node.signature == ours.signature), None)
            if theirs is not None:
                fitting.append((_differences(ours, theirs), spec))
    if not fitting:
        raise TriptychError(f"{path} is an ONNX model of no network in the catalogue: {_inventory(outputs)}")
    fewest = min(len(differences) for differences, _ in fitting)
    closest = [(differences, spec) for differences, spec in fitting if len(differences) == fewest]
    differences, spec = next((pair for pair in closest if pair[1].name == said), closest[0])
    others = [other.name for _, other in closest if said != spec.name and other.name != spec.name]
    return spec, others, [f"the graph differs from {spec.name}: {difference}" for difference in differences]


def _inventory(outputs: list[Node]) -> str:
    seen: dict[int, Node] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            waiting += node.inputs
    kinds = [node.kind for node in seen.values() if node.kind != "image"]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    hint = ""
    if "BatchNorm" not in kinds and "Add" in kinds:
        hint = (
            "; batch normalisations that an exporter has folded into convolutions cannot be recovered: export without"
        )
    return f"it has {counts or 'no layers with weights'}{hint}"
