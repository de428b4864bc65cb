"""The vocabulary of a specification: operations, layers, architectures.

A specification says what a network *is*, independently of any framework: which operations, with which numbers, in which
order, and therefore which shapes and parameters. It is data, checked when it is made; no model is generated from it.

Shapes are those of one image, without the batch axis: (channels, height, width), or (features,) after a flatten.
Parameters are in the canonical layout: convolution kernels (out, in / groups, height, width), dense kernels (out, in).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import isfinite, prod

from common.errors import TriptychError

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
"""((top, bottom), (left, right)), in pixels."""

MAP, FEATURES = (3,), (1,)
"""The ranks of what some operations take: (channels, height, width) only, or (features,) only."""

SAME = "same"
"""TensorFlow's SAME padding, for the variants that are defined by it; see `same_padding`."""

IMAGE = "image"
"""The name of the network's input, used as a layer name in `Layer.inputs`."""


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def same_padding(size: Sequence[int], kernel: Pair, stride: Pair) -> Padding:
    """TensorFlow's SAME in pixels: as little as gives ceil(size / stride) positions, the odd one below and right."""
    totals = [
        max((-(-length // step) - 1) * step + window - length, 0)
        for length, window, step in zip(size, kernel, stride, strict=True)
    ]
    vertical, horizontal = ((total // 2, total - total // 2) for total in totals)
    return vertical, horizontal


@dataclass(frozen=True)
class Operation:
    """What a layer computes. Subclasses carry the numbers; these methods derive shapes and costs from them.

    They raise `TriptychError` where the operation does not take inputs of these shapes.
    """

    def output_shape(self, *inputs: Shape) -> Shape:
        """The output's shape; operations that work element by element keep their input's."""
        return self._only(inputs)

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        """The shape of each parameter in the canonical layout, keyed by `weight`, `bias`, …"""
        return {}

    def multiply_adds(self, *inputs: Shape) -> int:
        """Multiply-adds for one image in convolutions and dense layers; everything else counts as zero."""
        return 0

    def _only(self, inputs: tuple[Shape, ...], ranks: tuple[int, ...] = (1, 3)) -> Shape:
        """The only input's shape, of one of these ranks: 3, a map; 1, features."""
        if len(inputs) != 1:
            raise TriptychError(f"{self.kind} takes one input, but is given {len(inputs)}")
        return self._every(inputs, ranks)[0]

    def _every(self, inputs: tuple[Shape, ...], ranks: tuple[int, ...] = (1, 3)) -> tuple[Shape, ...]:
        """The inputs' shapes, each of one of these ranks."""
        for shape in inputs:
            if len(shape) not in ranks or any(not isinstance(size, int) or size < 1 for size in shape):
                expected = " or ".join({3: "a map (channels, height, width)", 1: "features"}[rank] for rank in ranks)
                raise TriptychError(f"{self.kind} takes {expected}, but is given {shape}")
        if not inputs:
            raise TriptychError(f"{self.kind} is given no input")
        return inputs

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Windowed(Operation):
    """An operation that slides a window over height and width. `padding` is in pixels, or `SAME`."""

    kernel: int | Pair
    stride: int | Pair = 1
    padding: int | Padding | str = 0

    def window(self, shape: Shape) -> tuple[Pair, Pair, Padding]:
        """Kernel, stride and padding, each for height and width, on an input of (channels, height, width)."""
        kernel, stride = _pair(self.kernel), _pair(self.stride)
        if isinstance(self.padding, int):
            return kernel, stride, ((self.padding, self.padding), (self.padding, self.padding))
        return (
            kernel,
            stride,
            same_padding(shape[1:], kernel, stride) if isinstance(self.padding, str) else self.padding,
        )

    def _positions(self, inputs: tuple[Shape, ...]) -> Pair:
        """How many windows fit into the only input, down and across."""
        shape = self._only(inputs, MAP)
        height, width = (
            (size + sum(padding) - kernel) // stride + 1
            for size, kernel, stride, padding in zip(shape[1:], *self.window(shape), strict=True)
        )
        if height < 1 or width < 1:
            kernel = "×".join(map(str, _pair(self.kernel)))
            raise TriptychError(
                f"a {kernel} window does not fit into a map of {shape[1]}×{shape[2]}; use a larger image"
            )
        return height, width


@dataclass(frozen=True)
class Conv(Windowed):
    """Cross-correlation with zero padding and a bias for each filter, in `groups` independent groups of channels."""

    filters: int = field(kw_only=True)
    groups: int = field(default=1, kw_only=True)
    bias: bool = field(default=True, kw_only=True)

    def output_shape(self, *inputs: Shape) -> Shape:
        return (self.filters, *self._positions(inputs))

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        channels, _, _ = self._only(inputs, MAP)
        if channels % self.groups or self.filters % self.groups:
            raise TriptychError(
                f"{channels} channels and {self.filters} filters cannot both be split into {self.groups} groups"
            )
        shapes: dict[str, Shape] = {"weight": (self.filters, channels // self.groups, *_pair(self.kernel))}
        return shapes | {"bias": (self.filters,)} if self.bias else shapes

    def multiply_adds(self, *inputs: Shape) -> int:
        return prod(self.parameter_shapes(*inputs)["weight"]) * prod(self._positions(inputs))


@dataclass(frozen=True)
class MaxPool(Windowed):
    """The largest value of each window; padding never wins."""

    def output_shape(self, *inputs: Shape) -> Shape:
        height, width = self._positions(inputs)
        return (inputs[0][0], height, width)


@dataclass(frozen=True)
class AveragePool(Windowed):
    """The mean of each window, which lies wholly inside the map."""

    def output_shape(self, *inputs: Shape) -> Shape:
        height, width = self._positions(inputs)
        return (inputs[0][0], height, width)


@dataclass(frozen=True)
class GlobalAveragePool(Operation):
    """The mean of each channel: (C, H, W) to (C, 1, 1)."""

    def output_shape(self, *inputs: Shape) -> Shape:
        return (self._only(inputs, MAP)[0], 1, 1)


@dataclass(frozen=True)
class AdaptiveAveragePool(Operation):
    """The means of `positions`×`positions` windows, spread evenly and all of one size: (C, H, W) to (C, p, p).

    Source: torch.nn.AdaptiveAvgPool2d.
    """

    positions: int

    def windows(self, length: int) -> list[tuple[int, int]]:
        """Where the windows along an axis begin and end: from ⌊i·n / p⌋ to ⌈(i + 1)·n / p⌉."""
        bounds = [(i * length // self.positions, -(-(i + 1) * length // self.positions)) for i in range(self.positions)]
        if len({end - begin for begin, end in bounds}) != 1:
            raise TriptychError(f"{length} pixels give {self.positions} adaptive windows of different sizes")
        return bounds

    def output_shape(self, *inputs: Shape) -> Shape:
        channels, *lengths = self._only(inputs, MAP)
        for length in lengths:
            self.windows(length)
        return (channels, self.positions, self.positions)


@dataclass(frozen=True)
class SubSampling(Operation):
    """LeNet-5's: the sum of each 2×2 window, times a trainable coefficient, plus a trainable bias, for each channel.

    Source: LeCun et al. 1998, section II.B, layer S2.
    """

    def output_shape(self, *inputs: Shape) -> Shape:
        channels, height, width = self._only(inputs, MAP)
        if min(height, width) < 2:
            raise TriptychError(f"a 2×2 window does not fit into a map of {height}×{width}; use a larger image")
        return (channels, height // 2, width // 2)

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        channels, _, _ = self._only(inputs, MAP)
        return {"weight": (channels, 1, 1), "bias": (channels, 1, 1)}


@dataclass(frozen=True)
class ReLU(Operation):
    """max(x, 0)."""


@dataclass(frozen=True)
class Sigmoid(Operation):
    """1 / (1 + exp(−x))."""


@dataclass(frozen=True)
class Softmax(Operation):
    """exp(x) / Σ exp(x) over the features; in no network of the catalogue, but at the end where it is asked for."""


@dataclass(frozen=True)
class ScaledTanh(Operation):
    """amplitude · tanh(slope · x).

    Source: LeCun et al. 1998, appendix A, with 1.7159 and 2/3.
    """

    amplitude: float
    slope: float


@dataclass(frozen=True)
class BatchNorm(Operation):
    """gamma · (x − mean) / √(variance + eps) + beta for each channel, with stored statistics."""

    eps: float

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return dict.fromkeys(("gamma", "beta", "mean", "variance"), self._only(inputs)[:1])


@dataclass(frozen=True)
class Add(Operation):
    """The sum of its inputs, element by element."""

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(set(self._every(inputs))) != 1:
            raise TriptychError(f"maps of different shapes cannot be added: {', '.join(map(str, inputs))}")
        return inputs[0]


@dataclass(frozen=True)
class Concat(Operation):
    """Its inputs' channels one after the other."""

    def output_shape(self, *inputs: Shape) -> Shape:
        if len({shape[1:] for shape in self._every(inputs)}) != 1:
            raise TriptychError(f"maps of different sizes cannot be concatenated: {', '.join(map(str, inputs))}")
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


@dataclass(frozen=True)
class SelectChannels(Operation):
    """Some of the input's channels, by number."""

    channels: tuple[int, ...]

    def output_shape(self, *inputs: Shape) -> Shape:
        shape = self._only(inputs)
        if missing := [channel for channel in self.channels if not 0 <= channel < shape[0]]:
            raise TriptychError(f"there is no channel {missing[0]} among {shape[0]}")
        return (len(self.channels), *shape[1:])


@dataclass(frozen=True)
class LRN(Operation):
    """Local response normalisation across channels, in Caffe's convention.

    y_c = x_c · (k + alpha / size · Σ x²)^-beta, the sum running over the `size` channels around c (zeros outside).
    """

    size: int
    alpha: float
    beta: float
    k: float

    def output_shape(self, *inputs: Shape) -> Shape:
        return self._only(inputs, MAP)


@dataclass(frozen=True)
class Flatten(Operation):
    """(C, H, W) to (C·H·W,), the last axis fastest.

    `shape` is what the dense layer behind it was made for; another input shape is refused.
    """

    shape: Shape | None = None

    def output_shape(self, *inputs: Shape) -> Shape:
        shape = self._only(inputs)
        if self.shape is not None and shape != self.shape:
            found, made_for = ("×".join(map(str, sizes)) for sizes in (shape, self.shape))
            raise TriptychError(
                f"the map that is flattened is {found}, but the dense weights behind it are for {made_for}"
            )
        return (prod(shape),)


@dataclass(frozen=True)
class Dense(Operation):
    """W·x + b."""

    units: int

    def output_shape(self, *inputs: Shape) -> Shape:
        self._only(inputs, FEATURES)
        return (self.units,)

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {"weight": (self.units, *self._only(inputs, FEATURES)), "bias": (self.units,)}

    def multiply_adds(self, *inputs: Shape) -> int:
        return self.units * self._only(inputs, FEATURES)[0]


@dataclass(frozen=True)
class Dropout(Operation):
    """The identity, except while training, where each value is zeroed with probability `rate`."""

    rate: float


@dataclass(frozen=True)
class Layer:
    """One named operation and the layers it reads."""

    name: str
    operation: Operation
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes the network's input: (pixel − mean) / scale, for each channel in the stated order.

    Pixels are 0…255; `mean` and `scale` follow `channels`.
    """

    channels: str = "RGB"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)

    def as_json(self) -> str:
        """As it stands in the metadata of files: `{"channels": "BGR", "mean": [104.0, …], "scale": [1.0, …]}`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """The inverse of `as_json`.

        Raises:
            TriptychError: the text is no such thing.
        """
        try:
            found = json.loads(text)
            recipe = cls(found["channels"], tuple(map(float, found["mean"])), tuple(map(float, found["scale"])))
        except (ValueError, TypeError, KeyError):
            raise TriptychError(f"{text!r} is no preprocessing, expected something like {cls().as_json()}") from None
        lengths = {len(recipe.channels), len(recipe.mean), len(recipe.scale)}
        finite = all(map(isfinite, (*recipe.mean, *recipe.scale)))
        if recipe.channels not in ("RGB", "BGR", "L") or len(lengths) > 1 or 0 in recipe.scale or not finite:
            raise TriptychError(
                f"{text!r} is no preprocessing: channels are RGB, BGR or L, a mean and a scale for each"
            )
        return recipe


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
    """The layer behind each output: first `logits`, then `aux1` and `aux2` where there are auxiliary heads."""
    preprocessing: Preprocessing = Preprocessing()

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
                size = "×".join(map(str, self.input_shape[1:]))
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
    """The network with a softmax behind each of its outputs, the first of which is called `probabilities` then."""
    softmaxes = [Layer(softmax_layer(head), Softmax(), (head,)) for head in spec.outputs.values()]
    names = ("probabilities" if name == "logits" else name for name in spec.outputs)
    outputs = {name: layer.name for name, layer in zip(names, softmaxes, strict=True)}
    return replace(spec, layers=(*spec.layers, *softmaxes), outputs=outputs)
