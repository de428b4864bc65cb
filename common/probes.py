"""Probes: weights and an image chosen so that the outcome of a run proves something.

*exact*: small integers, for which float32 arithmetic makes no error at all, whatever the order of summation, the number
of threads, the device. Every layer of every backend must give the same bits as float64. That every partial sum stays
below 2^24 is proved here, layer by layer, while the probe is made.

*random* and *photo*: seeded random weights, on random numbers and on photographs. Here every layer must lie within its
derived rounding bound (`common.oracle`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np

from common.errors import TriptychError
from common.images import photographs, preprocess, read_photograph
from common.oracle import evaluate, parameters_of
from common.specs.architecture import (
    IMAGE,
    Add,
    Architecture,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    GlobalAveragePool,
    Layer,
    ReLU,
)
from common.weights import Weights, initial_weights, seeded_generator

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
    """Values that replace a layer's output for the layers behind it, after its own output has been recorded."""
    expected: dict[str, np.ndarray] = field(default_factory=dict)
    """float32, the only correct output of each layer whose arithmetic is exact; empty if the probe is not exact."""
    bounded: dict[str, str] = field(default_factory=dict)
    """In an exact probe, the layers that cannot be exact, and how each is handled."""


def exact_probe(spec: Architecture, *, seed: int = 0, batch: int = 2) -> Probe:
    """Integer weights and images for which every layer that can be exact is exact.

    Each filter has a few weights of ±1; biases are ±1 or ±2; images are integers in −4…4. Batch normalisation gets a
    scale of exactly 1 and a whole shift (see `_exact_batch_norm`). Behind a layer that cannot be exact (LRN raises to a
    power, an average over 49 does not terminate in binary), small integers are injected.

    Raises:
        TriptychError: no such probe was found for this network.
    """
    normalised = any(isinstance(layer.operation, BatchNorm) for layer in spec.layers)
    for taps in (3, 2) if normalised else (16, 8, 4, 2):
        probe = _try_exact_probe(spec, taps, seed, batch)
        if probe is not None:
            return probe
    raise TriptychError(f"{spec.name}: no integer probe keeps every sum below 2^24")


def _try_exact_probe(spec: Architecture, taps: int, seed: int, batch: int) -> Probe | None:
    """A probe with that many weights in each filter, or None if a sum leaves the exact range."""
    image = seeded_generator(seed, IMAGE).integers(-4, 5, (batch, *spec.input_shape)).astype(np.float32)
    weights: dict[str, np.ndarray] = {}
    probe = Probe("exact", weights, image)
    values = {IMAGE: image}
    quanta = {IMAGE: 1.0}
    """For each layer, the power of two that all its values are multiples of."""
    for layer in spec.layers:
        inputs = [values[name] for name in layer.inputs]
        quantum = min(quanta[name] for name in layer.inputs)
        generator = seeded_generator(seed, layer.name)
        if isinstance(layer.operation, BatchNorm):
            parameters = _exact_batch_norm(spec, layer, inputs[0], generator)
        else:
            parameters = _integer_parameters(spec, layer, taps, generator)
        weights.update(parameters)
        reference = evaluate(layer.operation, inputs, parameters_of(layer.name, parameters))
        if reference.bound is not None and reference.magnitude is None:
            probe.bounded[layer.name] = (
                f"{layer.operation.kind} rounds: held to its bound, and integers injected behind it"
            )
            shape = (batch, *spec.shapes[layer.name])
            values[layer.name] = probe.injected[layer.name] = generator.integers(0, 9, shape).astype(np.float32)
            quanta[layer.name] = 1.0
            continue
        if isinstance(layer.operation, AveragePool):
            quantum /= prod(layer.operation.window(inputs[0].shape[1:])[0])
        elif isinstance(layer.operation, GlobalAveragePool):
            quantum /= prod(inputs[0].shape[2:])
        if reference.magnitude is not None and reference.magnitude.max(initial=0) >= EXACT_LIMIT * quantum:
            return None
        # The scale of a batch normalisation is 1 but for 2^-25, which its value shows in float64 only.
        expected = np.rint(reference.value / quantum) * quantum
        values[layer.name] = probe.expected[layer.name] = expected.astype(np.float32)
        quanta[layer.name] = quantum
    return probe


def _integer_parameters(
    spec: Architecture, layer: Layer, taps: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Kernels with `taps` weights of ±1 for each output, everything else ±1 or ±2 (never 0)."""
    parameters = {}
    for name, shape in layer.operation.parameter_shapes(*spec.input_shapes(layer)).items():
        if name == "weight" and isinstance(layer.operation, Conv | Dense):
            rows = np.zeros((shape[0], prod(shape[1:])), np.float32)
            places = generator.integers(0, rows.shape[1], (shape[0], min(taps, rows.shape[1])))
            signs = generator.choice(np.array([-1, 1], np.float32), places.shape)
            np.put_along_axis(rows, places, signs, axis=1)
            parameters[f"{layer.name}/{name}"] = rows.reshape(shape)
        else:
            parameters[f"{layer.name}/{name}"] = generator.choice(np.array([-2, -1, 1, 2], np.float32), shape)
    return parameters


def _exact_batch_norm(
    spec: Architecture, layer: Layer, x: np.ndarray, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Parameters for which a batch normalisation is exactly x − mean + beta, and activations stay small.

    gamma is 1 and the variance such that variance + eps rounds to 1. The mean is a value of the channel itself: its
    60 % quantile, so that a good part of it survives the ReLU; on a residual branch its maximum less 6, so that a trunk
    to which such branches are added again and again grows slowly.
    """
    assert isinstance(layer.operation, BatchNorm)
    channels = x.shape[1]
    by_channel = np.sort(x.transpose(1, 0, 2, 3).reshape(channels, -1), axis=1)
    if _ends_in_addition(spec, layer.name):
        mean = by_channel[:, -1] - 6
    else:
        mean = by_channel[:, int(0.6 * by_channel.shape[1])]
    return {
        f"{layer.name}/gamma": np.ones(channels, np.float32),
        f"{layer.name}/beta": generator.choice(np.array([-2, -1, 1, 2], np.float32), channels),
        f"{layer.name}/mean": mean,
        f"{layer.name}/variance": np.full(channels, 1 - layer.operation.eps, np.float32),
    }


def _ends_in_addition(spec: Architecture, name: str) -> bool:
    """Whether a layer's output reaches an addition, through ReLUs at most."""
    readers = [layer for layer in spec.layers if name in layer.inputs]
    return any(
        isinstance(reader.operation, Add)
        or (isinstance(reader.operation, ReLU) and _ends_in_addition(spec, reader.name))
        for reader in readers
    )


def random_probe(spec: Architecture, *, seed: int = 0, batch: int = 2, weights: Weights | None = None) -> Probe:
    """Seeded weights, or those given, on normal random numbers with a standard deviation of 64."""
    image = seeded_generator(seed, IMAGE).standard_normal((batch, *spec.input_shape), dtype=np.float32)
    return Probe("random", weights or initial_weights(spec, seed), image * np.float32(64))


def photo_probe(spec: Architecture, *, seed: int = 0, batch: int = 2, weights: Weights | None = None) -> Probe:
    """Seeded weights, or those given, on photographs that ship with scikit-image."""
    return Probe("photo", weights or initial_weights(spec, seed), photographs(spec, batch))


PROBES: dict[str, Callable[..., Probe]] = {"exact": exact_probe, "random": random_probe, "photo": photo_probe}


def make_probe(name: str, spec: Architecture, *, seed: int, batch: int, weights: Weights | None) -> Probe:
    """The probe of that name, or, if there is none, one of the photograph in the file of that name.

    Raises:
        TriptychError: there is no such probe, and no such photograph either.
    """
    if name == "exact":
        return exact_probe(spec, seed=seed, batch=batch)
    if name in PROBES:
        return PROBES[name](spec, seed=seed, batch=batch, weights=weights)
    image = preprocess(read_photograph(name), spec)
    return Probe(name, weights or initial_weights(spec, seed), np.stack([image] * batch))
