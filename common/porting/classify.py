"""Classifies photographs: each is decoded and resized once, so that every backend gets the same array."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from common.errors import TriptychError
from common.files import os_error_sentence
from common.implementations import FRAMEWORKS, import_implementation
from common.parity.backends import Backend
from common.porting.formats import read_source
from common.porting.matching import Network, understand
from common.porting.preparation import known_preparation
from common.porting.reading import Reading
from common.specs.architecture import Architecture
from common.specs.photographs import preprocess, read_photograph

TOP = 5


@dataclass(frozen=True)
class Guess:
    """A class and its probability."""

    number: int
    label: str | None
    probability: float
    logit: float


def understand_weights(path: Path, architecture: str | None = None, reading: Reading | None = None) -> Network:
    """The network that a weights file of any format holds.

    Raises:
        TriptychError: it cannot be read, or it is not clear which network it is.
    """
    return understand(read_source(path), architecture, reading=reading)


def read_labels(path: Path, spec: Architecture) -> list[str]:
    """The names of the classes, one per line.

    Raises:
        TriptychError: the file cannot be read, is not text, or does not have one line for each class.
    """
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise TriptychError(f"cannot read the labels {path}: {os_error_sentence(error)}") from None
    except UnicodeDecodeError:
        raise TriptychError(f"the labels {path} are not UTF-8 text") from None
    if len(labels) != spec.num_classes:
        raise TriptychError(f"{path} has {len(labels)} labels, but {spec.name} has {spec.num_classes} classes here")
    return labels


def own_labels(network: Network) -> list[str] | None:
    """The names of the classes that `triptych train` has written beside its weights; None if there are none."""
    try:
        labels = json.loads(network.source.metadata["classes"])
    except (KeyError, ValueError):
        return None
    fits = isinstance(labels, list) and len(labels) == network.spec.num_classes
    return [str(label) for label in labels] if fits else None


def classify(
    images: Sequence[Path], network: Network, backend: Backend, labels: Sequence[str] | None = None
) -> list[list[Guess]]:
    """The likeliest classes of each photograph.

    Args:
        images: files that Pillow reads.
        network: from `understand_weights`.
        backend: the backend to compute in.
        labels: a name for each class.

    Raises:
        TriptychError: it is not known how to prepare photographs; a file is no image; the backend is not installed, or
            cannot run the network.
    """
    if backend.missing:
        raise TriptychError(f"cannot classify with {backend.name}: {backend.how_to_install}")
    recipe = known_preparation(network.preprocessing, network.source.path)
    spec = replace(network.spec, preprocessing=recipe)
    inputs = [preprocess(read_photograph(path), spec)[None] for path in images]
    return [likeliest(logits, labels) for logits in _logits(inputs, network, backend)]


def _logits(inputs: Sequence[np.ndarray], network: Network, backend: Backend) -> list[np.ndarray]:
    os.environ.update(backend.environment)
    (framework,) = (name for name, found in FRAMEWORKS.items() if found.package == backend.implementation)
    implementation = import_implementation(framework)
    model = implementation.build(network.spec.name, num_classes=network.spec.num_classes)
    implementation.load_weights(model, network.weights)
    if backend.through_onnx:
        from common.onnx.session import run_as_deployed

        with TemporaryDirectory(prefix="triptych-") as folder:
            path = Path(folder) / "model.onnx"
            implementation.export_onnx(model, path)
            return [run_as_deployed(path, image)["logits"][0] for image in inputs]
    home = importlib.import_module(f"{implementation.__name__}.{'compiled' if backend.compiled else 'backend'}")
    predict = home.predict_compiled if backend.compiled else home.predict
    return [predict(model, image)["logits"][0] for image in inputs]


def likeliest(logits: np.ndarray, labels: Sequence[str] | None) -> list[Guess]:
    """The `TOP` likeliest classes. The softmax is in float64; among equals, the first class comes first."""
    values = logits.astype(np.float64)
    exponentials = np.exp(values - values.max())
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-values, kind="stable")[:TOP]
    return [Guess(int(i), labels[i] if labels else None, float(probabilities[i]), float(logits[i])) for i in order]
