"""ONNX files, written without copying the weights, and checked."""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from io import FileIO
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

    one, other = (onnx.load(path, load_external_data=False) for path in (left, right))
    return _same_graph(one, other) and filecmp.cmp(_beside(left), _beside(right), shallow=False)


def _same_graph(*models: onnx.ModelProto) -> bool:
    """Whether two models are the same, but for that line, which they lose here."""
    for model in models:
        kept = [entry for entry in model.metadata_props if entry.key != "source"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
    one, other = (model.SerializeToString(deterministic=True) for model in models)
    return one == other


def _beside(path: Path) -> Path:
    """The file of a model's weights."""
    return path.with_name(f"{path.name}.data")


def write_onnx(
    model: onnx.ModelProto,
    initializers: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    external_data: bool = False,
    unless: Path | None = None,
) -> None:
    """Write a model with its initializers, checked in full, whole or not at all.

    Args:
        model: without the initializers.
        initializers: by name, of any type that ONNX has.
        path: where to; an existing file is replaced.
        external_data: put the initializers into `<path>.data`, which must then stay beside the model. They are put
            there in any case if the model would otherwise be larger than 2 GiB.
        unless: a model of ours with its weights beside it. If this one is the same, but for the framework's name,
            nothing is written.

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
    if unless and _is_written(model, initializers, path, unless):
        return
    data = _beside(path)
    with ExitStack() as stack:
        # Checked under the names that it will have, in a folder of its own; then moved, the model last.
        written = stack.enter_context(written_atomically(path))
        written_data = stack.enter_context(written_atomically(data))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)))
        with (folder / data.name).open("wb") as file:
            model.graph.initializer.extend(_tensors_beside(initializers, data.name, file))
        (folder / path.name).write_bytes(model.SerializeToString())
        onnx.checker.check_model(folder / path.name, full_check=True)
        (folder / data.name).replace(written_data)
        (folder / path.name).replace(written)


def _is_written(model: onnx.ModelProto, initializers: Mapping[str, np.ndarray], path: Path, other: Path) -> bool:
    """Whether another export, with its weights beside it, is what would be written at that path."""
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    with suppress(_Different, OSError), _beside(other).open("rb", buffering=0) as file:
        compared = _Compared(file)
        whole.graph.initializer.extend(_tensors_beside(initializers, _beside(path).name, compared))
        compared.end()
        return _same_graph(whole, onnx.load(other, load_external_data=False))
    return False


class _Different(Exception):
    """Other bytes would be written than a file has."""


class _Compared:
    """In place of a file that is written: another one, which is read, and must have the same."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._read = memoryview(bytearray(1 << 20))

    def tell(self) -> int:
        return self._file.tell()

    def write(self, content: bytes | memoryview) -> None:
        """Compare, one part after the other: what was read stays in the processor's cache."""
        wanted = memoryview(content)
        for start in range(0, len(wanted), len(self._read)):
            part = wanted[start : start + len(self._read)]
            found = self._read[: len(part)]
            if self._file.readinto(found) != len(part) or not np.array_equal(found, part):
                raise _Different

    def end(self) -> None:
        if self._file.read(1):
            raise _Different


def _tensors_beside(
    initializers: Mapping[str, np.ndarray], location: str, file: BinaryIO | _Compared
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
