"""The exact probe: integers for which float32 makes no rounding error, and which see every single weight.

Each layer gives a sum of small integers that stays below 2^24 in every order of summation. So float32 adds without
rounding, and only one output is right. That is easy with weights that are nearly all 0, but then nearly no weight is
seen. Here **no weight is 0**, and **integers are injected before every layer that has weights** (or a curve: a sigmoid
would saturate). So sums of 25,088 products stay as small in the last layer as in the first, and no weight meets a 0. If
one weight changes, even by one part in 2^10, recorded bits change:

- The weight meets a number of magnitude 1 to 8, so a sum changes by at least 2^-10. Nearly all sums of the integers
  drawn here are below 2^14, where float32 has all multiples of 2^-10. So the change is seen, unless every position that
  the weight takes part in has one of the few larger sums. `parity_tests/sensitivity.py` measures how many weights are
  not seen.
- A weight that meets nothing but padding is not seen. That takes a map smaller than its kernel.

This holds for all images but the last. In the last, some numbers have many bits, so that shortened factors are seen,
too.

An injection cuts the path between two layers, so it must not hide a mistake there. The wrong predecessor has other
integers than the right one. An operation between two layers acts on the injected values, too. And each layer's own
output is recorded before it is replaced. Layers without weights read what was computed. That saves half of the
injections and lets these layers be fused. After a flatten or a dropout nothing is injected, since these only pass
values on.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_128
from math import prod

import numpy as np

from common.errors import TriptychError
from common.operations import BatchNorm, Conv, Dense, Dropout, Flatten, Operation, evaluate
from common.operations.arrays import Arrays, Parameters
from common.operations.names import parameters_of
from common.operations.rounding import EXACT_LIMIT, Reference
from common.operations.sums import SumsAlone
from common.operations.windows import over_windows
from common.probes.probe import Probe
from common.specs.architecture import IMAGE, Architecture, Layer

VERSION = 1
"""The version of all numbers below. A probe with other numbers needs another version, since its results are published
(`published.json`)."""

WEIGHTS = (-3, -2, -1, -1, 1, 1, 2, 3)
"""Not of one magnitude, nor powers of two alone: quantised to such, or to 8 bits, a filter would be the same."""
POSITIVE = (1, 2, 3, 4, 5, 6, 7, 8)
SIGNED = (*(-number for number in reversed(POSITIVE)), *POSITIVE)
LONG, ONE_OF = 2049, 16
"""In the last image one number in 16 has twelve bits: TF32, float16 and bfloat16 round it to 2048."""


def exact_probe(spec: Architecture, *, seed: int = 0, batch: int = 2, bits: int = 24) -> Probe:
    """Weights, images and injected integers for which every layer that can be exact is exact.

    Weights are integers of −3…3 without 0; images, and what is injected, of −8…8 without 0, but for the long ones, and
    positive where the layer's own output cannot be negative. Biases are different integers in each unit. A batch
    normalisation has a variance of a few times its eps, which would not be seen otherwise.

    Layers that cannot be exact (LRN raises to a power, batch normalisation takes an inverse root, an average over 49
    does not terminate in binary) are held to their bound, and integers are injected after them.

    Args:
        spec: the network.
        seed: of all numbers.
        batch: the number of images.
        bits: how many significant bits the factors of convolutions and dense layers may have, four or more: 24 in
            float32; with 11 their products are exact in TF32 and float16 too, with 8 in bfloat16: no number is long.

    Raises:
        TriptychError: a sum reaches 2^24 in this network.
    """
    long = bits >= LONG.bit_length()
    image = _numbers(seed, IMAGE, SIGNED, (batch, *spec.input_shape), long=long)
    weights: dict[str, np.ndarray] = {}
    probe = Probe("exact", weights, image)
    values = {IMAGE: image}
    quanta = {IMAGE: 1.0}
    """For each layer, the power of two that all its values are multiples of."""
    replaced = _to_be_replaced(spec)
    read = {name for layer in spec.layers for name in layer.inputs}
    for layer in spec.layers:
        name, inputs = layer.name, [values[name] for name in layer.inputs]
        parameters = _parameters(spec, layer, seed)
        weights.update(parameters)
        quantum = layer.operation.quantum(inputs[0].shape[1:], min(quanta[other] for other in layer.inputs))
        reference = _evaluated(layer.operation, inputs, parameters_of(name, parameters), EXACT_LIMIT * quantum)
        if reference.rounds:
            probe.bounded[name] = f"{layer.operation.kind} rounds: judged by its bound, with integers injected after it"
        else:
            quanta[name] = quantum
            if reference.magnitude is not None and reference.magnitude.max(initial=0) >= EXACT_LIMIT * quantum:
                raise TriptychError(f"{spec.name}: the exact probe's sums reach 2^24 in {name}")
            values[name] = probe.expected[name] = reference.value.astype(np.float32)
        if (reference.rounds and name in read) or name in replaced:
            among = SIGNED if reference.value.min(initial=0) < 0 else POSITIVE
            factor, shape = replaced.get(name, 1), (batch, *spec.shapes[name])
            numbers = _numbers(seed, f"{name}/injected", among, shape, long=long and factor == 1)
            values[name] = probe.injected[name] = numbers * np.float32(factor)
            quanta[name] = 1.0
    return probe


def _evaluated(operation: Operation, inputs: Arrays, parameters: Parameters, limit: float) -> Reference:
    """As `evaluate`; without magnitudes, half of the products, where a cruder bound shows them to be below the limit.

    Σ|w·a| + |b| is at most the largest weight times Σ|a|, which all filters of a group share, and the largest bias.
    """
    if isinstance(operation, Conv | Dense):
        (x,) = inputs
        if isinstance(operation, Conv):
            read = np.abs(x).reshape(len(x), operation.groups, -1, *x.shape[2:]).sum(axis=2)
            read = over_windows(np.add, read, *operation.window(x.shape[1:]))
        else:
            read = np.abs(x).sum(axis=1)
        weight, bias = _largest(parameters["weight"]), _largest(parameters.get("bias", np.zeros(1)))
        if weight * _largest(read) + bias < limit:
            shape = (len(x), *operation.output_shape(x.shape[1:]))
            return Reference.joined(shape, operation.pieces(inputs, parameters, SumsAlone()))
    return evaluate(operation, inputs, parameters)


def _largest(array: np.ndarray) -> float:
    """The largest magnitude."""
    return float(max(array.max(initial=0), -array.min(initial=0)))


def _to_be_replaced(spec: Architecture) -> dict[str, int]:
    """The layers whose output a layer with weights or a curve reads, directly or passed on, with a factor for each."""
    layers = {layer.name: layer for layer in spec.layers}
    found: dict[str, int] = {}
    for layer in spec.layers:
        if layer.operation.integers_before:
            source = layers.get(layer.inputs[0])
            while source is not None and isinstance(source.operation, Flatten | Dropout):
                source = layers.get(source.inputs[0])
            if source is not None:
                found[source.name] = layer.operation.integers_before
    return found


def _numbers(seed: int, what: str, among: Sequence[int], shape: tuple[int, ...], *, long: bool) -> np.ndarray:
    """Integers for a layer to read, (N, …): drawn, and, if wanted, some of the last image long."""
    numbers = drawn(seed, what, among, shape)
    if long:
        places = drawn(seed, f"{what}/long", (1, *[0] * (ONE_OF - 1)), shape[1:])
        np.copyto(numbers[-1], np.copysign(np.float32(LONG), numbers[-1]), where=places > 0)
    return numbers


def _parameters(spec: Architecture, layer: Layer, seed: int) -> dict[str, np.ndarray]:
    """A layer's parameters, no number of them 0.

    A batch normalisation's scale is about 100, its bound 10u of that times what it normalises: shifts that are to be
    seen beside it must be large, the mean must not be.
    """
    parameters = {}
    for kind, shape in layer.operation.parameter_shapes(*spec.input_shapes(layer)).items():
        name = f"{layer.name}/{kind}"
        if kind == "weight":
            parameters[name] = drawn(seed, name, WEIGHTS, shape)
        elif kind == "gamma":
            parameters[name] = drawn(seed, name, (-2, -1, 1, 2), shape)
        elif kind == "variance" and isinstance(layer.operation, BatchNorm):
            parameters[name] = drawn(seed, name, (1, 2, 3, 4), shape) * np.float32(layer.operation.eps)
        elif kind == "mean":
            parameters[name] = all_different(seed, name, 256, shape) / np.float32(256)
        else:
            parameters[name] = all_different(seed, name, 1024 if kind == "beta" else 1, shape)
    return parameters


def drawn(seed: int, what: str, among: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Numbers drawn from `among`, which has 2, 4, 8 … up to 256 equally likely numbers; float32.

    They are read off a stream of bytes that is a standard, SHAKE128 (FIPS 202) of `triptych exact VERSION SEED WHAT`,
    each byte modulo their number: the same on every machine and in every language, whatever a library's own generator
    does from one version to the next.
    """
    table = bytes(number % 256 for number in among) * (256 // len(among))
    numbers = np.frombuffer(_stream(seed, what, prod(shape)).translate(table), np.int8)
    return numbers.astype(np.float32).reshape(shape)


def all_different(seed: int, what: str, least: int, shape: tuple[int, ...]) -> np.ndarray:
    """The integers least, −least, least + 1, −least − 1, …, as many as are needed, in an order that is drawn."""
    count = prod(shape)
    numbers = np.arange(2 * least, 2 * least + count) // 2 * np.resize([1, -1], count)
    keys = np.frombuffer(_stream(seed, what, 8 * count), "<u8")
    return numbers[np.argsort(keys, kind="stable")].astype(np.float32).reshape(shape)


def _stream(seed: int, what: str, length: int) -> bytes:
    return shake_128(f"triptych exact {VERSION} {seed} {what}".encode()).digest(length)
