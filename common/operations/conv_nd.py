"""Convolutions over any number of axes, dilated or transposed. The catalogue's is `Conv`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.conv import Conv
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxGraph, OnnxNode, Parameter, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Fit, Found, Hypothesis, Observation
from common.operations.rounding import CARRIED, Precision, Reference, gamma
from common.operations.sums import (
    Sums,
    bias_mistakes,
    carried_by_products,
    of_shorter_factors,
    precision_mistakes,
    unit_of_products,
    weights_or_bias_fits,
)
from common.operations.windows import OnnxWindow, Paddings, pads_of


def taps(
    x: np.ndarray,
    kernel: Shape,
    stride: Shape,
    dilation: Shape,
    padding: Paddings,
    fill: float = 0.0,
) -> Iterator[tuple[Shape, np.ndarray]]:
    """For each element of a kernel, its index and the values of x (N, C, …) that it meets at every position of the
    window."""
    padded = np.pad(x, ((0, 0), (0, 0), *padding), constant_values=fill) if any(map(any, padding)) else x
    lengths = [
        (size - (length - 1) * apart - 1) // step + 1
        for size, length, step, apart in zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    ]
    for index in np.ndindex(*kernel):
        where = [
            slice(place * apart, place * apart + (length - 1) * step + 1, step)
            for place, apart, length, step in zip(index, dilation, lengths, stride, strict=True)
        ]
        yield index, padded[(slice(None), slice(None), *where)]


def kernel_of(node: OnnxNode) -> tuple[Shape, dict[str, int]]:
    """The shape of a convolution's kernel, and which of the node's inputs are its parameters."""
    return node.shape(1, "its kernel"), {"weight": 1} | ({"bias": 2} if node.has(2) else {})


@reads("Conv")
@dataclass(frozen=True)
class ConvND(ArrayOperation):
    """Cross-correlation over the axes after the second, with zero padding, in groups; kernels (out, in / groups, …).

    Source: ONNX Conv.
    """

    stride: Shape
    dilation: Shape
    padding: Paddings
    groups: int = 1

    integers_before: ClassVar[int] = 1

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A sum of n − 1 products and a bias: |ŷ − y| ≤ γ_n (Σ|w·a| + |b|), n = fan-in + 1; see `Conv`."""
        (x,), weight = inputs, parameters["weight"]
        sums = Sums(weight, x)
        factors = zip(sums.scaled(x, 1), sums.scaled(weight, 0), strict=True)
        products = [self._summed(a, w) for a, w in factors]
        return sums.reference(products, parameters.get("bias"), self._terms(weight))

    def _terms(self, weight: np.ndarray) -> int:
        """How many products an element sums, at most."""
        return prod(weight.shape[1:])

    def _summed(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        batch, filters, groups = len(x), len(weight), self.groups
        by_group = weight.reshape(groups, filters // groups, *weight.shape[1:])
        total: np.ndarray | None = None
        positions: Shape = ()
        for index, part in taps(x, weight.shape[2:], self.stride, self.dilation, self.padding):
            positions = part.shape[2:]
            columns = np.ascontiguousarray(part.reshape(batch, groups, weight.shape[1], -1))
            at_place: tuple[Any, ...] = (..., *index)
            product = by_group[at_place][None] @ columns
            total = product if total is None else np.add(total, product, out=total)
        assert total is not None
        return total.reshape(batch, filters, *positions)

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        return unit_of_products(inputs, parameters)

    def computed_at(self, reference: Reference, bound: np.ndarray, precision: Precision) -> np.ndarray:
        return of_shorter_factors(reference, bound, precision)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return carried_by_products(self, errors, parameters)

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        """The catalogue's operation, if it can express the node."""
        shape, parameters = kernel_of(node)
        window, groups, biased = OnnxWindow.of(node, shape[2:]), node.attributes.get("group", 1), "bias" in parameters
        if not window.plain:
            return Found(cls(window.stride, window.dilation, window.padding, groups), parameters=parameters)
        (height, width), (down, across), (rows, columns) = window.kernel, window.stride, window.padding
        conv = Conv((height, width), (down, across), (rows, columns), filters=shape[0], groups=groups, bias=biased)
        return Found(conv, parameters=parameters)

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        weight = parameters["weight"]
        assert weight is not None
        numbers = {"kernel_shape": weight.shape[2:], "strides": self.stride, "pads": pads_of(self.padding)}
        values = graph.constants(name, weight=weight, bias=parameters.get("bias"))
        return graph.node("Conv", name, *inputs, *values, dilations=self.dilation, group=self.groups, **numbers)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        weight = seen.parameters["weight"]
        yield from bias_mistakes(seen)
        if set(self.dilation) != {1}:
            plain = tuple(1 for _ in self.dilation)
            yield "the kernel is not dilated", exchanged(seen, replace(self, dilation=plain))
            halves = tuple((size - 1) // 2 for size in weight.shape[2:])
            padding = tuple((half, half) for half in halves)
            undilated = replace(self, dilation=plain, padding=padding)
            yield "the kernel is not dilated, nor the padding", exchanged(seen, undilated)
        axes = tuple(range(2, weight.ndim))
        if max(weight.shape[2:]) > 1:
            flipped = np.flip(weight, axes)
            yield "the kernel is flipped (convolution for cross-correlation)", exchanged(seen, weight=flipped)
        yield from precision_mistakes(seen)

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        yield from weights_or_bias_fits(seen, right)


@reads("ConvTranspose")
@dataclass(frozen=True)
class ConvTranspose(ConvND):
    """The transpose of a convolution, which spreads each value over a window; kernels (in, out / groups, …).

    `padding` is cut off at the ends, `beyond` is added at the far ones. Source: ONNX ConvTranspose.
    """

    beyond: Shape = ()

    def _terms(self, weight: np.ndarray) -> int:
        return len(weight) // self.groups * prod(weight.shape[2:])

    def _summed(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        batch, groups, sizes, kernel = len(x), self.groups, x.shape[2:], weight.shape[2:]
        filters = weight.shape[1] * groups
        whole = [
            (size - 1) * step + (length - 1) * apart + 1 + more
            for size, step, length, apart, more in zip(
                sizes, self.stride, kernel, self.dilation, self.beyond or (0,) * len(sizes), strict=True
            )
        ]
        out = np.zeros((batch, filters, *whole), x.dtype)
        by_group = x.reshape(batch, groups, -1, prod(sizes))
        kernels = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
        for index in np.ndindex(*kernel):
            factors = kernels[(..., *index)].swapaxes(1, 2)
            where = [
                slice(place * apart, place * apart + (size - 1) * step + 1, step)
                for place, apart, size, step in zip(index, self.dilation, sizes, self.stride, strict=True)
            ]
            out[(slice(None), slice(None), *where)] += (factors[None] @ by_group).reshape(batch, filters, *sizes)
        kept = [slice(before, length - after) for (before, after), length in zip(self.padding, whole, strict=True)]
        return out[(slice(None), slice(None), *kept)]

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """|W|·e, and as much of it again as rounding makes."""
        weight = np.abs(parameters["weight"])
        spread = self._summed(errors[0], weight.astype(np.float64))
        return (1 + gamma(self._terms(weight) + 1)) * CARRIED * spread

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        shape, parameters = kernel_of(node)
        window, groups = OnnxWindow.of(node, shape[2:]), node.attributes.get("group", 1)
        if node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
            raise Unread("its padding follows from the shape of its result")
        beyond = tuple(node.attributes.get("output_padding", [0] * len(window.kernel)))
        return Found(cls(window.stride, window.dilation, window.padding, groups, beyond), parameters=parameters)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield from bias_mistakes(seen)
        axes = tuple(range(2, seen.parameters["weight"].ndim))
        yield "the kernel is flipped", exchanged(seen, weight=np.flip(seen.parameters["weight"], axes))
