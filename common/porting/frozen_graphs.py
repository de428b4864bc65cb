"""Frozen graphs of TensorFlow (`.pb`): `tensorflow.GraphDef`, translated into an ONNX graph.

In a frozen graph the variables are constants. The graph is read as data, node by node, and nothing in it is run. Like
every ONNX graph, the translation is matched with the catalogue by its structure. So names do not matter, and another
stride or padding is seen. Maps stay (N, H, W, C); a transpose after each convolution says so.

Source: graph.proto, node_def.proto, attr_value.proto and tensor.proto in TensorFlow.
"""

from __future__ import annotations

from itertools import permutations
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError
from common.porting.graph_defs import SMALL, GraphDef, TFNode

if TYPE_CHECKING:
    import onnx

SAME_NAME = {
    **{name: name for name in ("Relu", "Sigmoid", "Tanh", "Softmax", "Reshape", "Mul", "Sub", "Shape", "Cast")},
    **dict.fromkeys(("Identity", "StopGradient", "CheckNumerics", "Snapshot", "PlaceholderWithDefault"), "Identity"),
    **{"Add": "Add", "AddV2": "Add", "BiasAdd": "Add", "RealDiv": "Div", "Div": "Div", "AddN": "Sum", "Relu6": "Clip"},
}
"""Operators that ONNX has, too, with the same inputs in the same order."""

PASSED = ("Mul", "RealDiv", "Div", "Select", "SelectV2")
"""What a dropout does to the image's values with random numbers, or with a probability that is fed: nothing, at 1."""

LARGEST_RATIO, ALLOWANCE = 3, 16 << 20
"""How much larger than the file its constants may be: kernels of groups are there twice, and one number for many."""

CHANNELS_LAST = (0, 2, 3, 1)
"""What turns a map of ONNX's into one of TensorFlow's."""

GLOBAL = 7
"""The side of a window that is averaged at the end of a network; others are smaller."""


def translated(graph: GraphDef) -> tuple[onnx.GraphProto, list[memoryview | None], list[str]]:
    """The ONNX graph; the data of its initializers; and the names of scales that the file does not have, which are 1.

    Raises:
        TriptychError: the graph is not frozen, has a loop, or nothing in it is convolved.
    """
    return _Translator(graph).run()


class _Translator:
    def __init__(self, graph: GraphDef) -> None:
        import onnx

        self.graph = graph
        self.onnx = onnx.GraphProto(name="frozen")
        self.raw: list[memoryview | None] = []
        self.taken = 0
        self.ones: list[str] = []

    def run(self) -> tuple[onnx.GraphProto, list[memoryview | None], list[str]]:
        self.onnx.input.add(name=self.graph.image)
        used: set[str] = set()
        for node in self.graph.order:
            if node.op == "Const":
                if (found := self.graph.constant(node.name)) is not None:
                    self._initializer(node.name, found)
            elif node.name != self.graph.image and node.name not in self.graph.fed:
                self._read(node)
                used |= {self.graph.owner(name) for name in node.inputs}
        for node in self.graph.order:
            if node.name in self.graph.flow and node.name not in used:
                self.onnx.output.add(name=node.name)
        return self.onnx, self.raw, self.ones

    def _read(self, node: TFNode) -> None:
        dropped = [name for name in node.inputs if self.graph.owner(name) in self.graph.fed]
        values = [name for name in node.inputs if self.graph.owner(name) in self.graph.flow]
        if dropped and len(values) == 1 and node.op in PASSED:
            self._add("Identity", values, node.name)
        elif node.op in ("Add", "AddV2") and self._normalised(node):
            return
        elif node.op in SAME_NAME:
            self._add(SAME_NAME[node.op], [self._turned(name, node) for name in node.inputs], node.name)
        elif not self._READERS.get(node.op, _Translator._unread)(self, node):
            self._add(f"tf.{node.op}", node.inputs, node.name)

    def _normalised(self, node: TFNode) -> bool:
        """`tf.nn.batch_normalization`: x · i + (beta − mean · i), i = gamma / √(variance + eps), or without gamma."""
        for scaled, shift in permutations(map(self.graph.source, node.inputs)):
            if scaled.op != "Mul" or shift.op != "Sub" or scaled.name not in self.graph.flow:
                continue
            x, factor = sorted(scaled.inputs, key=lambda name: self.graph.owner(name) not in self.graph.flow)
            beta, product = shift.inputs
            inverse, times = self.graph.source(factor), self.graph.source(product)
            if times.op != "Mul" or inverse.name not in map(self.graph.owner, times.inputs):
                return False
            mean = next((name for name in times.inputs if self.graph.owner(name) != inverse.name), "")
            gamma = ""
            if inverse.op == "Mul":
                root, gamma = sorted(inverse.inputs, key=lambda name: self.graph.source(name).op != "Rsqrt")
                inverse = self.graph.source(root)
            total = self.graph.source(inverse.inputs[0]) if inverse.op == "Rsqrt" else inverse
            if inverse.op != "Rsqrt" or total.op not in ("Add", "AddV2"):
                return False
            variance, eps = total.inputs
            added, stored = self.graph.array(eps), self.graph.array(variance)
            if added is None or added.size != 1 or stored is None:
                return False
            if not gamma:
                gamma = self._initializer(f"{node.name}/gamma", np.ones(stored.size, np.float32))
                self.ones.append(gamma)
            inputs = [x, *map(self._vector, (gamma, beta, mean, variance))]
            return self._map("BatchNormalization", inputs, node, epsilon=float(added.reshape(())))
        return False

    def _vector(self, name: str) -> str:
        """A constant with one axis: Keras gives it four."""
        node = self.graph.nodes.get(self.graph.owner(name))
        while node is not None and node.op in ("Identity", "Reshape"):
            name = node.inputs[0]
            node = self.graph.nodes.get(self.graph.owner(name))
        array = self.graph.array(name) if node is not None else None
        if array is None or array.ndim == 1:
            return name
        self._add("Reshape", [name], f"{name}/vector", shape=[-1])
        return f"{name}/vector"

    def _turned(self, name: str, node: TFNode) -> str:
        """The coefficients of a sub-sampling are (1, 1, C) here, and (C, 1, 1) in ONNX."""
        array = self.graph.array(name) if node.op in ("Mul", "Add", "AddV2") else None
        if array is None or array.ndim != 3 or array.shape[:2] != (1, 1):
            return name
        self._add("Transpose", [name], f"{node.name}/turned", perm=(2, 0, 1))
        return f"{node.name}/turned"

    def _add(self, op: str, inputs: Any, output: str, **attributes: Any) -> bool:
        from onnx import helper

        outputs = [output] if op == "Gather" else [output, *self.graph.results.get(output, ())]
        self.onnx.node.append(helper.make_node(op, list(inputs), outputs, name=output, **attributes))
        return True

    def _initializer(self, name: str, array: np.ndarray) -> str:
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._take(array.nbytes)
        self.onnx.initializer.add(name=name, data_type=kind, dims=array.shape)
        self.raw.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return name

    def _take(self, size: int) -> None:
        self.taken += size
        if self.taken > LARGEST_RATIO * self.graph.size + ALLOWANCE:
            raise TriptychError(f"its constants would take much more memory than its {self.graph.size:,} bytes")

    def _map(self, op: str, inputs: list[str], node: TFNode, **attributes: Any) -> bool:
        """An operator that has its channels last, and so has its result."""
        if node.channels_first:
            return self._add(op, inputs, node.name, **attributes)
        self._add(op, inputs, f"{node.name}/first", **attributes)
        return self._add("Transpose", [f"{node.name}/first"], node.name, perm=CHANNELS_LAST)

    def _conv2d(self, node: TFNode, weight: str = "", groups: int = 1, x: str = "") -> bool:
        weight = weight or node.inputs[1]
        self._add("Transpose", [weight], f"{node.name}/kernel", perm=(3, 2, 0, 1))
        options = {"dilations": node.places("dilations"), "group": groups, **_window(node)}
        return self._map("Conv", [x or node.inputs[0], f"{node.name}/kernel"], node, **options)

    def _concatv2(self, node: TFNode, inputs: tuple[str, ...] = (), axis: str = "") -> bool:
        inputs, axis = inputs or node.inputs[:-1], axis or node.inputs[-1]
        found = self.graph.array(axis)
        if not any(self.graph.owner(name) in self.graph.flow for name in inputs):
            return False
        if found is None or found.size != 1 or int(found.reshape(())) not in self.graph.channels:
            return False
        return self._grouped(node, inputs) or self._add("Concat", inputs, node.name, axis=1)

    def _concat(self, node: TFNode) -> bool:
        return self._concatv2(node, node.inputs[1:], node.inputs[0])

    def _grouped(self, node: TFNode, inputs: tuple[str, ...]) -> bool:
        """Groups are written as a split, a convolution of each part, and their concatenation."""
        parts = [self.graph.nodes[self.graph.owner(name)] for name in inputs]
        if any(part.op != "Conv2D" or part.attributes != parts[0].attributes for part in parts):
            return False
        images, kernels = (
            {self.graph.split_of(part.inputs[side], place, len(parts)) for place, part in enumerate(parts)}
            for side in (0, 1)
        )
        if len(images) != 1 or None in images:
            return False
        kernel = kernels.pop()
        if kernels or kernel is None:
            arrays = [self.graph.array(part.inputs[1]) for part in parts]
            if any(array is None or array.ndim != 4 for array in arrays):
                return False
            self._take(sum(array.nbytes for array in arrays if array is not None))  # before the memory is
            kernel = self._initializer(f"{node.name}/kernels", np.concatenate(arrays, axis=3))  # type: ignore[arg-type]
        whole = TFNode(node.name, "Conv2D", parts[0].inputs, parts[0].attributes)
        return self._conv2d(whole, kernel, len(parts), images.pop() or "")

    def _matmul(self, node: TFNode) -> bool:
        if node.flag("transpose_a"):
            return False
        return self._add("Gemm", node.inputs, node.name, transB=int(node.flag("transpose_b")))

    def _maxpool(self, node: TFNode) -> bool:
        return self._add("MaxPool", node.inputs, node.name, kernel_shape=node.places("ksize"), **_window(node))

    def _avgpool(self, node: TFNode) -> bool:
        everything = min(node.places("ksize")) >= GLOBAL and node.text("padding") == "VALID"
        return self._add("GlobalAveragePool" if everything else "AveragePool", node.inputs, node.name)

    def _mean(self, node: TFNode) -> bool:
        axes = self.graph.array(node.inputs[1])
        places = None if axes is None else sorted(int(axis) % 4 for axis in axes.reshape(-1))
        op = "GlobalAveragePool" if places in ([1, 2], [2, 3]) else "ReduceMean"
        return self._add(op, node.inputs[:1], node.name)

    def _lrn(self, node: TFNode) -> bool:
        size = 2 * node.integer("depth_radius", 5) + 1
        numbers = {"alpha": size * node.number("alpha", 1.0), "beta": node.number("beta", 0.5)}
        return self._add("LRN", node.inputs, node.name, size=size, bias=node.number("bias", 1.0), **numbers)

    def _pad(self, node: TFNode) -> bool:
        amounts = self.graph.array(node.inputs[1])
        value = self.graph.array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(())
        if amounts is None or amounts.shape != (4, 2) or value is None or np.any(value):
            return False
        pads = self._initializer(f"{node.name}/pads", amounts.T.reshape(-1).astype(np.int64))
        return self._add("Pad", [node.inputs[0], pads], node.name)

    def _fill(self, node: TFNode) -> bool:
        """One number for all of a constant, such as ones."""
        shape, value = map(self.graph.array, node.inputs)
        if shape is None or value is None or value.size != 1:
            return False
        sizes = [int(size) for size in shape.reshape(-1)]
        if min(sizes, default=0) < 0 or prod(sizes) * value.itemsize > SMALL:
            return False
        self._initializer(node.name, np.full(sizes, value.reshape(())))
        return True

    def _transpose(self, node: TFNode) -> bool:
        order = self.graph.array(node.inputs[1])
        return order is not None and self._add(
            "Transpose", node.inputs[:1], node.name, perm=[int(n) for n in order.reshape(-1)]
        )

    def _squeeze(self, node: TFNode) -> bool:
        axes = node.integers("squeeze_dims")
        return self._add("Squeeze", node.inputs, node.name, **({"axes": axes} if axes else {}))

    def _expanddims(self, node: TFNode) -> bool:
        return self._add("Unsqueeze", node.inputs, node.name)

    def _gatherv2(self, node: TFNode) -> bool:
        axis = self.graph.array(node.inputs[2])
        return axis is not None and self._add("Gather", node.inputs[:2], node.name, axis=int(axis.reshape(-1)[0]))

    def _chosen(self, x: str, channels: list[int], output: str) -> bool:
        """Some channels of the image, as they are taken before the first layer."""
        if self.graph.owner(x) not in self.graph.pixels:
            return False
        indices = self._initializer(f"{output}/channels", np.array(channels))
        return self._add("Gather", [x, indices], output, axis=1)

    def _reversev2(self, node: TFNode) -> bool:
        axes = self.graph.array(node.inputs[1])
        last = axes is not None and axes.reshape(-1).tolist() in ([3], [-1])
        return last and self._chosen(node.inputs[0], [2, 1, 0], node.name)

    def _stridedslice(self, node: TFNode) -> bool:
        """`x[..., ::-1]` or `x[:, :, :, ::-1]`, which turn RGB into BGR."""
        found = self.graph.array(node.inputs[3]) if len(node.inputs) == 4 else None
        steps = [] if found is None else found.reshape(-1).tolist()
        masks = [node.integer(f"{name}_mask", 0) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")]
        shortened = steps == [1, -1] and masks[0] & masks[1] & 2 and masks[2:] == [1, 0, 0]
        in_full = steps == [1, 1, 1, -1] and masks == [15, 15, 0, 0, 0]
        return bool(shortened or in_full) and self._chosen(node.inputs[0], [2, 1, 0], node.name)

    def _split(self, node: TFNode) -> bool:
        """The image's channels, each by itself."""
        axis = self.graph.array(node.inputs[0])
        if axis is None or axis.reshape(-1).tolist() not in ([3], [-1]) or node.integer("num_split", 0) != 3:
            return False
        if self.graph.owner(node.inputs[1]) not in self.graph.pixels:
            return False
        names = {0: node.name, **{int(name.partition(":")[2]): name for name in self.graph.results.get(node.name, ())}}
        return all(self._chosen(node.inputs[1], [place], name) for place, name in names.items())

    def _fusedbatchnorm(self, node: TFNode) -> bool:
        if node.flag("is_training", True):
            return False
        return self._map("BatchNormalization", list(node.inputs), node, epsilon=node.number("epsilon", 1e-4))

    def _unread(self, node: TFNode) -> bool:
        return False

    _READERS = MappingProxyType(
        {
            "AvgPool": _avgpool,
            "Concat": _concat,
            "ConcatV2": _concatv2,
            "Conv2D": _conv2d,
            "ExpandDims": _expanddims,
            "Fill": _fill,
            "GatherV2": _gatherv2,
            "LRN": _lrn,
            "MatMul": _matmul,
            "MaxPool": _maxpool,
            "Mean": _mean,
            "ReverseV2": _reversev2,
            "Split": _split,
            "Squeeze": _squeeze,
            "StridedSlice": _stridedslice,
            "Transpose": _transpose,
            **dict.fromkeys(("Pad", "PadV2"), _pad),
            **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _fusedbatchnorm),
        }
    )
    """By TensorFlow's operators; a reader says whether it understood the node."""


def _window(node: TFNode) -> dict[str, Any]:
    """The stride and the padding of a convolution or a pooling."""
    strides, padding = node.places("strides"), node.text("padding")
    if padding == "EXPLICIT":
        pads = node.integers("explicit_paddings")
        first = 4 if node.channels_first else 2
        top, bottom, left, right = pads[first : first + 4]
        return {"strides": strides, "pads": (top, left, bottom, right)}
    return {"strides": strides} if padding == "VALID" else {"strides": strides, "auto_pad": "SAME_UPPER"}
