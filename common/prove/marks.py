"""Finds which variable of a model each constant of its graph is. Each variable is marked with unique numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import TriptychError

Arrays = Mapping[str, np.ndarray]

_VECTORS = 0.5, 2.0
"""The range of the marks of vectors. A variance among them must be positive."""
_TENSORS = 4.0, 2.0**60


@dataclass(frozen=True)
class Place:
    """The places of a constant's numbers in the model's variables."""

    variable: str
    indices: np.ndarray
    """int64, of the constant's shape: the index of each number in the flattened variable."""


@dataclass(frozen=True)
class Scale:
    """The variables of a per-channel scale, gamma / √(variance + eps)."""

    gamma: str | None
    """None: gamma is 1."""
    variance: str
    eps: float


class Marks:
    """Unique numbers for every variable."""

    def __init__(self, variables: Arrays, seed: int = 0) -> None:
        """Choose the marks.

        Args:
            variables: float32, by name, as the model has them.
            seed: the seed of their order.

        Raises:
            TriptychError: the model has more numbers than there are marks.
        """
        variables = dict(sorted(variables.items()))  # in whatever order a process or a file lists them
        self.vectors = {name: array for name, array in variables.items() if array.ndim < 2}
        tensors = {name: array for name, array in variables.items() if array.ndim > 1}
        self._names = list(tensors)
        self._starts = np.cumsum([0, *(array.size for array in tensors.values())])
        self._first, end = (int(np.float32(limit).view(np.int32)) for limit in _TENSORS)
        low, high = (int(np.float32(limit).view(np.int32)) for limit in _VECTORS)
        count = sum(array.size for array in self.vectors.values())
        if self._starts[-1] > end - self._first or count > (high - low) // 2:
            raise TriptychError(f"the second model has {self._starts[-1] + count} weights, more than can be told apart")
        apart = (high - low) // max(count, 1)
        order = np.random.default_rng(seed).permutation(count)
        bits = (low + order * apart).astype(np.int32)
        self._sorted = np.argsort(bits)
        self._bits = bits[self._sorted]
        self._vector_names = list(self.vectors)
        self._vector_starts = np.cumsum([0, *(array.size for array in self.vectors.values())])
        self.arrays: dict[str, np.ndarray] = {}
        for name, start in zip(self._vector_names, self._vector_starts, strict=False):
            array = self.vectors[name]
            self.arrays[name] = bits[start : start + array.size].view(np.float32).reshape(array.shape)
        for name, start in zip(self._names, self._starts, strict=False):
            array, first = tensors[name], self._first + int(start)
            self.arrays[name] = (
                np.arange(first, first + array.size, dtype=np.int32).view(np.float32).reshape(array.shape)
            )

    def place(self, constant: np.ndarray) -> Place | None:
        """The place of a constant of the marked model; None if it is no rearrangement of one variable."""
        if constant.dtype != np.float32 or not constant.size:
            return None
        bits = np.ascontiguousarray(constant).view(np.int32)
        found = bits - self._first
        if (found >= 0).all() and (found < self._starts[-1]).all():
            return _within(found.astype(np.int64), self._names, self._starts)
        if not len(self._bits):
            return None
        near = np.searchsorted(self._bits, bits).clip(0, len(self._bits) - 1)
        if not (self._bits[near] == bits).all():
            return None
        return _within(self._sorted[near], self._vector_names, self._vector_starts)

    def scale(self, constant: np.ndarray) -> Scale | None:
        """The variables that a scale of the marked model is computed from."""
        return scale_of(constant, {name: self.arrays[name] for name in self.vectors})


def _within(found: np.ndarray, names: Sequence[str], starts: np.ndarray) -> Place | None:
    variable = int(np.searchsorted(starts, found.flat[0], side="right")) - 1
    if not ((found >= starts[variable]) & (found < starts[variable + 1])).all():
        return None
    return Place(names[variable], found - int(starts[variable]))


def scale_of(constant: np.ndarray, vectors: Arrays) -> Scale | None:
    """The gamma, variance and eps of a per-channel scale: (gamma / scale)² − variance is eps.

    Args:
        constant: the scale, float32.
        vectors: the candidates.
    """
    scale = constant.reshape(-1).astype(np.float64)
    alike = {name: array.reshape(-1).astype(np.float64) for name, array in vectors.items() if array.size == scale.size}
    if not alike or not scale.all():
        return None
    names = list(alike)
    variances = np.stack([alike[name] for name in names])
    for gamma, array in (*alike.items(), (None, np.ones_like(scale))):
        if not array.all():  # such as the mean of a model that was never trained
            continue
        square = np.square(array / scale)
        eps = square - variances
        noise = 2.0**-20 * square.max()
        fits = (np.ptp(eps, axis=1) <= noise) & (np.abs(np.median(eps, axis=1)) <= 0.1)
        for row in np.flatnonzero(fits & (np.median(eps, axis=1) >= -noise)):
            if names[row] != gamma:
                return Scale(gamma, names[row], _rounded(float(np.median(eps[row])), float(noise)))
    return None


def _rounded(eps: float, noise: float) -> float:
    """The nearest round number, as a programmer writes it; the number itself, if no round one is within the noise."""
    round_numbers = [0.0, *(float(f"{digit}e-{exponent}") for exponent in range(2, 9) for digit in (1, 2, 5))]
    nearest = min(round_numbers, key=lambda number: abs(eps - number))
    return nearest if abs(eps - nearest) <= noise else max(eps, 0.0)
