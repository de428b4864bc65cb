"""The canonical ONNX graph, and running one with every layer recorded.

Each implementation traces its own model and writes what it finds through a `GraphBuilder`, so that the three exports
share their vocabulary (one node for each layer, named after it; initializers named and laid out canonically) while the
content of each graph comes from that framework's model alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from common.errors import TriptychError
from common.files import written_atomically
from common.specs import nearest
from common.specs.architecture import IMAGE, AdaptiveAveragePool, Padding, Pair

if TYPE_CHECKING:
    import onnx

OPSET = 18
IR_VERSION = 10
BATCH = "N"
"""The name of the dynamic first axis."""


class GraphBuilder:
    """An ONNX graph, written layer by layer. Each method adds one node called `name` and returns its output's name.

    Where ONNX needs several nodes for a layer, the last bears its name, and the others' names and the constants' begin
    with it: `s2/sum`. Values are named after the layer that makes them. Maps are (N, C, H, W).
    """

    def __init__(self, image_shape: Sequence[int], *, architecture: str | None = None) -> None:
        self.architecture = architecture
        self.image_shape = tuple(image_shape)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}

    def _node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def _parameters(self, layer: str, **parameters: np.ndarray | None) -> list[str]:
        given = {f"{layer}/{name}": array for name, array in parameters.items() if array is not None}
        self.initializers |= given
        return list(given)

    def conv(
        self,
        name: str,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        stride: Pair = (1, 1),
        padding: Padding = ((0, 0), (0, 0)),
        dilation: Pair = (1, 1),
        groups: int = 1,
    ) -> str:
        """Convolution; weight (out, in / groups, H, W)."""
        return self._node(
            "Conv",
            name,
            x,
            *self._parameters(name, weight=weight, bias=bias),
            kernel_shape=weight.shape[2:],
            strides=stride,
            pads=_pads(padding),
            dilations=dilation,
            group=groups,
        )

    def dense(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """W·x + b; weight (out, in)."""
        return self._node("Gemm", name, x, *self._parameters(name, weight=weight, bias=bias), transB=1)

    def max_pool(self, name: str, x: str, *, kernel: Pair, stride: Pair, padding: Padding) -> str:
        """The largest value of each window; padding never wins."""
        return self._node("MaxPool", name, x, kernel_shape=kernel, strides=stride, pads=_pads(padding))

    def lrn(self, name: str, x: str, *, size: int, alpha: float, beta: float, k: float) -> str:
        """Local response normalisation; alpha is divided by size, as in Caffe."""
        return self._node("LRN", name, x, size=size, alpha=float(alpha), beta=float(beta), bias=float(k))

    def average_pool(self, name: str, x: str, *, kernel: Pair, stride: Pair) -> str:
        return self._node("AveragePool", name, x, kernel_shape=kernel, strides=stride, pads=[0, 0, 0, 0])

    def adaptive_average_pool(self, name: str, x: str, operation: AdaptiveAveragePool, size: Pair) -> str:
        """The mean at every place, then the places that are wanted: ONNX has no operator for it."""
        rows, columns = (operation.windows(length) for length in size)
        kernel = (rows[0][1], columns[0][1])
        means = self._node("AveragePool", f"{name}/average", x, kernel_shape=kernel, strides=(1, 1), pads=[0, 0, 0, 0])
        starts = self._parameters(
            name,
            rows=np.array([begin for begin, _ in rows], np.int64),
            columns=np.array([begin for begin, _ in columns], np.int64),
        )
        chosen = self._node("Gather", f"{name}/row_means", means, starts[0], axis=2)
        return self._node("Gather", name, chosen, starts[1], axis=3)

    def global_average_pool(self, name: str, x: str) -> str:
        """(N, C, H, W) to (N, C, 1, 1)."""
        return self._node("GlobalAveragePool", name, x)

    def batch_norm(
        self,
        name: str,
        x: str,
        gamma: np.ndarray,
        beta: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        *,
        eps: float,
    ) -> str:
        """Batch normalisation with stored statistics."""
        parameters = self._parameters(name, gamma=gamma, beta=beta, mean=mean, variance=variance)
        return self._node("BatchNormalization", name, x, *parameters, epsilon=float(eps))

    def relu(self, name: str, x: str) -> str:
        return self._node("Relu", name, x)

    def sigmoid(self, name: str, x: str) -> str:
        return self._node("Sigmoid", name, x)

    def scaled_tanh(self, name: str, x: str, *, amplitude: float, slope: float) -> str:
        """amplitude · tanh(slope · x), in three nodes."""
        factors = self._parameters(name, slope=_scalar(slope), amplitude=_scalar(amplitude))
        scaled = self._node("Mul", f"{name}/scaled", x, factors[0])
        return self._node("Mul", name, self._node("Tanh", f"{name}/tanh", scaled), factors[1])

    def sub_sampling(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """The sum of each 2×2 window, times weight (C, 1, 1), plus bias (C, 1, 1), in four nodes.

        ONNX has no sum over windows: it is four times the average, and that factor rounds nothing.
        """
        four, factor, summand = self._parameters(name, four=_scalar(4), weight=weight, bias=bias)
        average = self.average_pool(f"{name}/average", x, kernel=(2, 2), stride=(2, 2))
        sums = self._node("Mul", f"{name}/sum", average, four)
        return self._node("Add", name, self._node("Mul", f"{name}/scaled", sums, factor), summand)

    def select_channels(self, name: str, x: str, channels: Sequence[int]) -> str:
        """Some channels of a map, by number."""
        return self._node("Gather", name, x, *self._parameters(name, channels=np.array(channels, np.int64)), axis=1)

    def add(self, name: str, *inputs: str) -> str:
        return self._node("Add", name, *inputs)

    def concat(self, name: str, *inputs: str) -> str:
        """The channels of maps one after the other."""
        return self._node("Concat", name, *inputs, axis=1)

    def flatten(self, name: str, x: str) -> str:
        return self._node("Flatten", name, x, axis=1)

    def save(self, path: str | Path, values: Mapping[str, str], outputs: Sequence[str], *, source: str) -> None:
        """Check the graph in full and write it, whole or not at all.

        Layers that lead to none of the outputs are left out, and their parameters with them.

        Args:
            path: where to; an existing file is replaced.
            values: `logits`, and the auxiliary heads if there are any, to the layers behind them.
            outputs: which of them the graph has, in this order.
            source: the framework and its version, kept in the file's metadata.

        Raises:
            TriptychError: an output is unknown or none is asked for, or the file cannot be written.
        """
        import onnx

        for name in outputs:
            if name not in values:
                raise TriptychError(f"cannot export the output {name!r}; {nearest(name, values)}")
        if not outputs:
            raise TriptychError(f"cannot export a network without outputs; {nearest('', values)}")
        self._keep_only(values[name] for name in outputs)
        model = self._model({name: values[name] for name in outputs}, source)
        with written_atomically(path) as temporary:
            with temporary.open("wb") as file:
                _write(model, self.initializers, file)
            onnx.checker.check_model(temporary, full_check=True)

    def _keep_only(self, values: Iterable[str]) -> None:
        """Drop the nodes that lead to none of the values, and the initializers that only they read."""
        needed = set(values)
        for node in reversed(_in_canonical_order(self.nodes)):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
        self.nodes = [node for node in self.nodes if not needed.isdisjoint(node.output)]
        self.initializers = {name: array for name, array in self.initializers.items() if name in needed}

    def _model(self, outputs: Mapping[str, str], source: str) -> onnx.ModelProto:
        """The model without its initializers, the shape of every value inferred."""
        from onnx import TensorProto, helper, shape_inference

        renamed = {layer: output for output, layer in outputs.items()}
        self.nodes = _in_canonical_order(self.nodes)
        for node in self.nodes:
            node.input[:] = [renamed.get(value, value) for value in node.input]
            node.output[:] = [renamed.get(value, value) for value in node.output]
        parameters = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in self.initializers.items()
        ]
        image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [BATCH, *self.image_shape])
        graph = helper.make_graph(
            self.nodes, self.architecture or "network", [image, *parameters], _float_values(outputs)
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        # The parameters are inputs only for as long as the shapes behind them are inferred.
        model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        del model.graph.input[1:]
        properties = {"source": source} | ({"architecture": self.architecture} if self.architecture else {})
        helper.set_model_props(model, properties)
        return model


def _in_canonical_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Every node behind those it reads, and of those that are ready the one first in the alphabet.

    Frameworks list parallel branches in different orders; the graph should not depend on which it came from.
    """
    makers = {value: node.name for node in nodes for value in node.output}
    waiting_for = {node.name: {makers[value] for value in node.input if value in makers} for node in nodes}
    by_name = {node.name: node for node in nodes}
    ordered = []
    sorter = TopologicalSorter(waiting_for)
    sorter.prepare()
    ready: list[str] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heappush(ready, name)
        name = heappop(ready)
        ordered.append(by_name[name])
        sorter.done(name)
    return ordered


def _write(model: onnx.ModelProto, initializers: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Serialise a model and its initializers without copying the arrays.

    `onnx.save` copies every array into Python bytes, into a protobuf message, and into one string for the whole file,
    which takes several times as long as writing them. A protobuf message is the concatenation of its fields, each a
    tag, a length and the content, so the arrays can go straight to the file.
    """
    import onnx

    initializer = _tag(onnx.GraphProto, "initializer")
    entries = []
    for name, array in sorted(initializers.items()):
        data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        header = onnx.TensorProto(name=name, dims=array.shape, data_type=data_type).SerializeToString()
        header += _tag(onnx.TensorProto, "raw_data") + _varint(array.nbytes)
        entries.append((initializer + _varint(len(header) + array.nbytes) + header, array))
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    file.write(model.SerializeToString())
    size = len(graph) + sum(len(header) + array.nbytes for header, array in entries)
    file.write(_tag(onnx.ModelProto, "graph") + _varint(size) + graph)
    for header, array in entries:
        file.write(header)
        file.write(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data.cast("B"))


def _tag(message: type, field: str) -> bytes:
    """The key of a length-delimited field (protobuf encoding, wire type 2)."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)  # type: ignore[attr-defined]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit set on all but the last (protobuf encoding, base 128)."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _scalar(number: float) -> np.ndarray:
    return np.array(number, np.float32)


def _pads(padding: Padding) -> list[int]:
    """ONNX lists all beginnings, then all ends."""
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]


def record(
    path: str | Path, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Run an exported file with ONNX Runtime on the CPU and return every layer's output by its node's name.

    Args:
        path: a file that `GraphBuilder` wrote.
        image: float32, (N, C, H, W).
        injected: values that replace a layer's output for the layers behind it, after it has been recorded.

    Raises:
        TriptychError: ONNX Runtime refuses the file.
    """
    import onnx
    import onnxruntime

    model = onnx.load(path)
    injected = dict(injected or {})
    values = {node.name: node.output[0] for node in model.graph.node}
    inlets = {values[name]: f"{name}/injected" for name in injected}
    for node in model.graph.node:
        node.input[:] = [inlets.get(value, value) for value in node.input]
    del model.graph.output[:]
    model.graph.output.extend(_float_values(values.values()))
    model.graph.input.extend(_float_values(inlets.values()))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    arrays = _take_initializers(model)  # ONNX Runtime reads them in place: they must outlive the session
    options.add_external_initializers(
        list(arrays), [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    )
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {IMAGE: image} | {f"{name}/injected": array for name, array in injected.items()}
        return dict(zip(values, session.run(list(values.values()), feeds), strict=True))
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise TriptychError(f"ONNX Runtime cannot run {path}: {error}") from None


def _float_values(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    from onnx import TensorProto, helper

    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]


def _take_initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Replace the initializers' data by a reference to data beside the model, and return it.

    Serialising a model with its weights, only for ONNX Runtime to parse it again, takes longer than running it.
    """
    from onnx import TensorProto, numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="beside")
    return arrays
