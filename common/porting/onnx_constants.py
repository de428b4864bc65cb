"""The constants of an ONNX graph: initializers, in the model or in a file beside it, and what is made of them."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError
from common.porting.source import Damaged, mapped

if TYPE_CHECKING:
    import onnx

REARRANGING = (
    "Identity",
    "Reshape",
    "Flatten",
    "Transpose",
    "Unsqueeze",
    "Squeeze",
    "Cast",
    "Constant",
    "ConstantOfShape",
    "Expand",
)
"""Operators that only rearrange, which are carried out on constants."""


class Constants:
    """Every constant by the name of its value, read when it is asked for."""

    def __init__(self, path: Path, graph: onnx.GraphProto, raw: list[memoryview | None]) -> None:
        self.path = path
        self.files: dict[str, memoryview] = {}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        if len(self.tensors) != len(graph.initializer):
            raise Damaged("two of its initializers share a name")
        self.raw = {tensor.name: data for tensor, data in zip(graph.initializer, raw, strict=True)}
        self.arrays: dict[str, np.ndarray] = {}
        self.origins: dict[str, str] = {}
        """The initializer that a constant was made of."""
        self.changes: dict[str, str] = {}
        """What was changed about an initializer's layout."""

    def get(self, name: str) -> np.ndarray | None:
        """The constant of that name, if it is one."""
        if name not in self.arrays and name in self.tensors:
            self.arrays[name] = self.array(self.tensors[name])
            self.origins[name] = name
        return self.arrays.get(name)

    def named(self, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
        """The initializer that a constant was made of, and what was made of it."""
        return self.origins.get(name, name), array

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """A tensor as a view of the file, if its data are apart."""
        from onnx import TensorProto, helper, numpy_helper

        if tensor.data_type == TensorProto.STRING:
            raise TriptychError(f"{tensor.name} is made of text, expected float32")
        shape, dtype = tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type)
        data = self._external(tensor) if tensor.data_location == TensorProto.EXTERNAL else self.raw.get(tensor.name)
        size = prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or (size > 8 * tensor.ByteSize() + 64 if data is None else size != len(data)):
            raise Damaged(f"{tensor.name} is said to be {shape} {dtype}, which it does not have the data for")
        array = numpy_helper.to_array(tensor) if data is None else np.frombuffer(data, dtype).reshape(shape)
        return array.astype(np.float32) if dtype.name == "bfloat16" else array

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
            raise Damaged(f"{tensor.name} lies before the beginning of {location}")
        return self.files[location][offset : offset + length]

    def fold(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        """Carry out an operator on constants, if it only rearranges."""
        output, operator = node.output[0], node.op_type
        inputs = [self.get(name) for name in node.input if name]
        array = inputs[0] if inputs else None
        if operator == "Constant":
            self._constant(output, attributes)
            return
        if array is None or operator not in REARRANGING:
            return
        sizes = [int(n) for n in inputs[1].reshape(-1)] if len(inputs) > 1 and inputs[1] is not None else None
        if operator == "ConstantOfShape":
            value = self.array(attributes["value"]).reshape(()) if "value" in attributes else np.float32(0)
            folded = np.broadcast_to(value, tuple(int(n) for n in array.reshape(-1)))
        elif operator in ("Identity", "Cast"):
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
        self.arrays[output] = folded
        self.origins[output] = origin = self.origins.get(node.input[0], output)
        if operator not in ("Identity", "Cast", "ConstantOfShape"):
            self.changes[origin] = f"{operator} {tuple(array.shape)} → {tuple(folded.shape)}"

    def _constant(self, output: str, attributes: dict[str, Any]) -> None:
        if "value" in attributes:
            self.arrays[output], self.origins[output] = self.array(attributes["value"]), output
        elif "value_ints" in attributes or "value_int" in attributes:
            self.arrays[output] = np.array(attributes.get("value_ints", attributes.get("value_int")))
        elif "value_float" in attributes or "value_floats" in attributes:
            numbers = attributes.get("value_floats", attributes.get("value_float"))
            self.arrays[output] = np.array(numbers, np.float32)
