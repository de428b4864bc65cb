"""Probes: weights and an image, chosen so that the result of a run proves something.

*exact*: small integers. float32 arithmetic then makes no error at all, whatever the order of summation, the number of
threads and the device. Every layer of every backend must give the same bits as float64. While the probe is made, it is
proved layer by layer that every partial sum stays below 2^24.

*random* and *photo*: seeded random weights, on random numbers and on photographs. Every layer must lie within its
derived rounding bound (`common.operations`). *tiny*, *huge* and *subnormal* do the same at the ends of float32's range.

*deployed*: integers again, but no layer is recorded, only the outputs. See `common.probes.end_to_end`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from common.operations.rounding import EXACT_LIMIT, FP32, Precision
from common.probes.end_to_end import end_to_end_probe
from common.probes.exact import exact_probe
from common.probes.probe import Probe, quantum_of
from common.probes.real import MAGNITUDES, magnitude_probe, photo_probe, random_probe
from common.probes.sparse import integer_parameters, sparse_probe
from common.specs.architecture import Architecture
from common.specs.photographs import preprocess, read_photograph
from common.specs.seeded import initial_weights
from common.weights import Weights

__all__ = [
    "EXACT_LIMIT",
    "MAGNITUDES",
    "PROBES",
    "USUAL",
    "Probe",
    "exact_probe",
    "integer_parameters",
    "magnitude_probe",
    "make_probe",
    "photo_probe",
    "quantum_of",
    "random_probe",
    "sparse_probe",
]


def _deployed_probe(
    spec: Architecture,
    *,
    seed: int = 0,
    batch: int = 2,
    weights: Weights | None = None,
    precision: Precision = FP32,
) -> Probe:
    return end_to_end_probe(spec, seed=seed, batch=batch, precision=precision)


PROBES: dict[str, Callable[..., Probe]] = {
    "exact": exact_probe,
    "random": random_probe,
    "photo": photo_probe,
    **{name: partial(magnitude_probe, exponent=exponent, name=name) for name, exponent in MAGNITUDES.items()},
    "deployed": _deployed_probe,
}

USUAL = ("exact", "random", "photo")
"""The probes that are run if none is named."""


def make_probe(
    name: str,
    spec: Architecture,
    *,
    seed: int,
    batch: int,
    weights: Weights | None,
    bits: int = 24,
    precision: Precision = FP32,
) -> Probe:
    """The probe of that name, or one of the photograph in the file of that name.

    An exact probe has numbers of so many `bits`. The probe of a deployed network allows for errors of its layers at a
    `precision`.

    Raises:
        TriptychError: there is neither such a probe nor such a photograph.
    """
    if name == "exact":
        return exact_probe(spec, seed=seed, batch=batch, bits=bits)
    if name == "deployed":
        return _deployed_probe(spec, seed=seed, batch=batch, precision=precision)
    if name in PROBES:
        return PROBES[name](spec, seed=seed, batch=batch, weights=weights)
    image = preprocess(read_photograph(name), spec)
    return Probe(name, weights or initial_weights(spec, seed), np.stack([image] * batch))
