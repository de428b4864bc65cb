"""One name per layer, everywhere.

A canonical layer name is made of Python identifiers joined by `/`: `conv1`, `inception_3a/conv5x5_reduce`. A canonical
parameter name is a layer name and a parameter: `conv1/weight`. The rules below say how each framework spells them. They
are injective over the catalogue, which a test proves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

PARAMETERS = ("weight", "bias", "gamma", "beta", "mean", "variance")
"""Every kind of parameter, in the order in which a layer holds them."""

TORCH_BATCH_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
"""What PyTorch calls the parameters of a batch normalisation."""


def torch_layer(canonical: str) -> str:
    """PyTorch's path of a submodule: `conv4_block6.conv2`."""
    return canonical.replace("/", ".")


def canonical_from_torch(path: str) -> str:
    """The inverse of `torch_layer`."""
    return path.replace(".", "/")


def keras_layer(canonical: str) -> str:
    """Keras' layer name, where `/` is not allowed: `conv4_block6_conv2`."""
    return canonical.replace("/", "_")


def tf1_layer(canonical: str) -> str:
    """TensorFlow's variable scope, and the operation that ends the layer: the canonical name itself."""
    return canonical


def layer_of(parameter: str) -> str:
    """The layer that a canonical parameter name belongs to: `conv1/weight` → `conv1`."""
    return parameter.rpartition("/")[0]


def parameters_of(layer: str, weights: Mapping[str, T]) -> dict[str, T]:
    """One layer's parameters, keyed `weight`, `bias`, …, in the order of `PARAMETERS`."""
    named = {kind: f"{layer}/{kind}" for kind in PARAMETERS}
    return {kind: weights[name] for kind, name in named.items() if name in weights}
