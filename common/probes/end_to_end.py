"""The probe of a network as it is deployed: no layer is recorded, so every layer can be fused.

ONNX Runtime, XLA, inductor and TensorFlow's grappler fold and fuse layers, except those whose output is requested. Here
only the network's outputs are requested and judged. As in the exact probe, weights and images are integers. But nothing
can be injected after a layer that rounds. Instead, its possible error is carried on to the outputs
(`Operation.carried`). From there on, each filter has practically one weight of ±1, so the error hardly grows. With
ordinary weights it would be multiplied by their sum in every layer, and at the end of a deep network the bound would
say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from common.errors import TriptychError
from common.operations import Add, BatchNorm, Dense, ReLU, evaluate
from common.operations.names import parameters_of
from common.operations.rounding import EXACT_LIMIT, FP32, Precision, Reference
from common.probes.probe import Probe
from common.probes.sparse import integer_parameters
from common.specs.architecture import IMAGE, Architecture
from common.specs.seeded import seeded_generator


@dataclass(frozen=True)
class EndToEndProbe(Probe):
    """A probe of a network's outputs."""

    weights: dict[str, np.ndarray]
    outputs: dict[str, Reference] = field(default_factory=dict)
    """For each output, by the name of its layer: its right value and the bound of its error (0: exact)."""


def end_to_end_probe(
    spec: Architecture, *, seed: int = 0, batch: int = 1, precision: Precision = FP32
) -> EndToEndProbe:
    """Integers, and batch normalisations with the scale 1, if the framework's inverse root of 1 is 1.

    Up to the first layer that rounds it is as the exact probe, and all outputs are exact where no layer does. After
    such a layer filters have a single weight, +1 in three of four, so that not too much ends at a ReLU, and dense
    layers eight. The last scale of a residual branch is 1/8, so that the errors on the trunk are not doubled by every
    block.

    Args:
        spec: the network.
        seed: of all numbers.
        batch: the number of images.
        precision: the precision of layers that round.

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
        reference = evaluate(layer.operation, inputs, of_layer)
        reference = layer.operation.at_precision(reference, precision, inputs, of_layer)
        quantum = layer.operation.quantum(inputs[0].shape[1:], min(quanta[name] for name in layer.inputs))
        own: np.ndarray | float = 0.0 if reference.bound is None else reference.bound
        if exact and reference.magnitude is not None:
            if reference.magnitude.max(initial=0) >= EXACT_LIMIT * quantum:
                return None
            own = 0.0
        carried = 0.0 if exact else layer.operation.carried(inputs, given, of_layer)
        values[layer.name] = reference.value.astype(np.float32)
        # What follows is evaluated on the value rounded to float32: it may be off by that much more.
        errors[layer.name] = own + carried + np.abs(values[layer.name] - reference.value)
        quanta[layer.name] = quantum
        if layer.name in spec.outputs.values():
            probe.outputs[layer.name] = Reference(reference.value, own + carried + np.zeros(reference.value.shape))
    return probe


def _ends_of_branches(spec: Architecture) -> set[str]:
    """The batch normalisations whose output is added to a shortcut, directly or after a ReLU."""
    layers = {layer.name: layer for layer in spec.layers}
    ends = [layers[layer.inputs[0]] for layer in spec.layers if isinstance(layer.operation, Add)]
    return {layer.inputs[0] if isinstance(layer.operation, ReLU) else layer.name for layer in ends}
