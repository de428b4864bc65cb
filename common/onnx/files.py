"""ONNX files, written without copying the weights, and checked."""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from common.files import written_atomically
from common.graphs.onnx_files import GRAPH, INITIALIZER, RAW_DATA
from common.graphs.protobufs import beginning

if TYPE_CHECKING:
    import onnx

LARGEST_MESSAGE = 2**31 - 1
"""Bytes. No protobuf message can be longer, so larger weights are written beside the model."""

_SMALL = 1024
"""Bytes. A smaller array stays in the model, as with `onnx.save`, so that a reader of the model alone has it."""

_ALIGNMENT = 4096
"""Bytes. Each tensor in a file beside the model begins at a multiple of this, so that pages can be mapped into
memory."""


def same_export(left: Path, right: Path) -> bool:
    """Whether two exports of this project, with their weights beside them, are the same bytes, but for the line of
    metadata that says which framework they are from."""
    import onnx

    models = [onnx.load(path, load_external_data=False) for path in (left, right)]
    for model in models:
        kept = [entry for entry in model.metadata_props if entry.key != "source"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
    one, other = (model.SerializeToString(deterministic=True) for model in models)
    one_data, other_data = (path.with_name(f"{path.name}.data") for path in (left, right))
    return one == other and filecmp.cmp(one_data, other_data, shallow=False)


def write_onnx(
    model: onnx.ModelProto, initializers: Mapping[str, np.ndarray], path: str | Path, *, external_data: bool = False
) -> None:
    """Write a model with its initializers, checked in full, whole or not at all.

    Args:
        model: without the initializers.
        initializers: by name, of any type that ONNX has.
        path: where to; an existing file is replaced.
        external_data: put the initializers into `<path>.data`, which must then stay beside the model. They are put
            there in any case if the model would otherwise be larger than 2 GiB.

    Raises:
        TriptychError: the file cannot be written.
    """
    import onnx

    path = Path(path)
    size = model.ByteSize() + sum(array.nbytes + 1024 for array in initializers.values())
    if not (external_data or size > LARGEST_MESSAGE):
        with written_atomically(path) as temporary:
            with temporary.open("wb") as file:
                _write_whole(model, initializers, file)
            onnx.checker.check_model(temporary, full_check=True)
        return
    data = path.with_name(f"{path.name}.data")
    with ExitStack() as stack:
        # Checked under the names that it will have, in a folder of its own; then moved, the model last.
        written = stack.enter_context(written_atomically(path))
        written_data = stack.enter_context(written_atomically(data))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)))
        with (folder / data.name).open("wb") as file:
            for tensor in _tensors_beside(initializers, data.name, file):
                model.graph.initializer.append(tensor)
        (folder / path.name).write_bytes(model.SerializeToString())
        onnx.checker.check_model(folder / path.name, full_check=True)
        (folder / data.name).replace(written_data)
        (folder / path.name).replace(written)


def _tensors_beside(
    initializers: Mapping[str, np.ndarray], location: str, file: BinaryIO
) -> Iterable[onnx.TensorProto]:
    """Write each array to a file, and yield the tensor that says where it is. A small array stays in its tensor."""
    from onnx import TensorProto, numpy_helper

    for name, array in sorted(initializers.items()):
        if array.nbytes < _SMALL:
            yield numpy_helper.from_array(array, name)
            continue
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        tensor = TensorProto(
            name=name, dims=array.shape, data_type=_data_type(array), data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", location), ("offset", file.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        file.write(_raw(array))
        yield tensor


def _write_whole(model: onnx.ModelProto, initializers: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Serialise a model and its initializers without copying the arrays.

    `onnx.save` copies every array into Python bytes, into a protobuf message, and into one string for the whole file,
    which takes several times as long as writing them. A protobuf message is the concatenation of its fields, each a
    tag, a length and the content, so the arrays can go straight to the file.
    """
    import onnx

    entries = []
    for name, array in sorted(initializers.items()):
        header = onnx.TensorProto(name=name, dims=array.shape, data_type=_data_type(array)).SerializeToString()
        header += beginning(RAW_DATA, array.nbytes)
        entries.append((beginning(INITIALIZER, len(header) + array.nbytes) + header, array))
    graph = model.graph.SerializeToString()
    rest = type(model)()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    file.write(rest.SerializeToString())
    size = len(graph) + sum(len(header) + array.nbytes for header, array in entries)
    file.write(beginning(GRAPH, size) + graph)
    for header, array in entries:
        file.write(header)
        file.write(_raw(array))


def _data_type(array: np.ndarray) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(array.dtype)


def _raw(array: np.ndarray) -> memoryview:
    """The array's bytes, little-endian and in C order, copied only if they are not."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data
