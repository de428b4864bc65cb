"""The base class of operations.

An operation is one class in one file of this package. It has: numbers and shapes; its value in float64, with the bound
that float32 keeps; its gradients; how errors of the inputs reach the output; when integers make it exact; shorter
precisions; overflow; and known mistakes.

Shapes are those of one image, without the batch axis: (channels, height, width), or (features,) after a flatten. Arrays
have it: (N, C, H, W) or (N, features). Parameters are in the canonical layout: convolution kernels (out, in / groups,
height, width), dense kernels (out, in).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar, TypeAlias

from common.errors import TriptychError
from common.operations.arrays import ELEMENTS_AT_ONCE, Arrays, Parameters, Place, Shape, np, part_of, places
from common.operations.onnx_node import OnnxGraph, OnnxNode, Parameter, Unread
from common.operations.overflow import as_it_is, sums_that_overflow
from common.operations.preprocessing import Preprocessing
from common.operations.rounding import (
    CARRIED,
    FP32,
    UNIT_ROUNDOFF,
    Gradients,
    Piece,
    Precision,
    Reference,
    unit_of,
    upwards,
)

MAP, FEATURES = (3,), (1,)
"""The ranks that some operations take: (channels, height, width) only, or (features,) only."""


@dataclass(frozen=True)
class Found:
    """The operation of a node, and which of the node's inputs are its inputs and parameters."""

    operation: Operation
    inputs: tuple[int, ...] = (0,)
    parameters: Mapping[str, int] = field(default_factory=dict)
    """For each name in `Operation.parameter_shapes`, the place of the node's input."""
    results: tuple[int, ...] = ()
    """Which of the node's other results are further inputs."""


@dataclass(frozen=True)
class Operation:
    """What a layer computes. Subclasses have the numbers, and override the methods that are not right for them.

    A method raises `TriptychError` if the operation does not take the shapes or arrays that it is given.
    """

    integers_before: ClassVar[int] = 0
    """An exact probe injects integers before operations with weights, or with a curve that large numbers saturate.
    These are integers of 1 to 8 times this number. 0: nothing is injected."""

    channelwise: ClassVar[bool] = False
    """Whether each channel of the output is computed from the same channel of the inputs alone."""

    elementwise: ClassVar[bool] = False
    """Whether each element of the output is computed from the elements of the inputs at the same place alone. Inputs
    are repeated along axes that they lack."""

    ufunc: ClassVar[str | None] = None
    """NumPy's name for it, if it is one operation of IEEE 754 on each element of its one or two inputs."""

    contracts: ClassVar[bool] = False
    """Whether it never increases the distance of two values, such as choices, changes of place, means."""

    rounds_once: ClassVar[bool] = True
    """Whether each element is rounded once when it is stored. Else each of its several operations may round."""

    sums_and_products: ClassVar[bool] = False
    """Whether it only adds, multiplies and chooses, which a WebGPU shader does as a CPU does. Of an operation that
    returns a `magnitude`, or no bound, that is known."""

    any_result: ClassVar[bool] = False
    """Whether it can be any result of an ONNX node, not the first alone."""

    # Shapes and costs

    def output_shape(self, *inputs: Shape) -> Shape:
        """The output's shape. Elementwise operations keep their input's."""
        return self._only(inputs)

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        """The shape of each parameter in the canonical layout, keyed by `weight`, `bias`, …"""
        return {}

    def multiply_adds(self, *inputs: Shape) -> int:
        """Multiply-adds for one image in convolutions and dense layers; everything else counts as zero."""
        return 0

    @property
    def kind(self) -> str:
        return type(self).__name__

    # Value and bound; called through `evaluate`, which checks the shapes

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """The value in float64 and the bound that float32 keeps; see `evaluate`."""
        raise NotImplementedError(f"the value of {self.kind} has not been derived")

    def pieces(self, inputs: Arrays, parameters: Parameters) -> Iterator[Piece]:
        """`reference` in pieces, so that the intermediate arrays of a piece fit into the cache."""
        if self.elementwise:
            for place, parts in self.parts(inputs):
                yield place, self.reference(parts, parameters)
            return
        x = inputs[0]
        if not self.channelwise or x.ndim < 2 or x.size <= ELEMENTS_AT_ONCE:
            yield (...,), self.reference(inputs, parameters)
            return
        count = max(1, ELEMENTS_AT_ONCE // x[0, 0].size)
        for image, first in product(range(len(x)), range(0, x.shape[1], count)):
            channels = slice(first, first + count)
            place = slice(image, image + 1), channels
            own = {name: array[channels] for name, array in parameters.items()}
            yield place, self.reference([array[place] for array in inputs], own)

    def parts(self, inputs: Arrays) -> Iterator[tuple[Place, Arrays]]:
        """The places of an elementwise operation's output, block by block, and the part of each input for a block."""
        shape = np.broadcast_shapes(*(x.shape for x in inputs))
        for place in places(shape):
            yield place, [part_of(x, place, len(shape)) for x in inputs]

    def at_precision(
        self, reference: Reference, precision: Precision, inputs: Arrays, parameters: Parameters
    ) -> Reference:
        """A reference of these inputs, its bound widened to a precision below float32's.

        Results stored with unit roundoff v add v (|y| + bound). If a layer is several operations on an element, each
        may be stored so: the bound, at most fourteen roundings, is then that of float32 arithmetic with v in place of
        u, but for (1 − 14u) / (1 − 14v) < 1.06.

        Raises:
            Unread: nobody knows how accurately a WebGPU shader computes it.
        """
        if reference.bound is None or precision == FP32:
            return reference
        if precision.shader:
            return replace(reference, bound=self.in_shader(inputs, parameters, reference, reference.bound))
        bound = self.computed_at(reference, reference.bound, precision)
        if precision.stored > UNIT_ROUNDOFF:
            if self.rounds_once:
                bound = bound + precision.stored * (np.abs(reference.value) + bound)
            else:
                bound = 1.06 * precision.stored / UNIT_ROUNDOFF * bound
            bound = bound + 6 * precision.smallest_normal
        return replace(reference, bound=bound)

    def computed_at(self, reference: Reference, bound: np.ndarray, precision: Precision) -> np.ndarray:
        """The bound of what is computed in that precision, before it is stored."""
        return bound

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """The bound of what a WebGPU shader computes, in place of a CPU's; see `common.operations.wgsl`.

        Raises:
            Unread: nobody has derived it, or nothing is promised.
        """
        if reference.magnitude is not None or self.sums_and_products:
            return bound
        raise Unread(f"how accurately a WebGPU shader computes {self.kind} has not been derived")

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        """A reference of large numbers, with what may be infinite or NaN; see `common.operations.overflow`."""
        if reference.magnitude is None:
            return replace(reference, allowed=as_it_is(reference.value))
        return sums_that_overflow(self.reference, inputs, parameters)

    def quantum(self, shape: Shape, quantum: float) -> float:
        """The power of two that outputs are multiples of, if inputs of this shape are multiples of `quantum`."""
        return quantum

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        """The power of two that all terms of the sums for these inputs are multiples of.

        If the magnitude of a `Reference` stays below 2^24 times it, float32 rounds nothing.
        """
        return min(unit_of(array) for array in (*inputs, *parameters.values()))

    def given_itself(self) -> Operation | None:
        """The same operation with its own output as its last input, if some elements are computed from others. These
        are then judged by what they were really computed from."""
        return None

    # What leads backwards, and what errors lead to

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """The gradients of Σ dy · y with respect to inputs and parameters; see `backward`."""
        raise NotImplementedError(f"the gradient of {self.kind} has not been derived")

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """The largest error of the output if the inputs have errors up to `errors`.

        By default, an operation that never increases the distance of two values (`contracts`) is applied to the errors
        themselves.

        Args:
            inputs: float32.
            errors: float64, not negative, of the same shapes.
            parameters: float32, in the canonical layout.

        Raises:
            NotImplementedError: it has not been derived.
        """
        if not self.contracts:
            raise NotImplementedError(f"how {self.kind} carries errors on has not been derived")
        return CARRIED * self.reference([upwards(error) for error in errors], {}).value

    def carried_from(self, inputs: Arrays, errors: Arrays, parameters: Parameters, doubts: Parameters) -> np.ndarray:
        """As `carried`, if parameters have errors too: `doubts`, by name. Raises `Unread` if these are too large."""
        if doubts:
            raise NotImplementedError(f"its {next(iter(doubts))} is computed, and was not recorded")
        return self.carried(inputs, errors, parameters)

    # Mistakes

    def of_first(self, count: int, inputs: Arrays) -> tuple[Operation, Arrays] | None:
        """The operation with its first few units alone, and the part of the inputs that they read. None if it has no
        more units."""
        return None

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        """Known mistakes with this operation, the likeliest and the most tightly bounded first."""
        yield from ()

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        """Mistakes with a number that is taken from the output. `right` is the right output."""
        yield from ()

    # ONNX

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        """The operation of an ONNX node, of a kind that `common.operations.onnx_table.reads` names for this class.

        By default, an operation without numbers that takes all inputs of the node.

        Raises:
            Unread: no bound has been derived for the node's result.
        """
        return Found(cls(), tuple(range(len(node.inputs))))

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        """Write a layer of that name into a graph, and return the name of its output, which is the same.

        Args:
            graph: the graph to write to.
            name: of the layer.
            inputs: the values that it reads.
            shape: the shape of its first input, for one image, if the nodes depend on it.
            parameters: see `Parameter`.
        """
        raise NotImplementedError(f"{self.kind} cannot be written as ONNX")

    # For subclasses

    def _only(self, inputs: tuple[Shape, ...], ranks: tuple[int, ...] = ()) -> Shape:
        """The shape of the only input. It must have one of these ranks (3, a map; 1, features), or any rank if none is
        given."""
        if len(inputs) != 1:
            raise TriptychError(f"{self.kind} takes one input, but is given {len(inputs)}")
        return self._every(inputs, ranks)[0]

    def _every(self, inputs: tuple[Shape, ...], ranks: tuple[int, ...] = ()) -> tuple[Shape, ...]:
        """The shapes of the inputs. Each must have one of these ranks."""
        for shape in inputs:
            right = len(shape) in ranks if ranks else len(shape) > 0
            if not right or any(not isinstance(size, int) or size < 1 for size in shape):
                kinds = {3: "a map (channels, height, width)", 1: "features"}
                expected = " or ".join(kinds[rank] for rank in ranks) or "maps or features"
                raise TriptychError(f"{self.kind} takes {expected}, but is given {shape}")
        if not inputs:
            raise TriptychError(f"{self.kind} is given no input")
        return inputs


@dataclass(frozen=True)
class ArrayOperation(Operation):
    """An operation of graphs, on arrays of any rank. The first axis need not be the batch.

    Its shapes follow from evaluating it.
    """


@dataclass(frozen=True)
class Observation:
    """What a backend read and computed at a layer, and the parameters that it should have used."""

    name: str
    operation: Operation
    inputs: Arrays
    """float32, (N, C, H, W) or (N, features)."""
    output: np.ndarray
    parameters: Parameters
    batch: Arrays
    """The inputs of all images; `inputs` may have some of these."""
    input_names: tuple[str, ...] = ()
    flattened: Shape | None = None
    """The (C, H, W) of the map whose flattening is the input, if it is one."""
    preprocessing: Preprocessing | None = None
    """How the input was made from pixels, if it is the image."""
    neighbours: Mapping[str, Parameters] = field(default_factory=dict)
    """Parameters of other layers with the same shapes, by layer."""
    elsewhere: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The image and the outputs of earlier layers, by name."""
    order: str = "C, H, W"
    """The order in which the framework flattens maps, as in `ORDERS`."""
    reads: Collection[str] | None = None
    """The layers that it reads, by the model's own structure; None if that is not known."""
    next_conv: Observation | None = None
    """The next convolution of the same block, which may have got the stride by mistake."""

    whole: bool = False
    """Whether it cannot be split into images, because some of its arrays have no batch axis."""

    def of_image(self, index: int) -> Observation:
        """The same, of one image of the batch."""
        only = slice(index, index + 1)
        elsewhere = {name: array[only] for name, array in self.elsewhere.items()}
        inputs = [array[only] for array in self.inputs]
        next_conv = self.next_conv and self.next_conv.of_image(index)
        return replace(self, inputs=inputs, output=self.output[only], elsewhere=elsewhere, next_conv=next_conv)


Hypothesis: TypeAlias = "tuple[str, Callable[[], Reference]]"
"""The mistake in words, and the layer's output with it."""

Fit = tuple[str, str, Reference]
"""A summary without the number; the mistake in words; the layer's output with it."""


def in_double(*arrays: np.ndarray) -> Arrays:
    return [array.astype(np.float64) for array in arrays]


def are_integers(arrays: Arrays) -> bool:
    """Whether arrays hold integers, with which nothing rounds."""
    return all(np.issubdtype(array.dtype, np.integer) for array in arrays)
