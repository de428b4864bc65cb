"""Gradient parity: the backward pass of every layer of every backend, held to the oracle of `common.operations`.

Each backend hands over every layer's output, and the gradients with respect to every layer's output, every parameter
and the image. As in the forward pass, a layer is judged by what the backend itself gave it: its recorded input and the
recorded gradient with respect to its output.

On the *exact* probe all of these are integers wherever they can be, so that every sum is exact and the bits must be
those of float64. There the loss is Σ drive · logits with integer drives, and the graph is cut around each layer that
rounds, and before each max-pool: integers are injected in front of it and after it, going forward and going back. No
window of a max-pool holds its largest value twice; where one does, frameworks route the gradient differently.

On *random* numbers and on a *photo* the weights are seeded or given, the loss is the training loss, and bounds decide.
Dropout is off. All probes are run with stored statistics and, where there is batch normalisation, with those of the
batch; what is stored is compared too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from math import prod

import numpy as np

from common.errors import TriptychError
from common.operations import Average, BatchNorm, MaxPool, backward
from common.operations.loss import AUXILIARY_WEIGHT, cross_entropy
from common.operations.names import parameters_of
from common.operations.rounding import EXACT_LIMIT, FP32, SECOND_ORDER, SMALLEST_NORMAL, Gradient, Reference, gamma
from common.parity.measures import measure, verdict_from
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL, LayerVerdict
from common.probes import PROBES, Probe, make_probe, quantum_of, sparse_probe
from common.specs.architecture import IMAGE, Architecture, Layer
from common.specs.seeded import initial_weights, seeded_generator
from common.weights import Weights

USUAL_FOR_GRADIENTS = ("exact", "random")
"""The probes that are run if none is named."""


@dataclass(frozen=True)
class GradientProbe(Probe):
    """A probe that every backend differentiates. No gradient goes through an injected value."""

    training: bool = False
    """Whether batch normalisation uses the statistics of the batch."""
    drives: dict[str, np.ndarray] = field(default_factory=dict)
    """The gradient that is injected at a layer's own output."""
    labels: np.ndarray | None = None
    """int64, (N,): the classes for the training loss. None: there are only the drives."""

    @property
    def mode(self) -> str:
        return TRAINING if self.training else INFERENCE


INFERENCE, TRAINING = "inference", "training"


def check_differentiable(probe: str) -> None:
    """Refuse a probe without a backward pass.

    Raises:
        TriptychError: it is only for the forward pass.
    """
    if probe in PROBES and probe not in ("exact", "random", "photo"):
        raise TriptychError(f"there are no gradients on the {probe} probe; use exact, random, photo or an image")


def gradient_probes(
    spec: Architecture,
    names: Sequence[str] = USUAL_FOR_GRADIENTS,
    *,
    seed: int = 0,
    batch: int | None = None,
    weights: Weights | None = None,
) -> list[GradientProbe]:
    """The probes of these names, each with stored statistics and, if the network normalises, with the batch's.

    As in the forward pass, the exact probe has two images and the others have one, unless `batch` says otherwise.

    Raises:
        TriptychError: there is no exact probe for the network, or no such photograph.
    """
    probes = [
        _exact_probe(spec, seed, batch or 2) if name == "exact" else _real_probe(name, spec, seed, batch or 1, weights)
        for name in names
    ]
    return [replace(probe, training=mode == TRAINING) for probe in probes for mode in modes(spec)]


def modes(spec: Architecture) -> tuple[str, ...]:
    """Inference and training, if there is a difference. Without dropout, only batch normalisation makes one."""
    normalises = any(isinstance(layer.operation, BatchNorm) for layer in spec.layers)
    return (INFERENCE, TRAINING) if normalises else (INFERENCE,)


def _real_probe(name: str, spec: Architecture, seed: int, batch: int, weights: Weights | None) -> GradientProbe:
    """The training loss on seeded labels; random numbers are small, so that the softmax is not all 0 and 1."""
    labels = seeded_generator(seed, "labels").integers(0, spec.num_classes, batch)
    if name != "random":
        forward = make_probe(name, spec, seed=seed, batch=batch, weights=weights)
        return GradientProbe(name, forward.weights, forward.image, labels=labels)
    image = seeded_generator(seed, IMAGE).standard_normal((batch, *spec.input_shape), dtype=np.float32)
    return GradientProbe(name, weights or initial_weights(spec, seed), image, labels=labels)


def _exact_probe(spec: Architecture, seed: int, batch: int) -> GradientProbe:
    forward = sparse_probe(spec, seed=seed, batch=batch)
    bounded = {
        layer.name: f"{layer.operation.kind} rounds: judged by its bound, with integers injected around it"
        for layer in spec.layers
        if layer.name in forward.bounded or _averages_unevenly(spec, layer)
    }
    in_front = {name for layer in spec.layers if layer.name in bounded for name in layer.inputs}
    pools = {
        name: max(layer.operation.window(spec.shapes[name])[0])
        for layer in spec.layers
        if isinstance(layer.operation, MaxPool)
        for name in layer.inputs
    }
    injected, drives = {}, {}
    for layer in spec.layers:
        generator = seeded_generator(seed, f"gradient {layer.name}")
        shape = (batch, *spec.shapes[layer.name])
        if layer.name in pools:
            injected[layer.name] = _without_ties(shape, pools[layer.name], generator)
        elif layer.name in bounded or layer.name in in_front:
            injected[layer.name] = generator.integers(-8, 9, shape).astype(np.float32)
        if layer.name in injected or layer.name in spec.outputs.values():
            drives[layer.name] = generator.integers(-3, 4, shape).astype(np.float32)
    return GradientProbe("exact", forward.weights, forward.image, injected, bounded=bounded, drives=drives)


def _averages_unevenly(spec: Architecture, layer: Layer) -> bool:
    """Whether a layer divides by something that is no power of two."""
    shape = spec.input_shapes(layer)[0]
    return isinstance(layer.operation, Average) and not layer.operation.divides_exactly((1, *shape))


def _without_ties(shape: tuple[int, ...], window: int, generator: np.random.Generator) -> np.ndarray:
    """Integers such that no `window`×`window` square has one twice: they differ modulo window²."""
    batch, channels, height, width = shape
    residues = generator.permuted(np.tile(np.arange(window * window), (batch, channels, 1)), axis=2)
    rows, columns = np.arange(height)[:, None] % window, np.arange(width)[None] % window
    multiples = generator.integers(0, 3, shape) * window * window
    return (residues[:, :, rows * window + columns] + multiples + 1).astype(np.float32)


# Judging


@dataclass(frozen=True)
class GradientVerdict(LayerVerdict):
    """The verdict on one gradient of one backend. `name` is the layer whose backward pass made it, or `loss`."""

    what: str = ""
    """The parameter, or the layer with respect to whose output it is; `image` for the image."""
    exact: bool = True
    """Whether float32 makes no error in it, so that its bits decide; otherwise a bound does."""


@dataclass(frozen=True)
class _Part:
    """The gradient that one reader of a tensor hands back."""

    reader: str
    gradient: Gradient
    exact: bool
    """Whether float32 makes no error in it."""


def judge_gradients(
    spec: Architecture, probe: GradientProbe, recorded: Mapping[str, Mapping[str, np.ndarray]]
) -> list[GradientVerdict]:
    """Judge every gradient, from the loss backwards; the first that diverged is the mistake.

    Args:
        spec: the network.
        probe: what the backend was given.
        recorded: its answer; see `record_gradients` of each implementation.
    """
    outputs, gradients = recorded["outputs"], recorded["gradients"]
    shapes = {name: (len(probe.image), *shape) for name, shape in spec.shapes.items()}
    for layer in spec.layers:
        if layer.name not in outputs or outputs[layer.name].shape != shapes[layer.name]:
            cause = f"{layer.name} was not computed, or has another shape"
            return [GradientVerdict(layer.name, DIVERGED, None, "other", None, cause=cause)]
    given = {IMAGE: probe.image, **outputs, **probe.injected}
    expected: dict[str, list[_Part]] = {name: [] for name in (IMAGE, *spec.shapes)}
    verdicts = []
    heads = {layer: name for name, layer in spec.outputs.items()}
    for layer in reversed(spec.layers):
        name = layer.name
        if name in probe.drives and name not in probe.injected:
            expected[name].append(_part("loss", _given(probe.drives[name])))
        if name in heads and probe.labels is not None:
            weight = 1.0 if heads[name] == "logits" else AUXILIARY_WEIGHT
            loss = cross_entropy(outputs[name], probe.labels)
            bound = weight * loss.bound + gamma(2) * np.abs(loss.value)
            expected[name].append(_part("loss", Gradient(weight * loss.value, bound)))
        verdicts.append(_judge(name, gradients.get(name), expected.pop(name)))
        dy = probe.drives[name] if name in probe.injected else gradients.get(name)
        if dy is None or dy.shape != shapes[name]:
            continue
        inputs = [given[input_name] for input_name in layer.inputs]
        parameters = parameters_of(name, probe.weights)
        found = backward(layer.operation, inputs, parameters, dy, training=probe.training)
        quantum = 0.0 if probe.labels is not None else prod(map(quantum_of, (*inputs, *parameters.values(), dy)))
        for kind, gradient in found.parameters.items():
            answer = recorded["parameters"].get(f"{name}/{kind}")
            verdicts.append(_judge(f"{name}/{kind}", answer, [_part(name, gradient, quantum)]))
        for input_name, gradient in zip(layer.inputs, found.inputs, strict=True):
            expected[input_name].append(_part(name, gradient, quantum))
    verdicts.append(_judge(IMAGE, gradients.get(IMAGE), expected[IMAGE]))
    return verdicts + _judge_statistics(spec, probe, given, recorded["weights"])


def by_layer(verdicts: Sequence[GradientVerdict]) -> list[LayerVerdict]:
    """One verdict for each layer, on all gradients that its backward pass made, in the order of the first of them."""
    layers: dict[str, list[GradientVerdict]] = {}
    for verdict in verdicts:
        layers.setdefault(verdict.name, []).append(verdict)
    return [_together(name, group) for name, group in layers.items()]


def _together(name: str, group: Sequence[GradientVerdict]) -> LayerVerdict:
    worst = min(group, key=lambda verdict: (DIVERGED, CERTIFIED, IDENTICAL).index(verdict.verdict))
    ratios, ulps = [verdict.bound_ratio for verdict in group], [verdict.max_ulp for verdict in group]
    histograms = zip_longest(*(verdict.ulp_histogram for verdict in group), fillvalue=0)
    wrong = [verdict.what for verdict in group if verdict.verdict == DIVERGED and verdict.what]
    stored = [what for what in wrong if what.endswith(("/mean", "/variance"))]
    gradients = [what for what in wrong if what not in stored]
    causes = [
        f"the gradient with respect to {', '.join(gradients)}" if gradients else None,
        f"what is stored as {', '.join(stored)}" if stored else None,
        *(verdict.cause for verdict in group),
    ]
    return LayerVerdict(
        name,
        worst.verdict,
        None if None in ratios else max(ratio for ratio in ratios if ratio is not None),
        worst.precision,
        None if None in ulps else max(ulp for ulp in ulps if ulp is not None),
        () if None in ulps else tuple(map(sum, histograms)),
        cause="; ".join(filter(None, causes)) or None,
    )


def _given(drive: np.ndarray) -> Gradient:
    value = drive.astype(np.float64)
    return Gradient(value, np.zeros_like(value), np.abs(value))


def _part(reader: str, gradient: Gradient, quantum: float = 0.0) -> _Part:
    """A part. Dyadic factors with partial sums below 2^24 are exact, and copies."""
    small = gradient.magnitude is not None and gradient.magnitude.max(initial=0) < EXACT_LIMIT * quantum
    exact = gradient.choice is None and (small or not gradient.bound.any())
    return _Part(reader, replace(gradient, magnitude=None), exact)  # which may be as large as all that is recorded


def _judge(what: str, answer: np.ndarray | None, parts: Sequence[_Part]) -> GradientVerdict:
    """Whether a recorded gradient is the sum of its parts, up to their bounds and the roundings of the sum."""
    if not parts:  # nothing depends on it
        return GradientVerdict("loss", IDENTICAL if answer is None or not answer.any() else DIVERGED, what=what)
    exact = all(part.exact for part in parts) and _sum_is_exact(parts)
    reader = next((part.reader for part in parts if not part.exact), parts[0].reader)
    gradients = [part.gradient for part in parts]
    value, bound = gradients[0].value, gradients[0].bound
    for gradient in gradients[1:]:
        value, bound = value + gradient.value, bound + gradient.bound
    if answer is None or answer.shape != value.shape:
        return GradientVerdict(reader, DIVERGED, None, "other", None, what=what, exact=exact)
    choices = [gradient.choice for gradient in gradients if gradient.choice is not None]
    if len(parts) > 1 and not exact:
        magnitude = np.sum([np.abs(gradient.value) + gradient.bound for gradient in gradients] + choices, axis=0)
        bound = SECOND_ORDER * (bound + gamma(len(parts)) * magnitude) + SMALLEST_NORMAL
    for choice in choices:  # of what is open to choice, what the backend has chosen
        value = np.clip(answer, value - choice, value + choice)
    copied = not bound.any()
    measures = [
        measure(
            answer[rows],
            Reference(value[rows], None if copied else np.maximum(bound[rows], SMALLEST_NORMAL)),
            must_be_exact=exact and not copied,
        )
        for rows in _pieces(answer)
    ]
    return GradientVerdict(**vars(verdict_from(reader, measures, FP32)), what=what, exact=exact)


def _pieces(array: np.ndarray) -> list[slice]:
    """Slices of rows with few elements, so that intermediate arrays stay small."""
    rows = max(1, (1 << 20) * len(array) // max(1, array.size))
    return [slice(first, first + rows) for first in range(0, len(array), rows)]


def _sum_is_exact(parts: Sequence[_Part]) -> bool:
    """Whether float32 adds the parts without rounding, in every order."""
    if len(parts) == 1:
        return True
    values = [part.gradient.value for part in parts]
    magnitude = np.sum([np.abs(value) for value in values], axis=0)
    return bool(magnitude.max(initial=0) < EXACT_LIMIT * min(map(quantum_of, values)))


def _judge_statistics(
    spec: Architecture, probe: GradientProbe, given: Mapping[str, np.ndarray], weights: Weights
) -> list[GradientVerdict]:
    """The stored statistics after a pass. In inference they must have the same bits as before."""
    verdicts = []
    for layer in spec.layers:
        if isinstance(layer.operation, BatchNorm):
            stored = {kind: probe.weights[f"{layer.name}/{kind}"].astype(np.float64) for kind in ("mean", "variance")}
            expected = {kind: Gradient(before, np.zeros_like(before)) for kind, before in stored.items()}
            if probe.training:
                expected = _moved(stored, given[layer.inputs[0]].astype(np.float64), share_of_batch(spec))
            for kind, moved in expected.items():
                what = f"{layer.name}/{kind}"
                verdicts.append(_judge(what, weights.get(what), [_part(layer.name, moved)]))
    return verdicts


def _moved(stored: Mapping[str, np.ndarray], x: np.ndarray, share: float) -> dict[str, Gradient]:
    """The stored statistics, moved by a fraction towards the batch's mean and its *unbiased* variance."""
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


def share_of_batch(spec: Architecture) -> float:
    """The weight of a batch's statistics: Keras' default in the networks of a Keras tutorial, else PyTorch's."""
    return 0.01 if spec.name.startswith("resnet") and spec.name.endswith("_tutorial") else 0.1
