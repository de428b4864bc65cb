"""The canonical ONNX graph.

Each implementation traces its own model and writes what it finds through a `GraphBuilder`, so that the three exports
share their vocabulary (one node for each layer, named after it; initializers named and laid out canonically) while the
content of each graph comes from that framework's model alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError
from common.names import PARAMETERS
from common.onnx_file import write_onnx
from common.operations import AdaptiveAveragePool, Padding, Pair
from common.specs import CATALOGUE, get_spec, nearest
from common.specs.architecture import IMAGE, Preprocessing
from common.weights import weights_sha256

if TYPE_CHECKING:
    import onnx

ELEMENTS = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}
"""ONNX's name of each element type."""

OPSETS = {"float32": 18, "float16": 18, "bfloat16": 22}
"""The version of the operators by element type; convolutions and pools take bfloat16 since 22 only."""

LRN_FORMS = {"float32": "nodes", "float16": "node", "bfloat16": "node"}
"""How LRN is written by element type. As nodes, ONNX Runtime computes it several times faster (benchmarks/lrn.py), and
has kernels for it on every device; as one node, what overflows float16 on the way is the runtime's concern."""

IR_VERSION = 10
BATCH = "N"
"""The name of the dynamic first axis."""


@dataclass(frozen=True)
class ExportOptions:
    """What an exported graph should be like."""

    outputs: Sequence[str] = ("logits",)
    """Of `logits`, `aux1` and `aux2`, those to write; layers that lead to none of them are left out."""
    softmax: bool = False
    """End in a layer `softmax` and give its output, `probabilities`, in place of the logits; as a model that was built
    with a softmax is exported anyway."""
    batch: int | None = None
    """The number of images, if it is to be fixed."""
    dtype: str = "float32"
    """Of everything in the graph, the image included: `float32`, `float16` or `bfloat16`."""
    fold: bool = False
    """Multiply each batch normalisation that stands right behind a convolution into it."""
    external_data: bool = False
    """Put the weights into `<path>.data`; they are put there in any case if they do not fit into one file."""
    preprocessing: Preprocessing | None = None
    """How photographs become the image, kept in the file's metadata; the specification's if not given."""
    prepared: bool = True
    """Whether the file says so at all; not where nobody knows how photographs are prepared for its weights."""
    lrn: str | None = None
    """Local response normalisation as one `node`, or as the `nodes` that it consists of; `LRN_FORMS` says which if not
    given."""

    def __post_init__(self) -> None:
        if self.dtype not in ELEMENTS:
            raise TriptychError(f"cannot export as {self.dtype!r}; {nearest(self.dtype, ELEMENTS)}")
        if self.batch is not None and self.batch < 1:
            raise TriptychError(f"cannot export a batch of {self.batch}; it has at least one image")
        if not self.outputs:
            raise TriptychError("cannot export a network without outputs; name logits, aux1 or aux2")
        if self.lrn not in (None, "node", "nodes"):
            raise TriptychError(f"cannot write LRN as {self.lrn!r}; node or nodes")
        if self.lrn == "nodes" and self.dtype == "float16":
            raise TriptychError("cannot write LRN as nodes in float16: squares beyond 65504 overflow; write it as node")

    @property
    def decomposes_lrn(self) -> bool:
        return (self.lrn or LRN_FORMS[self.dtype]) == "nodes"


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
        # A change of layout is often a view: made contiguous here, it is not copied again to be hashed and written.
        given = {f"{layer}/{name}": _contiguous(array) for name, array in parameters.items() if array is not None}
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

    def softmax(self, name: str, x: str) -> str:
        """exp(x) / Σ exp(x) over the features of each image."""
        return self._node("Softmax", name, x, axis=1)

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

    def save(self, path: str | Path, values: Mapping[str, str], options: ExportOptions, *, source: str) -> None:
        """Check the graph in full and write it, whole or not at all.

        Layers that lead to none of the outputs are left out, and their parameters with them.

        Args:
            path: where to; an existing file is replaced.
            values: `logits` (or `probabilities`), and the auxiliary heads if there are any, to the layers behind them.
            options: see `ExportOptions`.
            source: the framework and its version, kept in the file's metadata.

        Raises:
            TriptychError: an output is unknown, a weight does not fit into the element type, or the file cannot be
                written.
        """
        asked = [
            "probabilities" if name == "logits" and "probabilities" in values else name for name in options.outputs
        ]
        for name in asked:
            if name not in values:
                raise TriptychError(f"cannot export the output {name!r}; {nearest(name, values)}")
        metadata = self._metadata(options, source)
        outputs = {name: values[name] for name in asked}
        self._keep_only(outputs.values())
        if options.fold:
            self._fold_batch_norms(outputs.values())
        if options.softmax and "logits" in outputs:
            softmax = self.softmax("softmax", outputs["logits"])
            outputs = {"probabilities" if name == "logits" else name: value for name, value in outputs.items()}
            outputs["probabilities"] = softmax
        if options.decomposes_lrn:
            self._decompose_lrn()
        if options.dtype != "float32":
            self._round(options.dtype)
        write_onnx(
            self._model(outputs, options, metadata), self.initializers, path, external_data=options.external_data
        )

    def _metadata(self, options: ExportOptions, source: str) -> dict[str, str]:
        """What the file says of itself; the digest is of the whole network's weights, before any change to them."""
        weights = {name: array for name, array in self.initializers.items() if name.rpartition("/")[2] in PARAMETERS}
        metadata = {"source": source, "weights_sha256": weights_sha256(weights)}
        preprocessing = options.preprocessing
        if self.architecture:
            metadata["architecture"] = self.architecture
        if self.architecture in CATALOGUE:
            preprocessing = preprocessing or get_spec(self.architecture).preprocessing
        if preprocessing and options.prepared:
            metadata["preprocessing"] = preprocessing.as_json()
        return metadata

    def _keep_only(self, values: Iterable[str]) -> None:
        """Drop the nodes that lead to none of the values, and the initializers that only they read."""
        needed = set(values)
        for node in reversed(_in_canonical_order(self.nodes)):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
        self.nodes = [node for node in self.nodes if not needed.isdisjoint(node.output)]
        self.initializers = {name: array for name, array in self.initializers.items() if name in needed}

    def _fold_batch_norms(self, outputs: Iterable[str]) -> None:
        """Make conv, then (x − mean) · s + beta with s = gamma / √(variance + eps), one convolution.

        Its kernel is W · s and its bias (b − mean) · s + beta, computed in float64 and rounded once. The node keeps the
        convolution's name; the value that it makes bears the normalisation's.
        """
        convolutions = {node.output[0]: node for node in self.nodes if node.op_type == "Conv"}
        readers = Counter(value for node in self.nodes for value in node.input)
        readers.update(outputs)
        for node in [node for node in self.nodes if node.op_type == "BatchNormalization"]:
            convolution = convolutions.get(node.input[0])
            if convolution is None or readers[node.input[0]] > 1:
                continue
            gamma, beta, mean, variance = (self.initializers.pop(name).astype(np.float64) for name in node.input[1:])
            scale = gamma / np.sqrt(variance + node.attribute[0].f)
            name = convolution.name
            weight = self.initializers[f"{name}/weight"] * scale[:, None, None, None]
            bias = (self.initializers.get(f"{name}/bias", np.float64(0)) - mean) * scale + beta
            folded = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
            convolution.input[1:] = self._parameters(name, **folded)
            convolution.output[0] = node.output[0]
            self.nodes.remove(node)

    def _decompose_lrn(self) -> None:
        """Write each LRN as the six nodes that it consists of: x / (k + alpha / size · Σ x²)^beta.

        A window over channels that lies between two axes of length 1 is a convolution of one channel over a volume,
        and its bias is k. It pads, averages, scales and shifts at once, and reads nothing but its window: a square
        that overflows to infinity makes its neighbours' quotients 0, as it does in one node, and no others NaN.
        """
        from onnx import helper

        normalisations = [node for node in self.nodes if node.op_type == "LRN"]
        self.nodes = [node for node in self.nodes if node.op_type != "LRN"]
        for node in normalisations:
            name, (x,) = node.name, node.input
            numbers = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            size = numbers["size"]
            before = (size - 1) // 2
            window, k, exponent, axis = self._parameters(
                name,
                window=np.full((1, 1, size, 1, 1), numbers["alpha"] / size, np.float32),
                k=np.array([numbers["bias"]], np.float32),
                exponent=_scalar(numbers["beta"]),
                axis=np.array([1], np.int64),
            )
            volume = self._node("Unsqueeze", f"{name}/volume", self._node("Mul", f"{name}/squares", x, x), axis)
            sums = self._node(
                "Conv",
                f"{name}/sums",
                volume,
                window,
                k,
                kernel_shape=(size, 1, 1),
                pads=(before, 0, 0, size - 1 - before, 0, 0),
            )
            powers = self._node("Pow", f"{name}/powers", self._node("Squeeze", f"{name}/scale", sums, axis), exponent)
            self._node("Div", name, x, powers)

    def _round(self, dtype: str) -> None:
        """Round every floating-point constant of the graph to a shorter type."""
        from onnx import TensorProto, helper

        element = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(ELEMENTS[dtype]))
        for name, array in self.initializers.items():
            if array.dtype != np.float32:
                continue
            with np.errstate(over="ignore"):
                self.initializers[name] = rounded = array.astype(element)
            if not np.isfinite(rounded.astype(np.float32)).all():
                raise TriptychError(f"cannot export as {dtype}: {name} holds {np.abs(array).max():g}, beyond its range")

    def _model(
        self, outputs: Mapping[str, str], options: ExportOptions, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """The model without its initializers, the shape of every value inferred."""
        from onnx import TensorProto, helper, numpy_helper, shape_inference

        element = TensorProto.DataType.Value(ELEMENTS[options.dtype])
        renamed = {layer: output for output, layer in outputs.items()}
        self.nodes = _in_canonical_order(self.nodes)
        for node in self.nodes:
            node.input[:] = [renamed.get(value, value) for value in node.input]
            node.output[:] = [renamed.get(value, value) for value in node.output]
        parameters = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in self.initializers.items()
        ]
        image = helper.make_tensor_value_info(IMAGE, element, [options.batch or BATCH, *self.image_shape])
        results = [helper.make_tensor_value_info(name, element, None) for name in outputs]
        # Shapes depend on the values of integers, such as an axis.
        integers = [numpy_helper.from_array(a, name) for name, a in self.initializers.items() if a.dtype == np.int64]
        name = self.architecture or "network"
        graph = helper.make_graph(self.nodes, name, [image, *parameters], results, integers)
        opset = helper.make_opsetid("", OPSETS[options.dtype])
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        # The parameters are inputs only for as long as the shapes behind them are inferred.
        model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        del model.graph.input[1:], model.graph.initializer[:]
        helper.set_model_props(model, dict(metadata))
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


def _contiguous(array: np.ndarray) -> np.ndarray:
    return array if array.flags.c_contiguous else array.copy()


def _scalar(number: float) -> np.ndarray:
    return np.array(number, np.float32)


def _pads(padding: Padding) -> list[int]:
    """ONNX lists all beginnings, then all ends."""
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]
