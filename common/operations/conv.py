"""Convolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import prod
from typing import ClassVar

from common.errors import TriptychError
from common.operations.arrays import ELEMENTS_AT_ONCE, Arrays, Parameters, Shape, np
from common.operations.image_mistakes import image_mistakes
from common.operations.mistake import Evaluation, exchanged, given
from common.operations.operation import MAP, Fit, Hypothesis, Observation, in_double
from common.operations.rounding import (
    SMALLEST_NORMAL,
    Gradient,
    Gradients,
    Piece,
    Precision,
    Reference,
    gamma,
    summed,
)
from common.operations.sums import (
    Summing,
    Sums,
    bias_mistakes,
    binary_exponent,
    carried_by_products,
    of_shorter_factors,
    precision_mistakes,
    unit_mistakes,
    unit_of_products,
    weights_or_bias_fits,
)
from common.operations.windows import (
    Padding,
    Windowed,
    border_mistakes,
    pair,
    position_mistakes,
    window_mistakes,
    windows_of,
)


@dataclass(frozen=True)
class Conv(Windowed):
    """Cross-correlation with zero padding and a bias for each filter, in `groups` independent groups of channels."""

    filters: int = field(kw_only=True)
    groups: int = field(default=1, kw_only=True)
    bias: bool = field(default=True, kw_only=True)

    integers_before: ClassVar[int] = 1
    pools: ClassVar[bool] = False

    def output_shape(self, *inputs: Shape) -> Shape:
        return (self.filters, *self._positions(inputs))

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        channels, _, _ = self._only(inputs, MAP)
        if channels % self.groups or self.filters % self.groups:
            raise TriptychError(
                f"{channels} channels and {self.filters} filters cannot both be split into {self.groups} groups"
            )
        shapes: dict[str, Shape] = {"weight": (self.filters, channels // self.groups, *pair(self.kernel))}
        return shapes | {"bias": (self.filters,)} if self.bias else shapes

    def multiply_adds(self, *inputs: Shape) -> int:
        return prod(self.parameter_shapes(*inputs)["weight"]) * prod(self._positions(inputs))

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A sum of n − 1 products and a bias: |ŷ − y| ≤ γ_n (Σ|w·a| + |b|), n = fan-in + 1.

        Valid for every order of summation, with and without fused multiply-add (Higham, section 3.1). It also holds
        after a ReLU, which brings no two numbers further apart.
        """
        shape = (len(inputs[0]), *self.output_shape(inputs[0].shape[1:]))
        return Reference.joined(shape, self.pieces(inputs, parameters))

    def pieces(self, inputs: Arrays, parameters: Parameters, sums: Summing | None = None) -> Iterator[Piece]:
        """Some rows of some filters each; of several groups where these are small."""
        (x,), weight, bias = inputs, parameters["weight"], parameters.get("bias")
        sums = sums or Sums(weight, x)
        if self.groups == self.filters == x.shape[1]:
            yield from self._pieces_by_depth(x, weight, bias, sums)
            return
        windows = windows_of(x, *self.window(x.shape[1:]), fill=0.0)
        batch, channels, height, width = windows.shape[:4]
        terms, own, read = prod(weight.shape[1:]), self.filters // self.groups, channels // self.groups
        by_group = weight.reshape(self.groups, own, terms)
        # Neither factor of a product of matrices is to be narrow, nor what comes of it to leave the cache.
        positions = max(_MANY, min(4 * ELEMENTS_AT_ONCE // terms, ELEMENTS_AT_ONCE // own))
        groups_at_once = min(self.groups, max(1, positions // (height * width)))
        rows_at_once = max(1, positions // (groups_at_once * width))
        for image, group, top in product(
            range(batch), range(0, self.groups, groups_at_once), range(0, height, rows_at_once)
        ):
            groups, rows = slice(group, group + groups_at_once), slice(top, top + rows_at_once)
            block = windows[image, group * read : (group + groups_at_once) * read, rows].transpose(0, 3, 4, 1, 2)
            columns = sums.scaled(block.reshape(-1, terms, block.shape[3] * width), 1)
            fitting = min(ELEMENTS_AT_ONCE // (block.shape[3] * width), max(_MANY // 4, 2 * ELEMENTS_AT_ONCE // terms))
            filters_at_once = own if groups_at_once > 1 else max(1, fitting)
            for first in range(0, own, filters_at_once):
                of_group = slice(first, first + filters_at_once)
                kernels = sums.scaled(by_group[groups, of_group], 0)
                products = [left @ right for left, right in zip(kernels, columns, strict=True)]
                count = products[0].shape[0] * products[0].shape[1]
                filters = slice(group * own + first, group * own + first + count)
                maps = [array.reshape(1, count, -1, width) for array in products]
                place = slice(image, image + 1), filters, rows
                yield place, sums.reference(maps, None if bias is None else bias[filters], terms)

    def _pieces_by_depth(
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, sums: Summing
    ) -> Iterator[Piece]:
        """Some channels each, where each has a kernel of its own.

        What a kernel makes of a few neighbouring columns of a window's rows is a product with a band matrix, which
        holds the kernel once for each, further right each time. Such products are fast, though most of it is 0.
        """
        (rows, columns), (down, across), ((top, bottom), (left, right)) = self.window(x.shape[1:])
        height, width = self._positions((x.shape[1:],))
        count = -(-width // _ACROSS)
        at_once = -(-width // count)
        read = (at_once - 1) * across + columns
        right += (count * at_once - width) * across
        channels_at_once = max(1, ELEMENTS_AT_ONCE // (height * width))
        copied_at_once = max(1, ELEMENTS_AT_ONCE // (height * count * rows * read))
        padded = np.zeros((channels_at_once, top + x.shape[2] + bottom, left + x.shape[3] + right), x.dtype)
        for image, first in product(range(len(x)), range(0, self.filters, channels_at_once)):
            channels = slice(first, first + channels_at_once)
            maps = x[image, channels]
            padded[: len(maps), top : top + x.shape[2], left : left + x.shape[3]] = maps
            windows = windows_of(padded[None, : len(maps)], (rows, read), (down, at_once * across), ((0, 0), (0, 0)))[0]
            bands = sums.scaled(_bands(weight[channels, 0], at_once, across), 0)
            products = [np.empty((len(maps), height * count, at_once), array.dtype) for array in bands]
            for start in range(0, len(maps), copied_at_once):
                own = slice(start, start + copied_at_once)
                block = np.ascontiguousarray(windows[own]).reshape(-1, height * count, rows * read)
                for found, left_factor, right_factor in zip(products, sums.scaled(block, 1), bands, strict=True):
                    np.matmul(left_factor, right_factor[own], out=found[own])
            images = [found.reshape(1, -1, height, count * at_once)[..., :width] for found in products]
            place = slice(image, image + 1), channels
            yield place, sums.reference(images, None if bias is None else bias[channels], rows * columns)

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        return unit_of_products(inputs, parameters)

    def computed_at(self, reference: Reference, bound: np.ndarray, precision: Precision) -> np.ndarray:
        return of_shorter_factors(reference, bound, precision)

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """∂x sums over filters and the windows an element lies in; ∂w and ∂b over all positions of all images."""
        x, w = inputs[0], parameters["weight"]
        dx, dw = _products(self, *in_double(x, w, dy))
        # What scales the bounds is computed in float32, on factors divided by powers of two so that nothing overflows.
        exponents = [binary_exponent(array) for array in (x, w, dy)]
        scaled = (np.abs(np.ldexp(a, -e)).astype(np.float32) for a, e in zip((x, w, dy), exponents, strict=True))
        of_dx, of_dw = _products(self, *scaled)
        of_x, of_w, of_dy = exponents
        kernel, _, _ = self.window(x.shape[1:])
        positions, fan_out = dy.size // self.filters, self.filters // self.groups * prod(kernel)
        gradients = {"weight": _summed_in_float32(positions, dw, of_dw, of_x + of_dy)}
        if self.bias:
            dy = dy.astype(np.float64)
            gradients["bias"] = summed(positions, dy.sum((0, 2, 3)), np.abs(dy).sum((0, 2, 3)))
        return Gradients([_summed_in_float32(fan_out, dx, of_dx, of_w + of_dy)], gradients)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return carried_by_products(self, errors, parameters)

    def of_first(self, count: int, inputs: Arrays) -> tuple[Conv, Arrays] | None:
        """Some filters of the first group, or some whole groups."""
        groups, left_over = divmod(count, self.filters // self.groups)
        if self.filters <= count or (groups and left_over):
            return None
        groups = groups or 1
        read = inputs[0].shape[1] // self.groups * groups
        return replace(self, filters=count, groups=groups), [inputs[0][:, :read]]

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        (x,), weight = seen.inputs, seen.parameters["weight"]
        groups = self.groups
        yield from bias_mistakes(seen)
        if (other := seen.next_conv) and isinstance(other.operation, Conv) and other.operation.stride != self.stride:
            moved = exchanged(other, replace(other.operation, stride=self.stride))
            own = exchanged(seen, replace(self, stride=other.operation.stride))
            mistake = f"its stride and that of {other.name} are exchanged"
            yield mistake, partial(_if_certified, moved, other.output, own)
        yield from window_mistakes(self, seen)
        yield from border_mistakes(self, seen)
        yield from position_mistakes(self, seen)
        if seen.preprocessing and x.shape[1] <= len(seen.preprocessing.mean):
            yield from image_mistakes(seen, seen.preprocessing)
        if groups > 1:
            rolled = np.roll(x, x.shape[1] // groups, axis=1)
            swapped = {name: np.roll(array, len(array) // groups, axis=0) for name, array in seen.parameters.items()}
            yield "the groups' inputs are swapped", given(seen, rolled)
            yield "the groups' outputs are swapped", given(seen, rolled, **swapped)
            yield "the groups' kernels are swapped", exchanged(seen, weight=swapped["weight"])
            yield "the groups' kernels and biases are swapped", exchanged(seen, **swapped)
            for group in range(groups):
                width, units = x.shape[1] // groups, len(weight) // groups
                same = np.tile(x[:, group * width : (group + 1) * width], (1, groups, 1, 1))
                yield f"every group reads the channels of group {group + 1}", given(seen, same)
                of_one = np.tile(weight[group * units : (group + 1) * units], (groups, 1, 1, 1))
                yield f"every group has the kernels of group {group + 1}", exchanged(seen, weight=of_one)
                only = (np.arange(len(weight)) // units == group).astype(np.float32)
                mistake = f"only group {group + 1} of {groups} is there"
                alone = {
                    name: array * only.reshape(-1, *[1] * (array.ndim - 1)) for name, array in seen.parameters.items()
                }
                yield mistake, exchanged(seen, **alone)
                if groups > 2:
                    continue
                yield f"{mistake}, the other has its bias alone", exchanged(seen, weight=alone["weight"])
            interleaved = x.reshape(len(x), -1, groups, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
            yield "channels are dealt to the groups in turn", given(seen, interleaved)
        yield from _dilations(self, seen)
        if max(weight.shape[2:]) > 1:
            yield "the kernel's height and width are exchanged", exchanged(seen, weight=weight.swapaxes(2, 3))
            yield "the kernel is mirrored from left to right", exchanged(seen, weight=weight[..., ::-1])
            yield "the kernel is upside down", exchanged(seen, weight=weight[:, :, ::-1])
            for turns in (1, 3):
                turned = np.rot90(weight, turns, (2, 3))
                yield f"the kernel is turned by {90 * turns}° counter-clockwise", exchanged(seen, weight=turned)
            flipped = weight[:, :, ::-1, ::-1]
            yield "the kernel is flipped (convolution for cross-correlation)", exchanged(seen, weight=flipped)
        yield from unit_mistakes(seen, "filter")
        if weight.shape[0] == weight.shape[1]:
            yield "the kernel's inputs and outputs are exchanged", exchanged(seen, weight=weight.swapaxes(0, 1))
        hwio = weight.transpose(2, 3, 1, 0)
        for taken in (weight.reshape(hwio.shape).transpose(3, 2, 0, 1), hwio.reshape(weight.shape)):
            yield "the kernel is reshaped where it should be transposed", exchanged(seen, weight=taken)
        yield from precision_mistakes(seen)

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        yield from weights_or_bias_fits(seen, right)


def _bands(kernels: np.ndarray, at_once: int, across: int) -> np.ndarray:
    """Kernels (filters, rows, columns) as band matrices: (filters, rows · columns that are read, columns at once)."""
    filters, rows, columns = kernels.shape
    bands = np.zeros((filters, rows, (at_once - 1) * across + columns, at_once), kernels.dtype)
    by_row = bands.reshape(filters, rows, -1)
    for column in range(columns):
        diagonal = slice(column * at_once, (column + at_once * across) * at_once, at_once * across + 1)
        by_row[:, :, diagonal] = kernels[:, :, column, None]
    return bands.reshape(filters, -1, at_once)


_MANY = 256
"""Rows or columns of a matrix that is multiplied with: enough for that to be fast."""

_ACROSS = 8
"""Columns of the output that a band matrix makes: few, since it is mostly 0, but enough to be fast."""


def _products(operation: Conv, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """∂x and ∂w in the precision of the factors, a few rows at a time."""
    kernel, stride, padding = operation.window(x.shape[1:])
    windows = windows_of(x, kernel, stride, padding)
    batch, channels, height, width = windows.shape[:4]
    w_by_group = w.reshape(operation.groups, operation.filters // operation.groups, -1)
    (top, bottom), (left, right) = padding
    dx = np.zeros((batch, channels, x.shape[2] + top + bottom, x.shape[3] + left + right), x.dtype)
    dw = np.zeros_like(w_by_group)
    rows_at_once = max(1, 4 * ELEMENTS_AT_ONCE // (channels * prod(kernel) * width))
    for image in range(batch):
        for first in range(0, height, rows_at_once):
            block = windows[image, :, first : first + rows_at_once]
            rows = block.shape[1]
            columns = block.transpose(0, 3, 4, 1, 2).reshape(operation.groups, w_by_group.shape[2], rows * width)
            dy_by_group = dy[image, :, first : first + rows].reshape(operation.groups, -1, rows * width)
            dw += dy_by_group @ columns.transpose(0, 2, 1)
            spread = (w_by_group.transpose(0, 2, 1) @ dy_by_group).reshape(channels, *kernel, rows, width)
            for i, j in np.ndindex(*kernel):
                top_row = first * stride[0] + i
                down = slice(top_row, top_row + stride[0] * (rows - 1) + 1, stride[0])
                across = slice(j, j + stride[1] * (width - 1) + 1, stride[1])
                dx[image, :, down, across] += spread[:, i, j]
    return dx[:, :, top : top + x.shape[2], left : left + x.shape[3]], dw.reshape(w.shape)


def _summed_in_float32(terms: int, value: np.ndarray, magnitude: np.ndarray, exponent: int) -> Gradient:
    """`_summed`, for a magnitude in float32 that was divided by a power of two.

    It is at least (1 − γ_n) of the true one; what underflow took from it is added.
    """
    scale = 2.0**exponent
    whole = magnitude * np.float64(scale / (1 - 2 * gamma(terms))) + terms * SMALLEST_NORMAL * (1 + scale)
    return summed(terms, value, whole)


def _dilations(operation: Conv, seen: Observation) -> Iterator[Hypothesis]:
    """A dilated kernel is a larger one with zeros in it."""
    weight, padding = seen.parameters["weight"], operation.window(seen.inputs[0].shape[1:])[2]
    for step in (2, 3):
        height, width = (step * (length - 1) + 1 for length in weight.shape[2:])
        dilated = np.zeros((*weight.shape[:2], height, width), np.float32)
        dilated[:, :, ::step, ::step] = weight
        wider: Padding = ((step * padding[0][0], step * padding[0][1]), (step * padding[1][0], step * padding[1][1]))
        for pads in (padding, wider):
            larger = replace(operation, kernel=(height, width), padding=pads)
            yield f"the kernel is dilated by {step}", exchanged(seen, larger, weight=dilated)


def _if_certified(condition: Evaluation, output: np.ndarray, evaluation: Evaluation) -> Reference:
    """An evaluation that counts only if another layer's output is within the bound of a mistake, too."""
    reference = condition()
    assert reference.bound is not None
    if output.shape != reference.value.shape or not (np.abs(output - reference.value) <= reference.bound).all():
        raise ValueError("the other layer does not have its part of the mistake")
    return evaluation()
