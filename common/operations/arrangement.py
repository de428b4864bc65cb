"""Operations that move, choose or drop values. They round nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import ClassVar

from common.errors import TriptychError
from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.mistake import ENOUGH, ORDERS, exchanged
from common.operations.onnx_node import OnnxGraph, OnnxNode, Parameter
from common.operations.onnx_table import reads
from common.operations.operation import Found, Hypothesis, Observation, Operation
from common.operations.rearrangement import Rearrangement, order_of_inputs
from common.operations.rounding import SMALLEST_NORMAL, Gradients, Reference, chosen, gamma


@reads("Concat")
@dataclass(frozen=True)
class Concat(Operation):
    """The channels of its inputs, concatenated."""

    contracts: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        if len({shape[1:] for shape in self._every(inputs)}) != 1:
            raise TriptychError(f"maps of different sizes cannot be concatenated: {', '.join(map(str, inputs))}")
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        return Reference(np.concatenate(inputs, axis=1))

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        ends = np.cumsum([x.shape[1] for x in inputs])[:-1]
        return Gradients([chosen(part) for part in np.split(dy.astype(np.float64), ends, axis=1)])

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        """A concatenation of channels; along any other axis it is a `Rearrangement`."""
        if node.attributes["axis"] != 1:
            return Rearrangement.from_onnx(node)
        return super().from_onnx(node)

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        return graph.node("Concat", name, *inputs, axis=1)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        """Each piece of the output is looked up among the inputs: a permutation of a few can be told from many
        numbers.
        """
        for order in _orders_of_pieces(seen.inputs, seen.output):
            if order != sorted(order):
                yield order_of_inputs(order), exchanged(seen, None, [seen.inputs[place] for place in order])


def _orders_of_pieces(inputs: Sequence[np.ndarray], output: np.ndarray) -> Iterator[list[int]]:
    """Every way in which the pieces of the output are the inputs, each of them once or several times."""
    if not output.shape[1]:
        yield []
    for place, x in enumerate(inputs):
        width = x.shape[1]
        if 0 < width <= output.shape[1] and np.array_equal(output[:, :width], x):
            for rest in _orders_of_pieces(inputs, output[:, width:]):
                yield [place, *rest]


@dataclass(frozen=True)
class SelectChannels(Operation):
    """Some of the input's channels, by number."""

    channels: tuple[int, ...]

    contracts: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        shape = self._only(inputs)
        if missing := [channel for channel in self.channels if not 0 <= channel < shape[0]]:
            raise TriptychError(f"there is no channel {missing[0]} among {shape[0]}")
        return (len(self.channels), *shape[1:])

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        return Reference(inputs[0][:, list(self.channels)])

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        value = np.zeros(inputs[0].shape)
        value[:, list(self.channels)] = dy
        return Gradients([chosen(value)])

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        channels = graph.constants(name, channels=np.array(self.channels, np.int64))
        return graph.node("Gather", name, *inputs, *channels, axis=1)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        """Each channel of the output is looked up in the input: where two are alike, the right one if it is one of
        them.
        """
        (x,) = seen.inputs
        chosen = []
        for right, channel in zip(self.channels, seen.output.swapaxes(0, 1), strict=False):
            candidates = dict.fromkeys((right, *range(x.shape[1])))
            chosen += [number for number in candidates if np.array_equal(x[:, number], channel)][:1]
        if len(chosen) == seen.output.shape[1]:
            mistake = f"the channels {tuple(chosen)} are taken, not {self.channels}"
            yield mistake, exchanged(seen, SelectChannels(tuple(chosen)))


@dataclass(frozen=True)
class Flatten(Operation):
    """(C, H, W) to (C·H·W,), the last axis fastest.

    `shape` is the input shape that the dense layer after it was made for. Another input shape is refused.
    """

    shape: Shape | None = None

    contracts: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        shape = self._only(inputs)
        if self.shape is not None and shape != self.shape:
            found, made_for = ("×".join(map(str, sizes)) for sizes in (shape, self.shape))
            raise TriptychError(
                f"the map that is flattened is {found}, but the dense weights after it are for {made_for}"
            )
        return (prod(shape),)

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        return Reference(inputs[0].reshape(len(inputs[0]), prod(inputs[0].shape[1:])))

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        return Gradients([chosen(dy.astype(np.float64).reshape(inputs[0].shape))])

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        return graph.node("Flatten", name, *inputs, axis=1)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        """Where maps are (N, H, W, C), what is recorded has been put into the order C, H, W as if it had been H, W,
        C.
        """
        (x,) = seen.inputs
        if x.ndim != 4:
            return
        right = ORDERS[seen.order]
        maps = [len(x), *(x.shape[axis] for axis in right[1:])]
        for order, axes in ORDERS.items():
            if order != seen.order:
                flat = x.transpose(axes).reshape(maps).transpose(np.argsort(right)).reshape(len(x), -1)
                yield f"the order is {order}, not {seen.order}", partial(Reference, flat.astype(np.float64))


@dataclass(frozen=True)
class Dropout(Operation):
    """The identity, except while training, where each value is zeroed with probability `rate`."""

    rate: float

    contracts: ClassVar[bool] = True

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        return Reference(inputs[0])

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """Turned off."""
        return Gradients([chosen(dy.astype(np.float64))])

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        (x,) = (array.astype(np.float64) for array in seen.inputs)
        shares = dict.fromkeys((1 - self.rate, self.rate, 0.75, 0.25))
        bounds = {keep: gamma(3) * np.abs(x / keep) + SMALLEST_NORMAL for keep in shares}
        for keep in shares:
            yield f"every value is divided by {keep:g}", partial(Reference, x / keep, bounds[keep])
        for factor in dict.fromkeys((1 - self.rate, self.rate)):
            yield f"every value is multiplied by {factor:g}", partial(Reference, x * factor, gamma(2) * np.abs(x))
        if x.shape != seen.output.shape or (seen.batch[0] != 0).sum() < ENOUGH:
            return
        kept, told = seen.output != 0, x != 0
        for keep in shares:
            for mask in _masks(kept, told, x, (keep,)):
                mistake = f"{mask}, and divides what it keeps by {keep:g}"
                yield mistake, partial(Reference, np.where(kept, x / keep, 0), bounds[keep])
        for mask in _masks(kept, told, x, (1 - self.rate, self.rate)):
            yield f"{mask}, and does not scale", partial(Reference, np.where(kept, x, 0))


_SIGMAS = 5
"""How many standard deviations the number of kept values may differ from its expectation."""


def _masks(kept: np.ndarray, told: np.ndarray, x: np.ndarray, shares: Iterable[float]) -> Iterator[str]:
    """What can have set some values to 0, as far as which ones they are says it.

    The mask is read off the output, so that it explains any zeros at all. What is left of them to prove anything is
    how many there are, where, and whether they are others in another image: chance keeps a share of the values
    whatever they are, a fixed mask keeps the same in each image, a threshold the larger ones.

    Args:
        kept: which values are not 0, (N, …).
        told: those that would not be 0 without a mask either; the others tell nothing.
        x: the values before it.
        shares: what dropout might keep.
    """
    number, of = int((kept & told).sum()), int(told.sum())
    if number in (0, of):
        return
    if x[told & ~kept].max() < x[told & kept].min():
        yield "the smaller values are set to 0 (a threshold)"
        return
    several = told.sum(axis=0) > 1
    differs = (told & kept).any(axis=0) & (told & ~kept).any(axis=0)
    alike = not differs.any()
    by_chance = any(abs(number - share * of) <= _SIGMAS * np.sqrt(of * share * (1 - share)) for share in shares)
    # Of one image nobody knows what another would lose; nor where no value of two is told.
    if not alike or several.sum() < ENOUGH:
        if x.ndim == 4 and (np.where(told, kept, True).all((2, 3)) | np.where(told, ~kept, True).all((2, 3))).all():
            yield "dropout of whole channels is active"
        elif by_chance:
            yield "dropout is active"
    if alike:
        yield "the same values of each image are set to 0 (a fixed mask)"
