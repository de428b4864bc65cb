"""What a probe consists of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from common.weights import Weights


@dataclass(frozen=True)
class Probe:
    """The inputs of every backend and, for an exact probe, the right outputs."""

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


def quantum_of(array: np.ndarray) -> float:
    """The power of two that all elements are multiples of, if there is one down to 2^-16; else 0."""
    for exponent in range(0, 17, 4):
        scaled = np.ldexp(array, exponent)
        if (scaled == np.rint(scaled)).all():
            return 2.0**-exponent
    return 0.0
