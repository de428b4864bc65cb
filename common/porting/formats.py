"""Chooses the reader of a file, by its content."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from common.errors import TriptychError
from common.graphs.onnx_files import looks_like_model
from common.porting import (
    caffe_files,
    checkpoint_files,
    graph_defs,
    keras_files,
    numpy_files,
    onnx_files,
    safetensors_files,
    torch_files,
)
from common.porting.archives import Archive
from common.porting.source import Source, mapped, unsupported

READ = (
    "NumPy (.npy, .npz), safetensors, PyTorch (.pth), Keras (.keras, .h5), ONNX, Caffe (.caffemodel) and TensorFlow's "
    "checkpoints, SavedModels and frozen graphs (.pb)"
)

TEXTS = {
    rb"^version https://git-lfs": "it is what Git LFS keeps in place of a file; git lfs pull gets the file itself",
    rb"^\s*<(!doctype|html)": "it is a web page; download the file itself",
    rb"^[\0-\x7f]*\bnode\s*\{\s*name\s*:": "it is a graph of TensorFlow as text; it has to be frozen, as a .pb",
    rb"^[\0-\x7f]*\b(layers?\s*\{|input_dim\s*:)": "it is a prototxt, which describes a network; its weights are in a "
    ".caffemodel",
}
"""Beginnings of files without weights, and what to say about them."""

INDEX = (
    "it is the index of a checkpoint of TensorFlow by another name; give it the name that its data have, NAME.index "
    "beside NAME.data-00000-of-00001"
)

HDF5 = b"\x89HDF\r\n\x1a\n"


def read_source(path: str | Path) -> Source:
    """Read a foreign weights file, whatever its name is.

    Nothing in the file is run, and at most a few times its size in memory is taken.

    Raises:
        TriptychError: there is no such file, its format is not known, or it is damaged or hostile.
    """
    path = Path(path)
    if prefix := checkpoint_files.prefix_of(path):
        return checkpoint_files.read_checkpoint(prefix)
    content = mapped(path)
    if checkpoint_files.is_first_version(content):
        return checkpoint_files.read_first_version(path)
    return replace(_read(path, content), content=content)


def _read(path: Path, content: memoryview) -> Source:
    if content[:6] == numpy_files.MAGIC:
        return numpy_files.read_npy(path, content)
    if content[:8] == HDF5:
        return keras_files.read_hdf5(path, content)
    if content[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _read_archive(path, Archive(path, content))
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < 1 << 48:  # whose first byte may be any
        return safetensors_files.read_safetensors(path, content)
    if content[:1] == b"\x80":
        return torch_files.read_legacy(path, content)
    if looks_like_model(content):
        return onnx_files.read_onnx(path, content)
    if graph_defs.looks_like_graph(content):
        return onnx_files.read_frozen(path, content)
    if caffe_files.looks_like_net(content):
        return caffe_files.read_caffemodel(path, content)
    if content[-8:] == checkpoint_files.MAGIC:
        raise unsupported(path, INDEX)
    for beginning, what in TEXTS.items():
        if re.search(beginning, bytes(content[:4096]), re.IGNORECASE):
            raise unsupported(path, what)
    raise unsupported(path, f"its content has no format that is known here; known are {READ}")


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model, by its content.

    Raises:
        TriptychError: there is no such file.
    """
    return looks_like_model(mapped(path))


def _read_archive(path: Path, archive: Archive) -> Source:
    if keras_files.WEIGHTS in archive:
        return keras_files.read_keras(path, archive)
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in archive.members):
        return torch_files.read_zip(path, archive)
    if archive.members and all(name.endswith(".npy") for name in archive.members):
        return numpy_files.read_npz(path, archive)
    raise TriptychError(f"cannot read {path}: a zip archive that is neither NumPy's, PyTorch's nor Keras'")
