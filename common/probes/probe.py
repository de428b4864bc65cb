"""What a probe is, and when integers are exact in float32."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from common.specs.architecture import AdaptiveAveragePool, AveragePool, GlobalAveragePool, Operation, Shape
from common.weights import Weights

EXACT_LIMIT = 2.0**24
"""Integers of smaller magnitude, and sums of them, are exact in float32."""


@dataclass(frozen=True)
class Probe:
    """What every backend is given, and, for an exact probe, what it must answer."""

    name: str
    weights: Weights
    image: np.ndarray
    """float32, (N, C, H, W)."""
    injected: dict[str, np.ndarray] = field(default_factory=dict)
    """Values that replace a layer's output for the layers that read it, after its own output has been recorded."""
    expected: dict[str, np.ndarray] = field(default_factory=dict)
    """float32, the only correct output of each layer whose arithmetic is exact; empty if the probe is not exact."""
    bounded: dict[str, str] = field(default_factory=dict)
    """In an exact probe, the layers that cannot be exact, and how each is handled."""


def quantum_behind(operation: Operation, shape: Shape, quantum: float) -> float:
    """The power of two that an operation's outputs are multiples of if its inputs are multiples of `quantum`.

    What an average is divided by must be a power of two for that; where it is not, the layer rounds anyway.
    """
    if isinstance(operation, AveragePool):
        return quantum / prod(operation.window(shape)[0])
    if isinstance(operation, AdaptiveAveragePool):
        return quantum / prod(stop - start for n in shape[1:] for start, stop in operation.windows(n)[:1])
    if isinstance(operation, GlobalAveragePool):
        return quantum / prod(shape[1:])
    return quantum


def quantum_of(array: np.ndarray) -> float:
    """The power of two that all elements are multiples of, if there is one down to 2^-16; else 0."""
    for exponent in range(0, 17, 4):
        scaled = np.ldexp(array, exponent)
        if (scaled == np.rint(scaled)).all():
            return 2.0**-exponent
    return 0.0
