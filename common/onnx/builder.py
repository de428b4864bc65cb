"""The canonical ONNX graph.

Each implementation traces its own model and writes the operations that it finds through a `GraphBuilder`. So the three
exports share their vocabulary: one node for each layer, named after it, and canonical names and layouts of
initializers. The content of each graph comes from that framework's model alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError, nearest
from common.onnx.files import write_onnx
from common.onnx.lrn import write_as_nodes
from common.onnx.options import ELEMENTS, OPSETS, ExportOptions
from common.operations import Softmax
from common.operations.names import PARAMETERS
from common.specs import CATALOGUE, get_spec
from common.specs.architecture import IMAGE
from common.weights import weights_sha256

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10
BATCH = "N"
"""The name of the dynamic first axis."""


class GraphBuilder:
    """An ONNX graph, written layer by layer by the operations themselves (`Operation.to_onnx`).

    If a layer needs several ONNX nodes, the last one has the layer's name. The names of the others and of constants
    begin with it: `s2/sum`. Values are named after the layer that makes them. Maps are (N, C, H, W).
    """

    def __init__(self, image_shape: Sequence[int], *, architecture: str | None = None) -> None:
        self.architecture = architecture
        self.image_shape = tuple(image_shape)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of that name, and return its output, which has the same name."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constants(self, layer: str, **arrays: np.ndarray | None) -> list[str]:
        """Add the arrays of a layer that are not None, and return their names: `conv1/weight`."""
        # A change of layout is often a view: made contiguous here, it is not copied again to be hashed and written.
        given = {f"{layer}/{name}": _contiguous(array) for name, array in arrays.items() if array is not None}
        self.initializers |= given
        return list(given)

    def save(self, path: str | Path, values: Mapping[str, str], options: ExportOptions, *, source: str) -> None:
        """Check the graph in full and write it, whole or not at all.

        Layers that lead to none of the outputs are left out, with their parameters.

        Args:
            path: where to; an existing file is replaced.
            values: the layer that gives each output: `logits` or `probabilities`, and auxiliary heads if any.
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
            softmax = Softmax().to_onnx(self, "softmax", outputs["logits"])
            outputs = {"probabilities" if name == "logits" else name: value for name, value in outputs.items()}
            outputs["probabilities"] = softmax
        if options.decomposes_lrn:
            whole = [node for node in self.nodes if node.op_type == "LRN"]
            self.nodes = [node for node in self.nodes if node.op_type != "LRN"]
            for node in whole:
                write_as_nodes(self, node)
        if options.dtype != "float32":
            self._round(options.dtype)
        model = self._model(outputs, options, metadata)
        write_onnx(model, self.initializers, path, external_data=options.external_data, unless=options.unless)

    def _metadata(self, options: ExportOptions, source: str) -> dict[str, str]:
        """The metadata of the file. The digest is that of the whole network's weights, before any change."""
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
        convolution's name; its value has the normalisation's name.
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
            convolution.input[1:] = self.constants(name, **folded)
            convolution.output[0] = node.output[0]
            self.nodes.remove(node)

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
        """The model without its initializers, with the shape of every value inferred."""
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
        # The parameters are inputs only while the shapes of what reads them are inferred.
        model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        del model.graph.input[1:], model.graph.initializer[:]
        helper.set_model_props(model, dict(metadata))
        return model


def _in_canonical_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Sort nodes so that each comes after those that it reads. Among several, the first in the alphabet comes first.

    Frameworks list parallel branches in different orders. The graph must not depend on the framework.
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
