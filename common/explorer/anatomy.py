"""The facts about each layer on its page: shape, cost, receptive field, and its name and weights in every framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from common.operations import AdaptiveAveragePool, Dense, GlobalAveragePool, Pair, Shape, SubSampling, Windowed
from common.operations.names import TORCH_BATCH_NORM, keras_layer, torch_layer
from common.specs.architecture import IMAGE, Architecture, Layer, shape_text


@dataclass(frozen=True)
class LayerFacts:
    """One row of the layer table."""

    name: str
    """The canonical name, which is TensorFlow 1's scope."""
    keras: str
    torch: str
    kind: str
    output: Shape
    """(C, H, W) or (features,)."""
    parameters: int
    multiply_adds: int
    receptive_field: Pair
    """Height and width of the part of the image that one output depends on, in pixels, with padding."""
    weights: Mapping[str, str]
    """For each framework, its names and shapes of the parameters: `kernel 5×5×48×256, bias 256`."""


def layer_facts(spec: Architecture) -> list[LayerFacts]:
    """A row for each layer, in the order of the specification."""
    fields = receptive_fields(spec)
    return [
        LayerFacts(
            layer.name,
            keras_layer(layer.name),
            torch_layer(layer.name),
            layer.operation.kind,
            spec.shapes[layer.name],
            sum(
                prod(shape)
                for name, shape in layer.operation.parameter_shapes(*spec.input_shapes(layer)).items()
                if name not in ("mean", "variance")
            ),
            layer.operation.multiply_adds(*spec.input_shapes(layer)),
            fields[layer.name],
            weights_of(spec, layer),
        )
        for layer in spec.layers
    ]


KERAS_NAMES = {"weight": "kernel", "mean": "moving_mean", "variance": "moving_variance"}


def weights_of(spec: Architecture, layer: Layer) -> dict[str, str]:
    """For each framework, the names and shapes of a layer's parameters, grouped by shape."""
    shapes = layer.operation.parameter_shapes(*spec.input_shapes(layer))
    keras_names = {} if isinstance(layer.operation, SubSampling) else KERAS_NAMES
    return {
        "keras": _listed((keras_names.get(name, name), channels_last(shape)) for name, shape in shapes.items()),
        "torch": _listed((TORCH_BATCH_NORM.get(name, name), shape) for name, shape in shapes.items()),
        "tf1": _listed((name, channels_last(shape)) for name, shape in shapes.items()),
    }


def _listed(parameters: Iterable[tuple[str, Shape]]) -> str:
    by_shape: dict[Shape, list[str]] = {}
    for name, shape in parameters:
        by_shape.setdefault(shape, []).append(name)
    return ", ".join(f"{' '.join(names)} {shape_text(shape)}" for shape, names in by_shape.items())


def channels_last(shape: Shape) -> Shape:
    """The shape that a parameter of this canonical shape has in Keras and TensorFlow."""
    if len(shape) == 4:  # O, I, H, W
        return (*shape[2:], shape[1], shape[0])
    return (*shape[1:], shape[0])  # O, I and C, 1, 1


def receptive_fields(spec: Architecture) -> dict[str, Pair]:
    """For each layer, the height and width of the part of the image that one output depends on.

    A window of k positions that lie j pixels apart widens the field by (k − 1)·j; a stride multiplies j. If layers with
    different fields are joined, the largest counts.

    Source: Araujo, Norris, Sim 2019, *Computing Receptive Fields of Convolutional Neural Networks*, Distill.
    """
    fields: dict[str, Pair] = {IMAGE: (1, 1)}
    jumps: dict[str, Pair] = {IMAGE: (1, 1)}
    maps: dict[str, Pair] = {IMAGE: _size(spec.input_shape)}
    """Height and width of the last map on the way."""
    for layer in spec.layers:
        field, jump, size = (
            (max(known[name][0] for name in layer.inputs), max(known[name][1] for name in layer.inputs))
            for known in (fields, jumps, maps)
        )
        kernel, stride = _window(layer, size, spec.input_shapes(layer)[0])
        fields[layer.name] = (field[0] + (kernel[0] - 1) * jump[0], field[1] + (kernel[1] - 1) * jump[1])
        jumps[layer.name] = (jump[0] * stride[0], jump[1] * stride[1])
        output = spec.shapes[layer.name]
        whole = isinstance(layer.operation, Dense | GlobalAveragePool)
        maps[layer.name] = (1, 1) if whole else _size(output) if len(output) == 3 else size
    return fields


def _size(shape: Shape) -> Pair:
    return shape[1], shape[2]


def _window(layer: Layer, size: Pair, shape: Shape) -> tuple[Pair, Pair]:
    """Kernel and stride of an operation that reads more than one position. `size` is that of the last map."""
    operation = layer.operation
    if isinstance(operation, Windowed):
        kernel, stride, _ = operation.window(shape)
        return kernel, stride
    if isinstance(operation, SubSampling):
        return (2, 2), (2, 2)
    if isinstance(operation, AdaptiveAveragePool):
        (top, bottom), (left, right) = (operation.windows(length)[0] for length in size)
        return (bottom - top, right - left), (size[0] // operation.positions, size[1] // operation.positions)
    if isinstance(operation, Dense | GlobalAveragePool):
        return size, (1, 1)
    return (1, 1), (1, 1)
