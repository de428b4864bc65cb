"""What joins branches by arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from common.errors import TriptychError
from common.numerics import np
from common.operations.mistake import Fit, Hypothesis, Observation, exchanged, factor_fits
from common.operations.operation import Arrays, Operation, Parameters, Shape
from common.operations.rounding import CARRIED, SMALLEST_NORMAL, Gradients, Reference, chosen, gamma


@dataclass(frozen=True)
class Add(Operation):
    """The sum of its inputs, element by element."""

    channelwise: ClassVar[bool] = True
    rounds_once: ClassVar[bool] = False

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(set(self._every(inputs))) != 1:
            raise TriptychError(f"maps of different shapes cannot be added: {', '.join(map(str, inputs))}")
        return inputs[0]

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """m − 1 additions of m inputs: |ŷ − y| ≤ γ_(m−1) Σ|x|."""
        value = np.sum([x.astype(np.float64) for x in inputs], axis=0)
        magnitude = np.sum([np.abs(x.astype(np.float64)) for x in inputs], axis=0)
        return Reference(value, gamma(len(inputs) - 1) * magnitude + len(inputs) * SMALLEST_NORMAL, magnitude)

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        return Gradients([chosen(dy.astype(np.float64)) for _ in inputs])

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return CARRIED * np.sum(errors, axis=0)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        inputs = [x.astype(np.float64) for x in seen.inputs]
        for number, x in enumerate(inputs, start=1):
            yield f"only operand {number} of {len(inputs)} is there", partial(Reference, x)
        for number, x in enumerate(seen.inputs):
            others = [*seen.inputs[:number], np.maximum(x, 0), *seen.inputs[number + 1 :]]
            mistake = f"a ReLU is applied to operand {number + 1} before the addition"
            yield mistake, exchanged(seen, None, others)
        if len(inputs) == 2:
            (left, right), (x, y) = inputs, seen.inputs
            yield "operand 2 is subtracted", exchanged(seen, None, [x, -y])
            yield "operand 1 is subtracted", exchanged(seen, None, [-x, y])
            yield "the operands are multiplied", partial(Reference, left * right, gamma(1) * np.abs(left * right))
            yield "the larger operand is taken", partial(Reference, np.maximum(left, right))
            half = (left + right) / 2
            yield "the operands are averaged", partial(Reference, half, gamma(2) * (np.abs(left) + np.abs(right)))

    def fits(self, seen: Observation, right: Reference) -> Iterator[Fit]:
        for number, x in enumerate(seen.inputs, start=1):
            others = Reference(right.value - x, right.bound)
            yield from factor_fits(seen, others, x.astype(np.float64), f"operand {number} is")
