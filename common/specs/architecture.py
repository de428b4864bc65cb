"""The vocabulary of a specification: layers, each with its operation, and architectures.

A specification says what a network *is*, independently of any framework: which operations, with which numbers, in which
order, and therefore which shapes and parameters. It is data, checked when it is made; no model is generated from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from common.errors import TriptychError
from common.operations.activations import Softmax
from common.operations.arrays import Shape
from common.operations.operation import Operation
from common.operations.preprocessing import Preprocessing

IMAGE = "image"
"""The name of the network's input, used as a layer name in `Layer.inputs`."""


def shape_text(shape: Sequence[int | str]) -> str:
    """`3×227×227`."""
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class Layer:
    """One named operation and the layers it reads."""

    name: str
    operation: Operation
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """A network: its layers in an order in which they can be computed, and where it comes from.

    Raises `TriptychError` if two layers share a name, a layer reads one that does not precede it, or the numbers do not
    fit together.
    """

    name: str
    family: str
    title: str
    year: int
    paper: str
    input_shape: Shape
    layers: tuple[Layer, ...]
    outputs: Mapping[str, str]
    """The layer that gives each output: first `logits`, then `aux1` and `aux2` where there are auxiliary heads."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        _ = self.shapes, self.parameter_shapes

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape of the input and of every layer's output, by name."""
        shapes = {IMAGE: self.input_shape}
        for layer in self.layers:
            missing = [name for name in layer.inputs if name not in shapes]
            if missing or layer.name in shapes:
                problem = f"reads {missing[0]}, which does not precede it" if missing else "appears twice"
                raise TriptychError(f"{self.name}: layer {layer.name} {problem}")
            try:
                shapes[layer.name] = layer.operation.output_shape(*(shapes[name] for name in layer.inputs))
            except TriptychError as error:
                size = shape_text(self.input_shape[1:])
                raise TriptychError(f"{self.name} with an image of {size}, layer {layer.name}: {error}") from None
        return shapes

    def input_shapes(self, layer: Layer) -> list[Shape]:
        return [self.shapes[name] for name in layer.inputs]

    @cached_property
    def parameter_shapes(self) -> dict[str, Shape]:
        """The shape of every parameter in the canonical layout, keyed `layer/parameter`."""
        return {
            f"{layer.name}/{parameter}": shape
            for layer in self.layers
            for parameter, shape in layer.operation.parameter_shapes(*self.input_shapes(layer)).items()
        }

    @property
    def parameter_count(self) -> int:
        """Trainable parameters: all but the stored statistics of batch normalisation."""
        return sum(
            prod(shape) for name, shape in self.parameter_shapes.items() if not name.endswith(("/mean", "/variance"))
        )

    @property
    def num_classes(self) -> int:
        """How many logits there are."""
        return self.shapes[next(iter(self.outputs.values()))][0]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image."""
        return sum(layer.operation.multiply_adds(*self.input_shapes(layer)) for layer in self.layers)


def chain(*layers: tuple[str, Operation], after: str = IMAGE) -> tuple[Layer, ...]:
    """Layers that each read the one before; the first reads `after`."""
    names = [after, *(name for name, _ in layers)]
    return tuple(
        Layer(name, operation, (previous,)) for previous, (name, operation) in zip(names, layers, strict=False)
    )


def softmax_layer(head: str) -> str:
    """The name of a softmax by the layer before it: `softmax` for `fc8`, `aux1/softmax` for `aux1/classifier`."""
    return "".join(head.rpartition("/")[:2]) + "softmax"


def with_softmax(spec: Architecture) -> Architecture:
    """The network with a softmax after each of its outputs, the first of which is called `probabilities` then."""
    softmaxes = [Layer(softmax_layer(head), Softmax(), (head,)) for head in spec.outputs.values()]
    names = ("probabilities" if name == "logits" else name for name in spec.outputs)
    outputs = {name: layer.name for name, layer in zip(names, softmaxes, strict=True)}
    return replace(spec, layers=(*spec.layers, *softmaxes), outputs=outputs)
