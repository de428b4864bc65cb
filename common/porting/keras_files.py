"""Keras files: `.weights.h5` and legacy `.h5` of HDF5, and `.keras`, an archive with the former in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.porting.archives import Archive
from common.porting.source import Source, corrupt

WEIGHTS, METADATA = "model.weights.h5", "triptych.json"
"""Entries of a `.keras` archive: Keras' own, and what our files say of themselves."""

TIMEOUT = 120.0

BY_POSITION = {"batch_normalization": ("gamma", "beta", "mean", "variance")}
"""What the variables of a class are, in order; those of any other class are a weight and a bias."""

BY_NAME = {
    r"(.*[/_])?(kernel|W(_\d+)?|weight)": "weight",
    r"(.*[/_])?(bias|b(_\d+)?)": "bias",
    r"(.*/)?gamma": "gamma",
    r"(.*/)?beta": "beta",
    r"(.*/)?(moving_mean|running_mean)": "mean",
    r"(.*/)?(moving_variance|running_std)": "variance",
}
"""How a legacy file spells them, from the oldest weights of `keras.applications` on."""


def read_keras(path: Path, archive: Archive) -> Source:
    """A `.keras` archive.

    Raises:
        TriptychError: it is damaged, or its weights are not what `read_hdf5` takes.
    """
    archive.read(WEIGHTS)  # for its checksum
    start, size = archive.span(WEIGHTS)
    source = read_hdf5(path, archive.content[start : start + size], start)
    if METADATA not in archive:
        return source
    said = _said(bytes(archive.read(METADATA)).decode("utf-8", "replace"))
    return replace(source, metadata={**source.metadata, **said})


def read_hdf5(path: Path, content: memoryview, start: int = 0) -> Source:
    """The arrays of an HDF5 file of Keras 2 or 3, as views of the file.

    Args:
        path: for messages.
        content: of the HDF5 file.
        start: where it begins in the file at `path`.

    Raises:
        TriptychError: the library cannot read it; it has links, objects, compressed arrays or arrays elsewhere; or it
            was not written by Keras.
    """
    index = _index(path, start, len(content))
    tensors: dict[str, np.ndarray] = {}
    spelled: dict[str, str] = {}
    for dataset in index["datasets"]:
        name = _name(path, dataset["path"], index["texts"])
        if name is None:
            continue
        if name in tensors:
            raise corrupt(path, f"{dataset['path']} and {spelled[name]} are the same parameter")
        tensors[name], spelled[name] = _array(path, dataset, content), dataset["path"]
    metadata = _said(index["texts"].get("@triptych", ""))
    model = index["texts"].get("vars@name") or _configured_name(index["texts"].get("@model_config", ""))
    return Source(
        path,
        "Keras",
        ("keras", "keras.applications"),
        tensors,
        spelled,
        ({"architecture": model} if model else {}) | metadata,
    )


def _index(path: Path, start: int, size: int) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "common.porting.hdf5_index", str(path), str(start), str(size)]
    try:
        process = subprocess.run(command, capture_output=True, timeout=TIMEOUT, env=environment, check=False)
        answer = json.loads(process.stdout)
    except subprocess.TimeoutExpired:
        raise corrupt(path, f"the HDF5 library did not finish within {TIMEOUT:.0f} s") from None
    except ValueError:
        if b"No module named 'h5py'" in process.stderr:
            raise TriptychError(f"cannot read {path}: h5py is not installed; pip install h5py") from None
        raise corrupt(path, f"the HDF5 library crashed on it (status {process.returncode})") from None
    if "error" in answer:
        raise corrupt(path, answer["error"])
    return answer


def _array(path: Path, dataset: dict[str, Any], content: memoryview) -> np.ndarray:
    name, shape, offset = dataset["path"], dataset["shape"], dataset["offset"]
    if dataset["dtype"] != "<f4":
        raise corrupt(path, f"{name} has dtype {dataset['dtype']}, expected little-endian float32 (<f4)")
    if offset is None or shape is None:
        raise corrupt(path, f"{name} is compressed, in pieces or without data; save it as Keras does")
    if offset + 4 * prod(shape) > len(content):
        raise corrupt(path, f"{name} is said to be {tuple(shape)} float32, which the file is too short for")
    return np.frombuffer(content[offset : offset + 4 * prod(shape)], "<f4").reshape(shape)


def _name(path: Path, place: str, texts: dict[str, str]) -> str | None:
    """`layer/parameter` with Keras' name of the layer; None for what is no weight of the model."""
    parts = place.split("/")
    if parts[0] in ("optimizer", "optimizer_weights", "compile_metrics", "metrics"):
        return None
    if parts[0] == "layers" and len(parts) == 4 and parts[2] == "vars" and parts[3].isdecimal():
        layer = texts.get(f"layers/{parts[1]}/vars@name")
        if layer is None:
            raise corrupt(
                path, f"it does not name the layer of {place}, as Keras did before 3.3; load and save it again"
            )
        kinds = BY_POSITION.get(re.sub(r"_\d+$", "", parts[1]), ("weight", "bias"))
        return f"{layer}/{kinds[int(parts[3])] if int(parts[3]) < len(kinds) else parts[3]}"
    if parts[0] == "model_weights":
        parts = parts[1:]
    variable = parts[-1].split(":")[0]
    kind = next((kind for pattern, kind in BY_NAME.items() if re.fullmatch(pattern, variable)), None)
    return f"{parts[0]}/{kind}" if kind and len(parts) > 1 else place


def _said(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _configured_name(text: str) -> str | None:
    try:
        return str(json.loads(text)["config"]["name"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
