"""Why a layer has another shape than specified: the mistakes that would give it that shape."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from common.errors import TriptychError
from common.operations import AveragePool, Conv, MaxPool, Operation, Shape
from common.operations.operation import Observation
from common.operations.windows import window_mistakes
from common.specs.architecture import IMAGE, Architecture, Layer


def explain_shape(spec: Architecture, layer: Layer, shapes: Mapping[str, Shape]) -> str | None:
    """The mistakes that would give a layer the shape that it has, for a network that could not be run.

    Args:
        spec: the network.
        layer: the first whose shape is not the specified one.
        shapes: of every layer's output, as found.
    """
    operation, found = layer.operation, tuple(shapes[layer.name])
    given = spec.input_shapes(layer)[0]
    if (following := next_convolution(spec, layer)) and _stride_stands_in(following, operation, found, given, shapes):
        return f"its stride and that of {following.name} are exchanged"
    windows, others = [], []
    if isinstance(operation, Conv | MaxPool | AveragePool):
        blank = [np.empty((1, *given), np.float32)]
        for mistake, evaluation in window_mistakes(
            operation, Observation(layer.name, operation, blank, np.empty(0), {}, blank)
        ):
            with suppress(TriptychError):  # the window does not fit
                if evaluation.operation.output_shape(given) == found:
                    windows.append(mistake)
    if isinstance(operation, Conv | MaxPool):
        kernel, _, padding = operation.window(given)
        for step in (2, 3):
            wide = tuple(step * (length - 1) + 1 for length in kernel)
            with suppress(TriptychError):
                dilated = replace(operation, kernel=(wide[0], wide[1]), padding=padding)
                if wide != kernel and dilated.output_shape(given) == found:
                    windows.append(f"the window is dilated by {step}")
    if not windows and len(layer.inputs) == 1:
        for other, shape in ({IMAGE: spec.input_shape} | dict(shapes)).items():
            with suppress(TriptychError):
                if other not in (layer.name, *layer.inputs) and operation.output_shape(tuple(shape)) == found:
                    others.append(f"it reads {other}, not {layer.inputs[0]}")
    return " or ".join(windows or others[: len(others) <= 2 and 2]) or None


def next_convolution(spec: Architecture, layer: Layer) -> Layer | None:
    """The convolution of the same block that may have got the stride by mistake."""
    block = layer.name.rpartition("/")[0]
    layers = spec.layers[spec.layers.index(layer) + 1 :]
    following = (
        other for other in layers if isinstance(other.operation, Conv) and other.name.rpartition("/")[0] == block
    )
    return next(following, None) if block and isinstance(layer.operation, Conv) else None


def _stride_stands_in(
    following: Layer, operation: Operation, found: Shape, given: Shape, shapes: Mapping[str, Shape]
) -> bool:
    """Whether the shapes are those of two convolutions with exchanged strides."""
    assert isinstance(operation, Conv)
    assert isinstance(following.operation, Conv)
    if operation.stride == following.operation.stride or following.inputs[0] not in shapes:
        return False
    with suppress(TriptychError):
        here = replace(operation, stride=following.operation.stride).output_shape(given)
        there = replace(following.operation, stride=operation.stride).output_shape(tuple(shapes[following.inputs[0]]))
        return here == found and there == tuple(shapes.get(following.name, ()))
    return False
