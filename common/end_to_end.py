"""The proof of a network as it is deployed: nothing recorded on the way, so that nothing keeps layers from being fused.

ONNX Runtime, XLA, inductor and TensorFlow's grappler fold and fuse layers, but not those whose output somebody wants.
Here nobody does: a network is judged by its outputs alone. The probe is made of integers as the exact one is, but
nothing can be injected behind a layer that rounds; instead, how far every value may be off by then is carried on to the
outputs (`propagate`). With as good as one weight of ±1 in each filter from there on, it hardly grows on the way: with
ordinary weights it would be multiplied by their sum in every layer, and say nothing at the end of a deep network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch

import numpy as np

from common.errors import TriptychError
from common.oracle import FP32, Precision, Reference, at_precision, evaluate, gamma, lrn_factor, parameters_of
from common.probes import EXACT_LIMIT, Probe, integer_parameters, quantum_behind
from common.specs.architecture import (
    IMAGE,
    LRN,
    Add,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Operation,
    ReLU,
    ScaledTanh,
    Sigmoid,
    Softmax,
    SubSampling,
)
from common.weights import seeded_generator

SECOND_ORDER = 1.001
"""Covers products of two roundings, which are below a thousandth of the larger."""


@dataclass(frozen=True)
class EndToEndProbe(Probe):
    """A probe of a network's outputs."""

    weights: dict[str, np.ndarray]
    outputs: dict[str, Reference] = field(default_factory=dict)
    """By the name of the layer behind each output: what it should be, and how far off it may be; where `bound` is 0,
    not at all."""


def end_to_end_probe(
    spec: Architecture, *, seed: int = 0, batch: int = 1, precision: Precision = FP32
) -> EndToEndProbe:
    """Integers, and batch normalisations whose scale is 1 if the inverse root of 1 is.

    Up to the first layer that rounds it is as the exact probe, and all outputs are exact where no layer does. Behind
    such a layer filters have a single weight, +1 in three of four, so that not too much ends at a ReLU, and dense
    layers eight. The last scale of a residual branch is 1/8, so that the errors on the trunk are not doubled by every
    block.

    Args:
        spec: the network.
        seed: of all numbers.
        batch: the number of images.
        precision: of what rounds.

    Raises:
        TriptychError: sums of integers leave the exact range for this network.
    """
    for taps in (16, 8, 4, 2):
        probe = _try_probe(spec, taps, seed, batch, precision)
        if probe is not None:
            return probe
    raise TriptychError(f"{spec.name}: no integer probe keeps every sum below 2^24")


def _try_probe(spec: Architecture, taps: int, seed: int, batch: int, precision: Precision) -> EndToEndProbe | None:
    """A probe with that many weights in each filter up to the first layer that rounds; None if sums are too large."""
    image = seeded_generator(seed, IMAGE).integers(-4, 5, (batch, *spec.input_shape)).astype(np.float32)
    probe = EndToEndProbe("deployed", {}, image)
    values, quanta = {IMAGE: image}, {IMAGE: 1.0}
    errors = {IMAGE: np.zeros(image.shape)}
    ends_of_branches = _ends_of_branches(spec)
    for layer in spec.layers:
        inputs, given = [values[name] for name in layer.inputs], [errors[name] for name in layer.inputs]
        exact = not any(error.any() for error in given)
        count = taps if exact else 8 if isinstance(layer.operation, Dense) else 1
        generator = seeded_generator(seed, layer.name)
        parameters = integer_parameters(spec, layer, count, generator, signs=(-1, 1) if exact else (-1, 1, 1, 1))
        if isinstance(layer.operation, BatchNorm):
            shape = parameters[f"{layer.name}/gamma"].shape
            scale = 0.125 if layer.name in ends_of_branches else 1.0
            parameters[f"{layer.name}/gamma"] = np.full(shape, scale, np.float32)
            parameters[f"{layer.name}/variance"] = np.full(shape, 1 - layer.operation.eps, np.float32)
        probe.weights.update(parameters)
        of_layer = parameters_of(layer.name, parameters)
        reference = at_precision(layer.operation, evaluate(layer.operation, inputs, of_layer), precision)
        quantum = quantum_behind(layer.operation, inputs[0].shape[1:], min(quanta[name] for name in layer.inputs))
        own: np.ndarray | float = 0.0 if reference.bound is None else reference.bound
        if exact and reference.magnitude is not None:
            if reference.magnitude.max(initial=0) >= EXACT_LIMIT * quantum:
                return None
            own = 0.0
        carried = 0.0 if exact else propagate(layer.operation, inputs, given, of_layer)
        values[layer.name] = reference.value.astype(np.float32)
        # What follows is evaluated on the value rounded to float32: it may be off by that much more.
        errors[layer.name] = own + carried + np.abs(values[layer.name] - reference.value)
        quanta[layer.name] = quantum
        if layer.name in spec.outputs.values():
            probe.outputs[layer.name] = Reference(reference.value, own + carried + np.zeros(reference.value.shape))
    return probe


def _ends_of_branches(spec: Architecture) -> set[str]:
    """The batch normalisations whose output is added to a shortcut, directly or behind a ReLU."""
    layers = {layer.name: layer for layer in spec.layers}
    ends = [layers[layer.inputs[0]] for layer in spec.layers if isinstance(layer.operation, Add)]
    return {layer.inputs[0] if isinstance(layer.operation, ReLU) else layer.name for layer in ends}


@singledispatch
def propagate(
    operation: Operation, inputs: list[np.ndarray], errors: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> np.ndarray:
    """How much further off an operation's output can be if its inputs are off by `errors`.

    This one is for what brings no two values further apart than they were: choices, changes of place, means. Applied to
    the errors, they give the largest that the output can have.

    Args:
        operation: from a specification.
        inputs: float32, (N, C, H, W) or (N, features).
        errors: float64, not negative, of the same shapes.
        parameters: float32, in the canonical layout.
    """
    return SECOND_ORDER * evaluate(operation, [_upwards(error) for error in errors], {}).value


def _upwards(error: np.ndarray) -> np.ndarray:
    """The error in float32, which is what the oracle takes, and not smaller."""
    return np.nextafter(error.astype(np.float32), np.float32(np.inf)) * (error > 0).astype(np.float32)


@propagate.register(Conv)
@propagate.register(Dense)
def _sum_of_products(
    operation: Conv | Dense,
    inputs: list[np.ndarray],
    errors: list[np.ndarray],
    parameters: Mapping[str, np.ndarray],
) -> np.ndarray:
    """|W|·e, and as much of it again as the rounding of these products makes: γ_n |W|·e."""
    weight = np.abs(parameters["weight"])
    without = {"weight": weight, "bias": np.zeros(len(weight), np.float32)}
    return (1 + gamma(weight[0].size + 1)) * SECOND_ORDER * evaluate(operation, [_upwards(errors[0])], without).value


@propagate.register
def _add(
    operation: Add, inputs: list[np.ndarray], errors: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> np.ndarray:
    return SECOND_ORDER * np.sum(errors, axis=0)


@propagate.register
def _batch_norm(
    operation: BatchNorm, inputs: list[np.ndarray], errors: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> np.ndarray:
    """|s|·e with the scale s = gamma / √(variance + eps)."""
    scale = parameters["gamma"].astype(np.float64) / np.sqrt(parameters["variance"].astype(np.float64) + operation.eps)
    return SECOND_ORDER * np.abs(scale).reshape(1, -1, *[1] * (errors[0].ndim - 2)) * errors[0]


@propagate.register
def _lrn(
    operation: LRN, inputs: list[np.ndarray], errors: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> np.ndarray:
    """y = x · s^-beta, s = k + alpha / size · Σ x² ≥ k.

    A change of x by e at most changes s by d = alpha / size · Σ (2|x|e + e²) at most, so that s − d, and k, are the
    least that it can be. By the mean value theorem s^-beta changes by beta · d · (that least s)^(−beta − 1) at most.
    """
    (x,), (e,) = inputs, errors
    size = np.abs(x.astype(np.float64))
    scale = lrn_factor(operation, x)[0] ** (-1 / operation.beta)
    wider = lrn_factor(operation, size + e)[0] ** (-1 / operation.beta)
    least = np.maximum(2 * scale - wider, operation.k)
    change = operation.beta * (wider - scale) * least ** (-operation.beta - 1)
    return SECOND_ORDER * ((size + e) * change + e * scale**-operation.beta)


@propagate.register
def _sigmoid(
    operation: Sigmoid, inputs: list[np.ndarray], errors: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Its slope is 1/4 at most."""
    return SECOND_ORDER * errors[0] / 4


@propagate.register
def _scaled_tanh(
    operation: ScaledTanh, inputs: list[np.ndarray], errors: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Its slope is amplitude · slope at most."""
    return SECOND_ORDER * abs(operation.amplitude * operation.slope) * errors[0]


@propagate.register
def _sub_sampling(
    operation: SubSampling, inputs: list[np.ndarray], errors: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> np.ndarray:
    """|w| Σ e."""
    without = {"weight": np.abs(parameters["weight"]), "bias": np.zeros_like(parameters["bias"])}
    return SECOND_ORDER * evaluate(operation, [_upwards(errors[0])], without).value


@propagate.register
def _softmax(
    operation: Softmax, inputs: list[np.ndarray], errors: list[np.ndarray], parameters: Mapping[str, np.ndarray]
) -> np.ndarray:
    """A probability changes by a factor exp(2 max e) at most."""
    largest = errors[0].max(axis=1, keepdims=True)
    return SECOND_ORDER * np.expm1(2 * largest) * evaluate(operation, inputs, parameters).value
