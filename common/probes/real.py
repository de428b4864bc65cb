"""Probes with real numbers: seeded or given weights, on random numbers and on photographs."""

from __future__ import annotations

import numpy as np

from common.operations import LRN
from common.probes.probe import Probe
from common.specs.architecture import IMAGE, Architecture
from common.specs.photographs import photographs
from common.specs.seeded import initial_weights, seeded_generator
from common.weights import Weights


def random_probe(spec: Architecture, *, seed: int = 0, batch: int = 2, weights: Weights | None = None) -> Probe:
    """Seeded weights, or those given, on normal random numbers with a standard deviation of 64."""
    image = seeded_generator(seed, IMAGE).standard_normal((batch, *spec.input_shape), dtype=np.float32)
    return Probe("random", weights or initial_weights(spec, seed), image * np.float32(64))


def magnitude_probe(
    spec: Architecture, exponent: int, name: str, *, seed: int = 0, batch: int = 2, weights: Weights | None = None
) -> Probe:
    """The random probe, with its image and everything that is added on the way multiplied by 2^exponent.

    LRN squares its input: where a channel is 2^11 times its neighbours, a running sum of squares in float32 has lost
    them, and no bound would hold. Networks with LRN are therefore multiplied by 16 at most.
    """
    if any(isinstance(layer.operation, LRN) for layer in spec.layers):
        exponent = min(exponent, 4)
    probe = random_probe(spec, seed=seed, batch=batch, weights=weights)
    factor = np.float32(2.0**exponent)
    scaled = {
        key: array * factor if key.endswith(("/bias", "/beta", "/mean")) else array
        for key, array in probe.weights.items()
    }
    return Probe(name, scaled, probe.image * factor)


def photo_probe(spec: Architecture, *, seed: int = 0, batch: int = 2, weights: Weights | None = None) -> Probe:
    """Seeded weights, or those given, on photographs that ship with scikit-image."""
    return Probe("photo", weights or initial_weights(spec, seed), photographs(spec, batch))


MAGNITUDES = {"tiny": -60, "huge": 40, "subnormal": -136}
"""Binary exponents of the probes of extreme magnitude: no product of two values leaves float32's range, but for the
last, whose image is below the smallest normal number, 2^-126."""
