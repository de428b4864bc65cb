"""Networks of `keras.applications` under this project's names, so that its own tools can load and judge them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from common import get_spec
from common.operations import BatchNorm, Conv
from common.specs.architecture import Architecture

NAMES_IN_KERAS = {
    "resnet": {
        r"conv1_conv": "conv1",
        r"conv1_(bn|relu)": r"\g<1>1",
        r"pool1_pool": "pool1",
        r"(conv\d_block\d+)_0_(conv|bn)": r"\1_shortcut_\2",
        r"(conv\d_block\d+)_(\d)_(conv|bn|relu)": r"\1_\3\2",
        r"(conv\d_block\d+)_out": r"\1_relu",
        r"predictions": "fc",
    },
    "densenet": {
        r"conv1_conv": "conv1",
        r"conv1_(bn|relu)": r"\g<1>1",
        r"(conv\d_block\d+)_0_(bn|relu)": r"\1_\g<2>1",
        r"(conv\d_block\d+)_1_(bn|relu)": r"\1_\g<2>2",
        r"(conv\d_block\d+)_([12])_conv": r"\1_conv\2",
        r"pool(\d)_(bn|relu|conv|pool)": r"transition\1_\2",
        r"predictions": "fc",
    },
}
"""By family, patterns of layer names in `keras.applications` and what `keras_impl` calls them."""


def build(architecture: str, image_size: tuple[int, int]):
    """The model of `keras.applications`, with the names that `keras_impl` would give to it and to its layers."""
    import keras

    name = architecture.replace("resnet", "ResNet").replace("densenet", "DenseNet")
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(*image_size, 3), classes=1000, classifier_activation=None)
    for layer in model.layers:
        for pattern, ours in NAMES_IN_KERAS[get_spec(architecture).family].items():
            if re.fullmatch(pattern, layer.name):
                layer.name = re.sub(pattern, ours, layer.name)
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
