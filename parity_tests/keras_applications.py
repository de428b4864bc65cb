"""Networks of `keras.applications` under this project's names, so that its own tools can load and judge them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from common.specs.architecture import Architecture, BatchNorm, Conv

Rules = Mapping[str, str]
"""Patterns of names in `keras.applications` and what replaces them."""


def renamed(model, architecture: str, rules: Rules):
    """The same model, with the names that `keras_impl` would give to it and to its layers."""
    for layer in model.layers:
        for pattern, name in rules.items():
            if re.fullmatch(pattern, layer.name):
                layer.name = re.sub(pattern, name, layer.name)
                break
    model.name = architecture
    return model


def as_in_keras(spec: Architecture, *, conv_bias: bool) -> Architecture:
    """The specification with the two differences of `keras.applications`: eps 1.001e-5, and biases in ResNet."""
    layers = []
    for layer in spec.layers:
        operation = layer.operation
        if isinstance(operation, BatchNorm):
            operation = BatchNorm(eps=1.001e-5)
        elif isinstance(operation, Conv):
            operation = dataclasses.replace(operation, bias=conv_bias)
        layers.append(dataclasses.replace(layer, operation=operation))
    return dataclasses.replace(spec, layers=tuple(layers))


def with_pooling_split(outputs: Mapping[str, object]) -> dict:
    """Keras pools and flattens in one layer; here are two, of which the first gives (C, 1, 1)."""
    outputs = dict(outputs)
    pooled = outputs["flatten"] = outputs["avg_pool"]
    outputs["avg_pool"] = pooled[:, :, None, None] if isinstance(pooled, np.ndarray) else (*pooled, 1, 1)
    return outputs
