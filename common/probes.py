"""Probes: weights and an image chosen so that the outcome of a run proves something.

*exact*: small integers, for which float32 arithmetic makes no error at all, whatever the order of summation, the number
of threads, the device. Every layer of every backend must give the same bits as float64. That every partial sum stays
below 2^24 is proved here, layer by layer, while the probe is made.

*random* and *photo*: seeded random weights, on random numbers and on photographs. Here every layer must lie within its
derived rounding bound (`common.oracle`). *tiny*, *huge* and *subnormal* do the same at the ends of float32's range.

*deployed*: integers again, but no layer is looked at, only the outputs; see `common.end_to_end`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np

from common.errors import TriptychError
from common.images import photographs, preprocess, read_photograph
from common.oracle import FP32, Precision, evaluate, parameters_of
from common.specs.architecture import (
    IMAGE,
    LRN,
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    GlobalAveragePool,
    Layer,
    Operation,
    Shape,
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


def exact_probe(spec: Architecture, *, seed: int = 0, batch: int = 2, bits: int = 24) -> Probe:
    """Integer weights and images for which every layer that can be exact is exact.

    Each filter has a few weights of ±1; biases are ±1 or ±2; images are integers in −4…4. Behind a layer that cannot be
    exact (LRN raises to a power, batch normalisation takes an inverse root, an average over 49 does not terminate in
    binary), small integers are injected.

    Args:
        spec: the network.
        seed: of all numbers.
        batch: the number of images.
        bits: how many significant bits the factors of convolutions and dense layers may have: 24 for float32; 11, and
            their products are exact in TF32 and float16 too; 8, and they are in bfloat16. Behind a layer whose values
            are longer, small integers are injected; the layer itself stays exact.

    Raises:
        TriptychError: no such probe was found for this network.
    """
    for taps in (16, 8, 4, 2):
        probe = _try_exact_probe(spec, taps, seed, batch, bits)
        if probe is not None:
            return probe
    raise TriptychError(f"{spec.name}: no integer probe keeps every sum below 2^24")


def _try_exact_probe(spec: Architecture, taps: int, seed: int, batch: int, bits: int) -> Probe | None:
    """A probe with that many weights in each filter, or None if a sum leaves the exact range."""
    image = seeded_generator(seed, IMAGE).integers(-4, 5, (batch, *spec.input_shape)).astype(np.float32)
    weights: dict[str, np.ndarray] = {}
    probe = Probe("exact", weights, image)
    values = {IMAGE: image}
    quanta = {IMAGE: 1.0}
    """For each layer, the power of two that all its values are multiples of."""
    multiplied = {name for layer in spec.layers if isinstance(layer.operation, Conv | Dense) for name in layer.inputs}

    def inject(layer: Layer, value: np.ndarray, generator: np.random.Generator) -> None:
        # Negative where the layer's own output can be: a ReLU behind it needs both, zero padding only the one.
        lowest = -8 if value.min(initial=0) < 0 else 0
        shape = (batch, *spec.shapes[layer.name])
        values[layer.name] = probe.injected[layer.name] = generator.integers(lowest, 9, shape).astype(np.float32)
        quanta[layer.name] = 1.0

    for layer in spec.layers:
        inputs = [values[name] for name in layer.inputs]
        quantum = min(quanta[name] for name in layer.inputs)
        generator = seeded_generator(seed, layer.name)
        parameters = integer_parameters(spec, layer, taps, generator)
        weights.update(parameters)
        reference = evaluate(layer.operation, inputs, parameters_of(layer.name, parameters))
        if reference.bound is not None and reference.magnitude is None:
            probe.bounded[layer.name] = (
                f"{layer.operation.kind} rounds: held to its bound, and integers injected behind it"
            )
            inject(layer, reference.value, generator)
            continue
        quantum = quantum_behind(layer.operation, inputs[0].shape[1:], quantum)
        if reference.magnitude is not None and reference.magnitude.max(initial=0) >= EXACT_LIMIT * quantum:
            return None
        values[layer.name] = probe.expected[layer.name] = reference.value.astype(np.float32)
        quanta[layer.name] = quantum
        if layer.name in multiplied and np.abs(reference.value).max(initial=0) > quantum * 2**bits:
            inject(layer, reference.value, generator)
    return probe


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


def integer_parameters(
    spec: Architecture, layer: Layer, taps: int, generator: np.random.Generator, *, signs: Sequence[int] = (-1, 1)
) -> dict[str, np.ndarray]:
    """Kernels with `taps` weights of ±1 for each output, everything else ±1 or ±2 (never 0).

    The variance of a batch normalisation is a few times its eps, so that a wrong eps changes its output.

    Args:
        spec: the network.
        layer: one of its layers.
        taps: how many weights of a filter, or of a unit, are not 0.
        generator: of all numbers.
        signs: what the weights are drawn from, each as likely as the others.
    """
    parameters = {}
    for name, shape in layer.operation.parameter_shapes(*spec.input_shapes(layer)).items():
        if name == "weight" and isinstance(layer.operation, Conv | Dense):
            rows = np.zeros((shape[0], prod(shape[1:])), np.float32)
            places = generator.integers(0, rows.shape[1], (shape[0], min(taps, rows.shape[1])))
            np.put_along_axis(rows, places, generator.choice(np.array(signs, np.float32), places.shape), axis=1)
            parameters[f"{layer.name}/{name}"] = rows.reshape(shape)
        elif name == "variance" and isinstance(layer.operation, BatchNorm):
            multiples = generator.integers(1, 5, shape).astype(np.float32)
            parameters[f"{layer.name}/{name}"] = multiples * np.float32(layer.operation.eps)
        else:
            parameters[f"{layer.name}/{name}"] = generator.choice(np.array([-2, -1, 1, 2], np.float32), shape)
    return parameters


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


def _deployed_probe(
    spec: Architecture,
    *,
    seed: int = 0,
    batch: int = 2,
    weights: Weights | None = None,
    precision: Precision = FP32,
) -> Probe:
    from common.end_to_end import end_to_end_probe

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
    """The probe of that name, or, if there is none, one of the photograph in the file of that name.

    An exact one is of numbers of so many `bits`; that of a network as it is deployed allows for what its layers may be
    off at a `precision`.

    Raises:
        TriptychError: there is no such probe, and no such photograph either.
    """
    if name == "exact":
        return exact_probe(spec, seed=seed, batch=batch, bits=bits)
    if name == "deployed":
        return _deployed_probe(spec, seed=seed, batch=batch, precision=precision)
    if name in PROBES:
        return PROBES[name](spec, seed=seed, batch=batch, weights=weights)
    image = preprocess(read_photograph(name), spec)
    return Probe(name, weights or initial_weights(spec, seed), np.stack([image] * batch))
