"""Sparse integers: exact through a whole network, with injections only after layers that round.

If no value may be replaced on the way, sums must stay small by themselves. So nearly all weights are 0, and a mistake
in one of these is not seen; the exact probe is for that (`common.probes.exact`). This probe serves the backward pass,
in which an injection would stop the gradient, and networks in which nothing can be injected.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from common.errors import TriptychError
from common.operations import BatchNorm, Conv, Dense, evaluate
from common.operations.names import parameters_of
from common.operations.rounding import EXACT_LIMIT
from common.probes.probe import Probe
from common.specs.architecture import IMAGE, Architecture, Layer
from common.specs.seeded import seeded_generator


def sparse_probe(spec: Architecture, *, seed: int = 0, batch: int = 2) -> Probe:
    """Integer weights and images for which every layer that can be exact is exact.

    Each filter has a few weights of ±1; biases are ±1 or ±2; images are integers in −4…4. After a layer that cannot be
    exact, small integers are injected.

    Args:
        spec: the network.
        seed: of all numbers.
        batch: the number of images.

    Raises:
        TriptychError: no such probe was found for this network.
    """
    for taps in (16, 8, 4, 2):
        probe = _try_sparse_probe(spec, taps, seed, batch)
        if probe is not None:
            return probe
    raise TriptychError(f"{spec.name}: no integer probe keeps every sum below 2^24")


def _try_sparse_probe(spec: Architecture, taps: int, seed: int, batch: int) -> Probe | None:
    """A probe with that many weights in each filter, or None if a sum leaves the exact range."""
    image = seeded_generator(seed, IMAGE).integers(-4, 5, (batch, *spec.input_shape)).astype(np.float32)
    weights: dict[str, np.ndarray] = {}
    probe = Probe("sparse", weights, image)
    values = {IMAGE: image}
    quanta = {IMAGE: 1.0}
    """For each layer, the power of two that all its values are multiples of."""
    for layer in spec.layers:
        name, inputs = layer.name, [values[name] for name in layer.inputs]
        generator = seeded_generator(seed, name)
        parameters = integer_parameters(spec, layer, taps, generator)
        weights.update(parameters)
        reference = evaluate(layer.operation, inputs, parameters_of(name, parameters))
        quanta[name] = layer.operation.quantum(inputs[0].shape[1:], min(quanta[other] for other in layer.inputs))
        if reference.rounds:
            probe.bounded[name] = f"{layer.operation.kind} rounds: judged by its bound, with integers injected after it"
            # Negative where the layer's own output can be: a ReLU after it needs both, zero padding only the one.
            lowest = -8 if reference.value.min(initial=0) < 0 else 0
            shape = (batch, *spec.shapes[name])
            values[name] = probe.injected[name] = generator.integers(lowest, 9, shape).astype(np.float32)
            quanta[name] = 1.0
            continue
        if reference.magnitude is not None and reference.magnitude.max(initial=0) >= EXACT_LIMIT * quanta[name]:
            return None
        values[name] = probe.expected[name] = reference.value.astype(np.float32)
    return probe


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
