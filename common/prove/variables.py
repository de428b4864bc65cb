"""Reads a model's variables and sets them: in PyTorch, in Keras, in an ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from common.errors import TriptychError
from common.graphs import read_graph
from common.graphs.onnx_reader import read_model
from common.prove.array_files import write_arrays
from common.prove.subject import KerasSubject, Subject, TorchSubject
from common.prove.torch_export import SPECIFICATION

if TYPE_CHECKING:
    import onnx

_NO_WEIGHTS = {"Resize", "Upsample", "Pad", "Clip", "Reshape", "Expand"}
"""The ONNX operators whose constants are no weights."""


def read(subject: Subject) -> dict[str, np.ndarray]:
    """A model's variables, float32, by their own names."""
    if not isinstance(subject, TorchSubject):
        return {name: array for name, array in subject.graph.constants.items() if name in _weights(subject.model)}
    file = subject.folder / "variables.safetensors"
    _asked(subject, {"variables": str(file)}, "read")
    return load_file(file)


def changed(subject: Subject, variables: Mapping[str, np.ndarray], called: str) -> Subject:
    """The same model with other values of all variables.

    Args:
        subject: the model. If it is in a process of its own, it keeps these variables there.
        variables: from `read`.
        called: the name of a new folder for its files.

    Raises:
        TriptychError: the model cannot be exported with them.
    """
    folder = subject.folder / called
    folder.mkdir()
    other = copy.copy(subject)
    if isinstance(subject, TorchSubject):
        file = folder / "variables.safetensors"
        write_arrays(variables, file)
        _asked(subject, {"set": str(file), "folder": str(folder)}, "given other weights")
        other.path = folder / SPECIFICATION
        other.model = read_model(other.path)
    else:
        import onnx

        other.model = copy.deepcopy(subject.model)
        for tensor in other.model.graph.initializer:
            if tensor.name in variables:
                array = np.asarray(variables[tensor.name], order="C")
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        other.path = folder / "model.onnx"
        large = other.model.ByteSize() > 1 << 30
        onnx.save(other.model, other.path, save_as_external_data=large, location="model.data")
        other.model = read_model(other.path) if large else other.model
    other.graph = replace(read_graph(other.path, other.model), name=subject.text)
    if isinstance(other, KerasSubject):
        other.layers = None
    return other


def save(subject: Subject, file: Path) -> None:
    """Write a model's own checkpoint; for an ONNX model, an ONNX file.

    Raises:
        TriptychError: it cannot be written.
    """
    if isinstance(subject, TorchSubject):
        _asked(subject, {"save": str(file)}, "saved")
        return
    import onnx

    if subject.model.ByteSize() > 2**31 - 1:
        raise TriptychError(f"{subject.text} is larger than the 2 GB that one ONNX file may be; it was not written")
    onnx.save(subject.model, file)


def _asked(subject: TorchSubject, job: Mapping[str, Any], what: str) -> None:
    answer = subject.process.ask(job)
    if "error" in answer:
        raise TriptychError(f"{subject.text} cannot be {what}: {answer['error']}")


def _weights(model: onnx.ModelProto) -> set[str]:
    """The float32 initializers that are weights."""
    told = {name for node in model.graph.node if node.op_type in _NO_WEIGHTS for name in node.input}
    return {t.name for t in model.graph.initializer if t.data_type == 1 and np.prod(t.dims) > 1 and t.name not in told}
