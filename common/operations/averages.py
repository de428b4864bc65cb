"""The divisor of an average, and what follows from it."""

from __future__ import annotations

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.operation import Operation
from common.operations.rounding import SMALLEST_NORMAL, UNIT_ROUNDOFF, Reference, gamma, unit_of
from common.operations.wgsl import QUOTIENT


class Averaging(Operation):
    """Means of n values each.

    n − 1 additions and a division, or a product with a rounded 1/n: |ŷ − y| ≤ γ_(n+1) Σ|x| / n. Dividing by a power of
    two is exact. Only then the mean of integers must be right to the bit.
    """

    def divisors(self, shape: Shape) -> np.ndarray | int:
        """The number of values of each mean, on an input of this shape with the batch axis."""
        raise NotImplementedError(f"the divisor of {self.kind} has not been derived")

    def divides_exactly(self, shape: Shape) -> bool:
        """Whether these numbers are powers of two."""
        return all(int(count).bit_count() == 1 for count in np.unique(self.divisors(shape)))

    def averaged(self, shape: Shape, value: np.ndarray, magnitude: np.ndarray) -> Reference:
        """The reference of means, from the means and the means of magnitudes in float64, on an input of this shape."""
        most = int(np.max(self.divisors(shape)))
        bound = gamma(most + 1) * magnitude + most * SMALLEST_NORMAL
        return Reference(value, bound, magnitude if self.divides_exactly(shape) else None)

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        return unit_of(inputs[0]) / float(np.max(self.divisors(inputs[0].shape)))

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """The quotient is off by 5u, not by one rounding."""
        return bound + (QUOTIENT - 1) * UNIT_ROUNDOFF * np.abs(reference.value)
