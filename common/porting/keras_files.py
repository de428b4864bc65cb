"""Keras files: `.weights.h5` and legacy `.h5` are HDF5; `.keras` is an archive that contains one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.porting.archives import Archive
from common.porting.source import DTYPES, Source, corrupt, itemsize, numbers, unanswered, unsupported
from common.process import ProcessFailure, ask
from common.process.template import Imports

WEIGHTS, CONFIGURATION, METADATA = "model.weights.h5", "config.json", "triptych.json"
"""Entries of a `.keras` archive: Keras' own, and what our files say of themselves."""

CONVENTIONS = (
    "keras",
    "keras.applications",
    "keras.applications before 2.2.5",
    "keras.applications for Theano",
)

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
    if CONFIGURATION in archive:
        configuration = bytes(archive.read(CONFIGURATION)).decode("utf-8", "replace")
        source = replace(source, batch_norm_eps=_eps(configuration))
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
    texts = index["texts"]
    places = [dataset["path"] for dataset in index["datasets"]]
    names = _legacy_names(places, {text.rpartition("@")[0] for text in texts if text.endswith("@weight_names")})
    tensors: dict[str, np.ndarray] = {}
    spelled: dict[str, str] = {}
    for dataset in index["datasets"]:
        name = names.get(dataset["path"]) or _name(path, dataset["path"], texts)
        if name is None:
            continue
        if name in tensors:
            raise corrupt(path, f"{dataset['path']} and {spelled[name]} are the same parameter")
        tensors[name], spelled[name] = _array(path, dataset, content), dataset["path"]
    metadata = _said(texts.get("@triptych", ""))
    model = texts.get("vars@name") or _configured_name(texts.get("@model_config", ""))
    return Source(
        path,
        "Keras",
        CONVENTIONS,
        tensors,
        spelled,
        ({"architecture": model} if model else {}) | metadata,
        batch_norm_eps=_eps(texts.get("@model_config", "")),
    )


def _index(path: Path, start: int, size: int) -> dict[str, Any]:
    try:
        asked = {"path": str(path), "start": start, "size": size}
        return ask("common.porting.hdf5_index", asked, timeout=TIMEOUT, imports=Imports(("h5py",)))
    except ProcessFailure as failure:
        if failure.answer:
            raise (corrupt if failure.answer.get("damaged") else unsupported)(path, str(failure)) from None
        if "No module named 'h5py'" in str(failure):
            raise TriptychError(f"cannot read {path}: h5py is not installed; pip install h5py") from None
        raise unanswered(path, "the HDF5 library", failure) from None


def _array(path: Path, dataset: dict[str, Any], content: memoryview) -> np.ndarray:
    name, shape, offset = dataset["path"], dataset["shape"], dataset["offset"]
    dtype = dataset["dtype"]
    if dtype not in DTYPES:
        raise unsupported(path, f"{name} has dtype {dtype}, expected little-endian float32 (<f4), float16 or float64")
    if offset is None or shape is None:
        raise unsupported(path, f"{name} is compressed, in pieces or without data; save it as Keras does")
    end = offset + itemsize(dtype) * prod(shape)
    if end > len(content):
        raise corrupt(path, f"{name} is said to be {tuple(shape)} {DTYPES[dtype]}, which the file is too short for")
    return numbers(content[offset:end], dtype, tuple(shape))


def _name(path: Path, place: str, texts: dict[str, str]) -> str | None:
    """`layer/parameter` with Keras' name of the layer; None for what is no weight of the model."""
    parts = place.split("/")
    if parts[0] in ("optimizer", "optimizer_weights", "compile_metrics", "metrics"):
        return None
    if "layers" in parts[:-3] and parts[-2] == "vars" and parts[-1].isdecimal():  # of a model within a model, too
        group = "/".join(parts[:-1])
        layer = texts.get(f"{group}@name")
        if layer is None:
            raise unsupported(
                path, f"it does not name the layer of {place}, as Keras did before 3.3; load and save it again"
            )
        kinds = BY_POSITION.get(re.sub(r"_\d+$", "", parts[-3]), ("weight", "bias"))
        return f"{layer}/{kinds[int(parts[-1])] if int(parts[-1]) < len(kinds) else parts[-1]}"
    if parts[0] == "model_weights":
        parts = parts[1:]
    variable = parts[-1].split(":")[0]
    kind = next((kind for pattern, kind in BY_NAME.items() if re.fullmatch(pattern, variable)), None)
    return f"{parts[0]}/{kind}" if kind and len(parts) > 1 else place


def _legacy_names(places: list[str], layers: set[str]) -> dict[str, str]:
    """`layer/parameter` of each array below the group of a layer, as Keras before 3 wrote them.

    Below the group, the array's name begins with the layer's once more, with a suffix where a process had two of them;
    the group of a model within the model has the arrays of all its layers. A layer may have a slash in its name, which
    later versions write as `_`.
    """
    within: dict[str, list[str]] = {}
    for place in places:
        parts = place.split("/")
        group = next((g for n in range(len(parts) - 1, 0, -1) if (g := "/".join(parts[:n])) in layers), None)
        if group is not None and not group.startswith("optimizer_weights"):
            within.setdefault(group, []).append(place)
    names = {}
    for group, found in within.items():
        inner = {place: place.removeprefix(f"{group}/").rpartition("/")[0] for place in found}
        layer = group.removeprefix("model_weights/")
        for place in found:
            variable = place.rpartition("/")[2].split(":")[0]
            kind = next((kind for pattern, kind in BY_NAME.items() if re.fullmatch(pattern, variable)), variable)
            owner = inner[place] if len(set(inner.values())) > 1 else layer
            names[place] = f"{owner.replace('/', '_')}/{kind}"
    return names


def _eps(text: str) -> float | None:
    """The eps of the batch normalisations in a model's configuration, if all have the same."""
    try:
        waiting, found = [json.loads(text)], set()
    except (ValueError, RecursionError):
        return None
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("class_name") == "BatchNormalization" and isinstance(value.get("config"), dict):
                found.add(str(value["config"].get("epsilon"))[:100])
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    try:
        eps = float(found.pop()) if len(found) == 1 else None
    except ValueError:
        return None
    return eps if eps is not None and 0 < eps < 1 else None


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
