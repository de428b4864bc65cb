"""Numbers that are computed step by step, each with the error that float32 may have made in it so far.

The sizes of factors include their errors, so nothing of second order is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.operations.arrays import np
from common.operations.rounding import ELEMENTARY_ULP, SMALLEST_NORMAL, UNIT_ROUNDOFF, gamma
from common.operations.smooth import logistic
from common.operations.wgsl import TANH


@dataclass(frozen=True)
class Doubtful:
    """Numbers in float64, and how far those that float32 computes may be from them."""

    value: np.ndarray
    error: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """The largest magnitude of what float32 computes."""
        return np.abs(self.value) + self.error

    def __getitem__(self, place: int) -> Doubtful:
        return Doubtful(self.value[place], self.error[place])

    def put(self, place: int | tuple[int, int], part: Doubtful) -> None:
        self.value[place], self.error[place] = part.value, part.error

    def moved(self, axis: int, to: int) -> Doubtful:
        return Doubtful(np.moveaxis(self.value, axis, to), np.moveaxis(self.error, axis, to))

    def rounded(self) -> Doubtful:
        """As what it was before it was stored in float32."""
        return Doubtful(self.value, self.error + UNIT_ROUNDOFF * self.size + SMALLEST_NORMAL)

    def times(self, other: Doubtful) -> Doubtful:
        """A product: |âb̂ − ab| ≤ |a| f + e |b| + e f, and a rounding of |âb̂|."""
        value, size = self.value * other.value, self.size * other.size
        return Doubtful(value, size - np.abs(value) + UNIT_ROUNDOFF * size + SMALLEST_NORMAL)

    def plus(self, other: Doubtful) -> Doubtful:
        """A sum, and a rounding of it."""
        rounding = UNIT_ROUNDOFF * (self.size + other.size) + SMALLEST_NORMAL
        return Doubtful(self.value + other.value, self.error + other.error + rounding)

    def sigmoid(self, *, shader: bool = False) -> Doubtful:
        """1 / (1 + exp(−z)). The slope, 1/4 at most, is that of the place within the error that is nearest to 0. The
        function itself is off by u (E + 3) (y + 1/2), as in `Sigmoid`. A WebGPU shader puts z between −20 and 20, which
        changes y by 2^-28 at most, and is off as in `Sigmoid.in_shader`: y (1 − y) |z| is below 1/4, so that
        y ((1 − y) (2 + 4|z|) + 4) is below 3/2 + 4y."""
        value, steepest = logistic(self.value), logistic(np.maximum(np.abs(self.value) - self.error, 0))
        moved = np.minimum(steepest * (1 - steepest) * self.error, 1)
        own = UNIT_ROUNDOFF * (ELEMENTARY_ULP + 3) * (value + moved + 0.5)
        if shader:
            own = own + UNIT_ROUNDOFF * (1.5 + 4 * (value + moved)) + 2.0**-28
        return Doubtful(value, moved + own + SMALLEST_NORMAL)

    def tanh(self, *, shader: bool = False) -> Doubtful:
        """The slope, 1 at most, as in `sigmoid`. The function itself is off by γ_(E+5) |y|, as in `ScaledTanh`. A
        WebGPU shader puts z between −10 and 10, which changes y by 2^-27 at most, and takes the language's own."""
        value, flattest = np.tanh(self.value), np.tanh(np.maximum(np.abs(self.value) - self.error, 0))
        moved = np.minimum((1 - np.square(flattest)) * self.error, 2)
        own = gamma(ELEMENTARY_ULP + 5) * (np.abs(value) + moved)
        if shader:
            own = own + UNIT_ROUNDOFF * TANH + 2.0**-27
        return Doubtful(value, moved + own + SMALLEST_NORMAL)


@dataclass(frozen=True)
class Terms:
    """A sum of products whose terms are summed in any order: what they lead to, and the sum of their magnitudes."""

    value: np.ndarray
    error: np.ndarray
    magnitude: np.ndarray

    @classmethod
    def of(cls, x: Doubtful, weight: np.ndarray, bias: np.ndarray) -> Terms:
        """x · weightᵀ + bias; weight is (units, features). A factor that underflows is flushed."""
        across = np.abs(weight).T
        lost = SMALLEST_NORMAL * (x.size.sum(axis=-1, keepdims=True) + across.sum(axis=0))
        return cls(x.value @ weight.T + bias, x.error @ across + lost, x.size @ across + np.abs(bias))

    @classmethod
    def product(cls, product: Doubtful) -> Terms:
        """One term more."""
        return cls(product.value, product.error, product.size)

    def __add__(self, other: Terms) -> Terms:
        return Terms(self.value + other.value, self.error + other.error, self.magnitude + other.magnitude)

    def __getitem__(self, place: int) -> Terms:
        return Terms(self.value[place], self.error[place], self.magnitude[place])

    def split(self, *units: int) -> list[Terms]:
        """Its parts, cut at these units."""
        parts = (np.split(array, units, axis=-1) for array in (self.value, self.error, self.magnitude))
        return [Terms(*arrays) for arrays in zip(*parts, strict=True)]

    def summed(self, terms: int) -> Doubtful:
        """The sum of so many terms: γ_n of their magnitudes (Higham, section 3.1)."""
        return Doubtful(self.value, self.error + gamma(terms + 1) * self.magnitude + terms * SMALLEST_NORMAL)
