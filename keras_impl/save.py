"""Weights as Keras keeps them: a `.keras` archive with the whole model, or a `.weights.h5`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import keras

import keras_impl.layers  # noqa: F401 — registers the layers that a .keras file may name

METADATA = "triptych"
"""Our own metadata: an attribute of the HDF5 file, an entry of the archive. Keras passes over either."""


def save_weights(model: keras.Model, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model as `.keras` or its weights as `.weights.h5`, as the path says.

    Args:
        model: of this package.
        path: that ends in `.keras` or `.weights.h5`; an existing file is replaced.
        metadata: strings to keep with it.
    """
    said = json.dumps(dict(metadata or {}))
    if str(path).endswith(".keras"):
        model.save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{METADATA}.json", said)
        return
    import h5py

    model.save_weights(path)
    with h5py.File(path, "a") as file:
        file.attrs[METADATA] = said


def restore_weights(model: keras.Model, path: str | Path) -> keras.Model:
    """Load what `save_weights` wrote, by Keras' own means; a `.keras` file brings its own model."""
    if str(path).endswith(".keras"):
        return keras.models.load_model(path, compile=False)
    model.load_weights(path)
    return model
