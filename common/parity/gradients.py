"""Gradient parity: the backward pass of every layer of every backend, held to the oracle of `common.backward`.

Each backend runs in a process of its own (`common.parity.worker`) and hands over, for every layer, its output and the
gradient by it, and the gradient by every parameter and by the image. As in the forward pass, a layer is judged by what
the backend itself gave it: its recorded input and the recorded gradient by its output.

On the *exact* probe all of these are integers wherever they can be, so that every sum is exact and the bits must be
those of float64. There the loss is Σ drive · logits with integer drives, and the graph is cut around each layer that
rounds, and before each max-pool: integers are injected in front of it and behind it, going forward and going back. No
window of a max-pool holds its largest value twice; where one does, frameworks route the gradient differently.

On the *random* probe the loss is the training loss on seeded weights, and bounds decide. Dropout is off. Both are run
with stored statistics and, where there is batch normalisation, with those of the batch; what is stored is compared too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from common.backward import SECOND_ORDER, Gradient, backward, cross_entropy
from common.oracle import SMALLEST_NORMAL, gamma, parameters_of
from common.probes import EXACT_LIMIT, exact_probe
from common.specs.architecture import (
    IMAGE,
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    BatchNorm,
    GlobalAveragePool,
    Layer,
    MaxPool,
)
from common.training.recipe import AUXILIARY_WEIGHT
from common.weights import Weights, initial_weights, seeded_generator

IDENTICAL, CERTIFIED, DIVERGED = "identical", "certified", "diverged"


@dataclass(frozen=True)
class GradientProbe:
    """What every backend differentiates."""

    name: str
    weights: Weights
    image: np.ndarray
    training: bool
    cuts: dict[str, np.ndarray] = field(default_factory=dict)
    drives: dict[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None

    @property
    def mode(self) -> str:
        return "training" if self.training else "inference"


def gradient_probes(spec: Architecture, *, seed: int = 0, batch: int | None = None) -> list[GradientProbe]:
    """The exact and the random probe, with stored statistics and, if the network normalises, with the batch's.

    As in the forward pass, the exact probe has two images and the random one has one, unless `batch` says otherwise.
    """
    makers = (_exact_probe, batch or 2), (_random_probe, batch or 1)
    return [make(spec, seed, images, training) for training in modes(spec) for make, images in makers]


def modes(spec: Architecture) -> tuple[bool, ...]:
    """Whether to train: only batch normalisation makes a difference between inference and training without dropout."""
    return (False, True) if any(isinstance(layer.operation, BatchNorm) for layer in spec.layers) else (False,)


def _random_probe(spec: Architecture, seed: int, batch: int, training: bool) -> GradientProbe:
    generator = seeded_generator(seed, IMAGE)
    image = generator.standard_normal((batch, *spec.input_shape), dtype=np.float32)
    labels = generator.integers(0, spec.num_classes, batch)
    return GradientProbe("random", initial_weights(spec, seed), image, training, labels=labels)


def _exact_probe(spec: Architecture, seed: int, batch: int, training: bool) -> GradientProbe:
    forward = exact_probe(spec, seed=seed, batch=batch)
    cuts, drives = {}, {}
    rounding = set(forward.bounded) | {layer.name for layer in spec.layers if _averages_unevenly(spec, layer)}
    in_front = {name for layer in spec.layers if layer.name in rounding for name in layer.inputs}
    pools = {
        name: max(layer.operation.window(spec.shapes[name])[0])
        for layer in spec.layers
        if isinstance(layer.operation, MaxPool)
        for name in layer.inputs
    }
    for layer in spec.layers:
        generator = seeded_generator(seed, f"gradient {layer.name}")
        shape = (batch, *spec.shapes[layer.name])
        if layer.name in pools:
            cuts[layer.name] = _without_ties(shape, pools[layer.name], generator)
        elif layer.name in rounding or layer.name in in_front:
            cuts[layer.name] = generator.integers(-8, 9, shape).astype(np.float32)
        if layer.name in cuts or layer.name in spec.outputs.values():
            drives[layer.name] = generator.integers(-3, 4, shape).astype(np.float32)
    return GradientProbe("exact", forward.weights, forward.image, training, cuts, drives)


def _averages_unevenly(spec: Architecture, layer: Layer) -> bool:
    """Whether a layer divides by something that is no power of two."""
    shape = spec.input_shapes(layer)[0]
    if isinstance(layer.operation, AveragePool):
        count = prod(layer.operation.window(shape)[0])
    elif isinstance(layer.operation, AdaptiveAveragePool):
        count = prod(end - begin for n in shape[1:] for begin, end in layer.operation.windows(n)[:1])
    elif isinstance(layer.operation, GlobalAveragePool):
        count = prod(shape[1:])
    else:
        return False
    return count & (count - 1) != 0


def _without_ties(shape: tuple[int, ...], window: int, generator: np.random.Generator) -> np.ndarray:
    """Integers of which no `window`×`window` square holds one twice: they differ modulo window² there."""
    batch, channels, height, width = shape
    residues = generator.permuted(np.tile(np.arange(window * window), (batch, channels, 1)), axis=2)
    rows, columns = np.arange(height)[:, None] % window, np.arange(width)[None] % window
    multiples = generator.integers(0, 3, shape) * window * window
    return (residues[:, :, rows * window + columns] + multiples + 1).astype(np.float32)


# Judging


@dataclass(frozen=True)
class GradientVerdict:
    """What is known about one gradient of one backend."""

    layer: str
    """Whose backward pass made it."""
    what: str
    """The parameter, or the layer by whose output it is; `image` for the image."""
    verdict: str
    exact: bool = True
    """Whether float32 makes no error in it, so that its bits decide; otherwise a bound does."""
    bound_ratio: float | None = 0.0
    """The largest |error| ÷ bound; None if there is no finite one."""


def judge_gradients(
    spec: Architecture, probe: GradientProbe, recorded: Mapping[str, Mapping[str, np.ndarray]]
) -> list[GradientVerdict]:
    """Judge every gradient, from the loss backwards; the first that diverged is the mistake.

    Args:
        spec: the network.
        probe: what the backend was given.
        recorded: what it answered; see `record_gradients` of each implementation.
    """
    outputs, gradients = recorded["outputs"], recorded["gradients"]
    given = {IMAGE: probe.image, **outputs, **probe.cuts}
    expected: dict[str, list[Gradient]] = {name: [] for name in (IMAGE, *spec.shapes)}
    readers = {name: [layer.name for layer in spec.layers if name in layer.inputs] for name in expected}
    verdicts = []
    heads = {layer: name for name, layer in spec.outputs.items()}
    for layer in reversed(spec.layers):
        name = layer.name
        if name in probe.drives and name not in probe.cuts:
            expected[name].append(_given(probe.drives[name]))
        if name in heads and probe.labels is not None:
            weight = 1.0 if heads[name] == "logits" else AUXILIARY_WEIGHT
            loss = cross_entropy(outputs[name], probe.labels)
            expected[name].append(Gradient(weight * loss.value, weight * loss.bound + gamma(2) * np.abs(loss.value)))
        reader = readers[name][0] if readers[name] else "loss"
        verdicts.append(_judge(reader, name, gradients.get(name), expected.pop(name)))
        dy = probe.drives[name] if name in probe.cuts else gradients.get(name)
        if dy is None:
            continue
        inputs = [given[input_name] for input_name in layer.inputs]
        parameters = parameters_of(name, probe.weights)
        found = backward(layer.operation, inputs, parameters, dy, training=probe.training)
        quantum = 0.0 if probe.labels is not None else prod(map(_quantum, (*inputs, *parameters.values(), dy)))
        for kind, gradient in found.parameters.items():
            answer = recorded["parameters"].get(f"{name}/{kind}")
            verdicts.append(_judge(name, f"{name}/{kind}", answer, [_exact(gradient, quantum)]))
        for input_name, gradient in zip(layer.inputs, found.inputs, strict=True):
            expected[input_name].append(_exact(gradient, quantum))
    first = spec.layers[0].name
    verdicts.append(_judge(first, IMAGE, gradients.get(IMAGE), expected[IMAGE]))
    return verdicts + _judge_statistics(spec, probe, given, recorded["weights"])


def _given(drive: np.ndarray) -> Gradient:
    value = drive.astype(np.float64)
    return Gradient(value, np.zeros_like(value), np.abs(value))


def _quantum(array: np.ndarray) -> float:
    """The power of two that all elements are multiples of, if there is one down to 2^-16; else 0."""
    for exponent in range(0, 17, 4):
        scaled = np.ldexp(array, exponent)
        if (scaled == np.rint(scaled)).all():
            return 2.0**-exponent
    return 0.0


def _exact(gradient: Gradient, quantum: float) -> Gradient:
    """The gradient with a bound of 0 if float32 makes no error in it: dyadic factors, and partial sums below 2^24."""
    if gradient.magnitude is not None and gradient.magnitude.max(initial=0) < EXACT_LIMIT * quantum:
        return Gradient(gradient.value, np.zeros_like(gradient.bound))
    return replace(gradient, magnitude=None)  # which may be as large as all that is recorded


def _judge(layer: str, what: str, answer: np.ndarray | None, parts: Sequence[Gradient]) -> GradientVerdict:
    """Whether a recorded gradient is the sum of its parts, up to their bounds and the roundings of the sum."""
    if not parts:  # nothing depends on it
        return GradientVerdict(layer, what, IDENTICAL if answer is None or not answer.any() else DIVERGED)
    value, bound = parts[0].value, parts[0].bound
    for part in parts[1:]:
        value, bound = value + part.value, bound + part.bound
    open_to_choice = [part.choice for part in parts if part.choice is not None]
    exact = not (np.any(bound) or open_to_choice) and _sum_is_exact(parts)
    if len(parts) > 1 and not exact:
        magnitude = np.sum([np.abs(part.value) + part.bound for part in parts] + open_to_choice, axis=0)
        bound = SECOND_ORDER * (bound + gamma(len(parts)) * magnitude) + SMALLEST_NORMAL
    if answer is None or answer.shape != value.shape or not np.isfinite(answer).all():
        return GradientVerdict(layer, what, DIVERGED, exact, None)
    if np.array_equal(answer, value.astype(np.float32)):
        return GradientVerdict(layer, what, IDENTICAL, exact)
    error = np.abs(answer - value)
    for choice in open_to_choice:
        error = np.maximum(error - choice, 0)
    if (error > bound).any():
        ratio = float(np.max(error / np.maximum(bound, SMALLEST_NORMAL)))
        return GradientVerdict(layer, what, DIVERGED, exact, ratio if (bound > 0).all() else None)
    ratio = float(np.max(error[error > 0] / bound[error > 0], initial=0.0))
    return GradientVerdict(layer, what, CERTIFIED, exact, ratio)


def _sum_is_exact(parts: Sequence[Gradient]) -> bool:
    """Whether float32 adds the parts without rounding, in every order."""
    if len(parts) == 1:
        return True
    magnitude = np.sum([np.abs(part.value) for part in parts], axis=0)
    return bool(magnitude.max(initial=0) < EXACT_LIMIT * min(_quantum(part.value) for part in parts))


def _judge_statistics(
    spec: Architecture, probe: GradientProbe, given: Mapping[str, np.ndarray], weights: Weights
) -> list[GradientVerdict]:
    """What is stored after a pass: in inference what was stored before, to the bit."""
    verdicts = []
    for layer in spec.layers:
        if isinstance(layer.operation, BatchNorm):
            stored = {kind: probe.weights[f"{layer.name}/{kind}"].astype(np.float64) for kind in ("mean", "variance")}
            expected = {kind: Gradient(before, np.zeros_like(before)) for kind, before in stored.items()}
            if probe.training:
                expected = _moved(stored, given[layer.inputs[0]].astype(np.float64), _share(spec))
            for kind, moved in expected.items():
                what = f"{layer.name}/{kind}"
                verdicts.append(_judge(layer.name, what, weights[what], [moved]))
    return verdicts


def _moved(stored: Mapping[str, np.ndarray], x: np.ndarray, share: float) -> dict[str, Gradient]:
    """The stored statistics, moved by a share towards the batch's mean and its *unbiased* variance."""
    over, count = (0, 2, 3), x.size // x.shape[1]
    mean, square = x.mean(over), np.square(x).mean(over)
    unbiased = count / (count - 1)
    fresh = {
        "mean": (mean, np.abs(x).mean(over)),
        "variance": ((square - mean**2) * unbiased, 2 * square * unbiased),
    }
    moved = {}
    for kind, (value, size) in fresh.items():
        after = (1 - share) * stored[kind] + share * value
        bound = gamma(count + 8) * share * size + gamma(4) * (np.abs(stored[kind]) + np.abs(after))
        moved[kind] = Gradient(after, bound)
    return moved


def _share(spec: Architecture) -> float:
    """What a batch's statistics count: Keras' default in the networks of a Keras tutorial, else PyTorch's."""
    return 0.01 if spec.name.startswith("resnet") and spec.name.endswith("_tutorial") else 0.1
