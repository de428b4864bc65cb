"""The constants of an ONNX graph: initializers, in the model or in a file beside it, and what is made of them.

`prove` lets onnx read them. Here a file may be hostile or larger than the memory, and a report says what was done to
each parameter. So they are views of the mapped file, read only when they are asked for and checked against the size
of the data; each remembers which initializer it was made of, and how.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import Damaged, TriptychError
from common.graphs.onnx_files import constant_of
from common.operations.onnx_node import OnnxNode
from common.porting.source import mapped

if TYPE_CHECKING:
    import onnx

REARRANGING = ("Identity", "Reshape", "Flatten", "Transpose", "Unsqueeze", "Squeeze", "Cast", "ConstantOfShape")
"""Operators that only rearrange. They are evaluated on constants."""


class Constants(Mapping[str, np.ndarray]):
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
        """The initializer that a constant was made from."""
        self.changes: dict[str, str] = {}
        """The changes of an initializer's layout."""

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            self.arrays[name] = self.array(self.tensors[name])
            self.origins[name] = name
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.tensors, **self.arrays})

    def __contains__(self, name: object) -> bool:
        return name in self.arrays or name in self.tensors

    def __len__(self) -> int:
        return len({**self.tensors, **self.arrays})

    def named(self, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
        """The name of the initializer that a constant was made from, and the constant."""
        return self.origins.get(name, name), array

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """A tensor, as a view of the file if possible."""
        from onnx import TensorProto, helper, numpy_helper

        if tensor.data_type == TensorProto.STRING:
            raise TriptychError(f"{tensor.name} is made of text, expected float32")
        try:
            shape, dtype = tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except KeyError:
            raise Damaged(f"{tensor.name} is of type {tensor.data_type}, which ONNX does not have") from None
        data = self._external(tensor) if tensor.data_location == TensorProto.EXTERNAL else self.raw.get(tensor.name)
        size = prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or (size > 8 * tensor.ByteSize() + 64 if data is None else size != len(data)):
            raise Damaged(f"{tensor.name} is said to be {shape} {dtype}, which it does not have the data for")
        array = numpy_helper.to_array(tensor) if data is None else np.frombuffer(data, dtype).reshape(shape)
        return array.astype(np.float32) if dtype.name == "bfloat16" else array

    def _external(self, tensor: onnx.TensorProto) -> memoryview:
        """The data of a tensor in a file beside the model."""
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

    def fold(self, node: OnnxNode) -> None:
        """Evaluate an operator on constants, if it only rearranges."""
        output, operator, attributes = node.proto.output[0], node.kind, node.attributes
        if operator == "Constant":
            if (held := constant_of(node.proto)) is not None:
                self.tensors[output] = held
            return
        array = node.constant(0)
        if array is None or operator not in REARRANGING:
            return
        second = node.constant(1)
        sizes = None if second is None else [int(n) for n in second.reshape(-1)]
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
        else:
            axes = sizes if sizes is not None else attributes.get("axes")
            folded = np.squeeze(array, tuple(axes) if axes is not None else None)
        self.arrays[output] = folded
        self.origins[output] = origin = self.origins.get(node.inputs[0], output)
        if operator not in ("Identity", "Cast", "ConstantOfShape"):
            self.changes[origin] = f"{operator} {tuple(array.shape)} → {tuple(folded.shape)}"
