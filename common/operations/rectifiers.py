"""Piecewise linear activations, and relatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, np
from common.operations.mistake import exchanged, factor_fits
from common.operations.onnx_node import OnnxNode
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Fit, Found, Hypothesis, Observation, in_double
from common.operations.rounding import CARRIED, ELEMENTARY_ULP, SMALLEST_NORMAL, UNIT_ROUNDOFF, Reference, gamma
from common.operations.wgsl import of_exponential


@reads("Clip")
@dataclass(frozen=True)
class Clip(ArrayOperation):
    """x, but not below `low` nor above `high`: a choice, nothing is rounded. Source: ONNX Clip."""

    low: float | None = None
    high: float | None = None
    elementwise: ClassVar[bool] = True
    channelwise: ClassVar[bool] = True

    contracts: ClassVar[bool] = True

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        (x,) = inputs
        low, high = (None if end is None else x.dtype.type(end) for end in (self.low, self.high))
        return Reference(x if low is None and high is None else np.clip(x, low, high))

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        return Found(cls(node.scalar(1, "min", None), node.scalar(2, "max", None)))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        if self.high is not None:
            yield "it is not capped", exchanged(seen, Clip(self.low))
        for high in (1.0, 5.0, 6.0, 20.0):
            if high != self.high:
                yield f"it is capped at {high:g}", exchanged(seen, Clip(self.low, high))


RELU = Clip(low=0.0)
"""max(x, 0), which is used instead of these by mistake. `ReLU`, the layer, has these curves among its own mistakes."""


@reads("LeakyRelu")
@dataclass(frozen=True)
class LeakyReLU(ArrayOperation):
    """x where it is not negative, slope · x elsewhere. Source: ONNX LeakyRelu."""

    slope: float = 0.01
    elementwise: ClassVar[bool] = True
    sums_and_products: ClassVar[bool] = True
    channelwise: ClassVar[bool] = True

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A product with a rounded slope: |ŷ − y| ≤ γ_2 |y| where x is negative, nothing elsewhere."""
        (x,) = in_double(*inputs)
        value = np.where(x >= 0, x, self.slope * x)
        return Reference(value, np.where(x >= 0, 0, gamma(2) * np.abs(value)) + SMALLEST_NORMAL)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * max(1, abs(self.slope)) * errors[0]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        return Found(cls(node.attributes.get("alpha", 0.01)))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield "a ReLU is taken, not a leaky one", exchanged(seen, RELU)
        for slope in (0.01, 0.1, 0.2, 0.25, 0.3):
            if slope != self.slope:
                yield f"the slope is {slope:g}, not {self.slope:g}", exchanged(seen, replace(self, slope=slope))

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        (x,) = in_double(*seen.inputs)
        yield from factor_fits(seen, Reference(np.maximum(x, 0)), np.minimum(x, 0), "negative values are")


@reads("PRelu")
@dataclass(frozen=True)
class PReLU(ArrayOperation):
    """As `LeakyReLU`, with a slope that is an input, broadcast. Source: ONNX PRelu."""

    elementwise: ClassVar[bool] = True
    sums_and_products: ClassVar[bool] = True

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        x, slope = in_double(*inputs)
        value = np.where(x >= 0, x, slope * x)
        return Reference(value, np.where(x >= 0, 0, gamma(1) * np.abs(value)) + SMALLEST_NORMAL)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield "a ReLU is taken, not a parametric one", exchanged(seen, RELU, [seen.inputs[0]])


@reads("Elu", "Selu")
@dataclass(frozen=True)
class ELU(ArrayOperation):
    """`scale` times x where it is positive, alpha · (exp(x) − 1) elsewhere. Source: ONNX Elu, Selu."""

    alpha: float = 1.0
    scale: float = 1.0
    elementwise: ClassVar[bool] = True
    integers_before: ClassVar[int] = 1
    channelwise: ClassVar[bool] = True
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """Where x is negative |ŷ − y| ≤ γ_(E+4) |alpha|: exp(x) is below 1, and 1 is subtracted."""
        (x,) = in_double(*inputs)
        value = self.scale * np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0)))
        operations = 0 if self.scale == 1 else 2  # the rounding of the scale, and a product
        negative = gamma(ELEMENTARY_ULP + 4 + operations) * abs(self.scale * self.alpha)
        bound = np.where(x > 0, gamma(operations) * np.abs(value), negative)
        return Reference(value, bound + SMALLEST_NORMAL)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """The exponential of `common.operations.wgsl`, where a CPU's bound has E."""
        x = np.minimum(inputs[0].astype(np.float64), 0)
        more = (of_exponential(x) - ELEMENTARY_ULP) * np.exp(x)
        return bound + np.where(x < 0, CARRIED * UNIT_ROUNDOFF * abs(self.scale * self.alpha) * more, 0)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * abs(self.scale) * max(1, abs(self.alpha)) * errors[0]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        usual = SELU if node.kind == "Selu" else cls()
        return Found(cls(node.attributes.get("alpha", usual.alpha), node.attributes.get("gamma", usual.scale)))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield "a ReLU is taken, not an ELU", exchanged(seen, RELU)
        if self.alpha != 1:
            yield "alpha is 1", exchanged(seen, ELU())


SELU = ELU(alpha=1.6732632423543772, scale=1.0507009873554805)
"""Source: Klambauer et al. 2017, equation 2; ONNX Selu."""


def clipped(unclipped: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A value clipped to 0…1, and its bound, which is 0 where it is beyond an end by more than the bound."""
    inside = (unclipped > -bound) & (unclipped < 1 + bound)
    return unclipped.clip(0, 1), np.where(inside, bound, 0)


@reads("HardSigmoid")
@dataclass(frozen=True)
class HardSigmoid(ArrayOperation):
    """alpha · x + beta, between 0 and 1. Source: ONNX HardSigmoid."""

    alpha: float = 0.2
    beta: float = 0.5
    elementwise: ClassVar[bool] = True
    sums_and_products: ClassVar[bool] = True
    channelwise: ClassVar[bool] = True
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """The rounding of two numbers, a product, a sum: γ_3 (|alpha x| + |beta|); clipping brings nothing apart."""
        (x,) = in_double(*inputs)
        size = np.abs(self.alpha * x) + abs(self.beta)
        value, bound = clipped(self.alpha * x + self.beta, gamma(3) * size)
        return Reference(value, bound + 2 * SMALLEST_NORMAL)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * abs(self.alpha) * errors[0]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        return Found(cls(node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        for alpha, told in ((0.2, "1/5"), (1 / 6, "1/6")):
            if abs(alpha - self.alpha) > 1e-6:
                yield f"the slope is {told}, not {self.alpha:.4g}", exchanged(seen, replace(self, alpha=alpha))


@reads("HardSwish")
@dataclass(frozen=True)
class HardSwish(ArrayOperation):
    """x · min(max(x + 3, 0), 6) / 6. Source: Howard et al. 2019, section 5.2; ONNX HardSwish."""

    elementwise: ClassVar[bool] = True
    sums_and_products: ClassVar[bool] = True  # a shader multiplies by 1/6
    channelwise: ClassVar[bool] = True
    rounds_once: ClassVar[bool] = False

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """|x| times the error of the hard sigmoid, in either order of the division by 6, and two products more."""
        (x,) = in_double(*inputs)
        factor, bound = clipped(x / 6 + 0.5, gamma(4) * (np.abs(x) / 6 + 0.5))
        return Reference(x * factor, np.abs(x) * bound + gamma(3) * np.abs(x * factor) + 2 * SMALLEST_NORMAL)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """Its slope is between −1/2 and 3/2."""
        return CARRIED * 1.5 * errors[0]

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        yield "a ReLU is taken, not a hard swish", exchanged(seen, RELU)
        yield "it is not multiplied by x (hard sigmoid)", exchanged(seen, HardSigmoid(1 / 6))
