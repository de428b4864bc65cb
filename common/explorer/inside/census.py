"""Statistics of a layer's weights: their distribution, and how many are dead, duplicates or outliers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.operations import Conv, Dense
from common.operations.rounding import UNIT_ROUNDOFF
from common.specs.architecture import Architecture
from common.weights import Weights

BINS = 48
"""The number of bins of a histogram."""

FAR_OUT = 3.0
"""Distance from the quartiles, in quartile ranges: Tukey's outer fences. One in 400,000 values of a normal distribution
lies outside."""


@dataclass(frozen=True)
class Census:
    """The kernel of a convolution or a dense layer, counted."""

    layer: str
    shape: tuple[int, ...]
    groups: int
    low: float
    high: float
    """The least and the largest value that is finite; 0 if there is none."""
    histograms: tuple[tuple[int, ...], ...]
    """The histogram of each group, with `BINS` equal steps from the layer's least value to its largest."""
    dead: tuple[int, ...]
    """Filters with no weight except 0, or weights so small that float32 loses them in a sum with the layer's
    largest."""
    duplicates: tuple[tuple[int, int], ...]
    """Filters with the same bits as an earlier one, and that one; without dead ones."""
    outliers: int
    """Values that lie beyond `FAR_OUT`."""
    not_finite: int
    """Values that are NaN or infinite."""
    first_not_finite: tuple[int, ...] | None = None
    """The place of the first of these: filter, channel, row, column."""

    @cached_property
    def told(self) -> str:
        """The statistics in words."""
        counts = [f"{len(self.dead)} dead", f"{len(self.duplicates)} duplicates", f"{self.outliers:,} outliers"]
        if self.not_finite:
            counts.append(f"{self.not_finite:,} NaN or infinite, the first at {list(self.first_not_finite or ())}")
        return ", ".join(counts)


def census(layer: str, kernel: np.ndarray, groups: int = 1) -> Census:
    """Compute the statistics of a kernel.

    Args:
        layer: what it is called.
        kernel: (filters, …), float32.
        groups: the number of groups of its filters, one after the other.
    """
    rows = np.ascontiguousarray(kernel).reshape(len(kernel), -1)
    finite = np.isfinite(rows)
    values = rows[finite] if not finite.all() else rows.ravel()
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    largest = np.where(finite, np.abs(rows), np.inf).max(axis=1, initial=0)
    dead = np.flatnonzero(largest <= UNIT_ROUNDOFF * max(-low, high))
    places = np.argwhere(~np.isfinite(kernel))
    return Census(
        layer,
        kernel.shape,
        groups,
        low,
        high,
        tuple(_histogram(part, low, high) for part in np.split(rows, groups)),
        tuple(dead.tolist()),
        tuple(_duplicates(rows, {*dead.tolist()})),
        _outliers(values),
        len(places),
        tuple(places[0].tolist()) if len(places) else None,
    )


def _histogram(rows: np.ndarray, low: float, high: float) -> tuple[int, ...]:
    if low == high:
        return (int(np.isfinite(rows).sum()),)
    counts, _ = np.histogram(rows[np.isfinite(rows)], BINS, (low, high))
    return tuple(counts.tolist())


def _duplicates(rows: np.ndarray, left_out: set[int]) -> Iterator[tuple[int, int]]:
    first: dict[bytes, int] = {}
    for number, row in enumerate(rows):
        if number not in left_out and (earlier := first.setdefault(row.tobytes(), number)) != number:
            yield number, earlier


def _outliers(values: np.ndarray) -> int:
    if not values.size:
        return 0
    lower, upper = np.percentile(values, (25, 75))
    reach = FAR_OUT * (upper - lower)
    return int(np.count_nonzero((values < lower - reach) | (values > upper + reach)))


def censuses(spec: Architecture, weights: Weights) -> list[Census]:
    """The statistics of every convolution and dense layer of a network, in order."""
    return [
        census(layer.name, weights[f"{layer.name}/weight"], getattr(layer.operation, "groups", 1))
        for layer in spec.layers
        if isinstance(layer.operation, Conv | Dense)
    ]
