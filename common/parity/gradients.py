"""Gradient parity: the backward pass of every layer of every backend, held to the oracle of `common.backward`.

Each backend runs in a process of its own (`python -m common.parity.gradients BACKEND`) and hands over, for every layer,
its output and the gradient by it, and the gradient by every parameter and by the image. As in the forward pass, a layer
is judged by what the backend itself gave it: its recorded input and the recorded gradient by its output.

On the *exact* probe all of these are integers wherever they can be, so that every sum is exact and the bits must be
those of float64. There the loss is Σ drive · logits with integer drives, and the graph is cut around each layer that
rounds, and before each max-pool: integers are injected in front of it and behind it, going forward and going back. No
window of a max-pool holds its largest value twice; where one does, frameworks route the gradient differently.

On the *random* probe the loss is the training loss on seeded weights, and bounds decide. Dropout is off. Both are run
with stored statistics and, where there is batch normalisation, with those of the batch; what is stored is compared too.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.backward import SECOND_ORDER, Gradient, backward, cross_entropy
from common.errors import TriptychError
from common.oracle import SMALLEST_NORMAL, gamma, parameters_of
from common.parity.backends import BACKENDS, Backend, Hardware
from common.parity.processes import WorkerFailure, WorkerProcess
from common.probes import EXACT_LIMIT, exact_probe
from common.specs.architecture import (
    IMAGE,
    LRN,
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    BatchNorm,
    GlobalAveragePool,
    Layer,
    MaxPool,
    ScaledTanh,
    Sigmoid,
)
from common.training.recipe import AUXILIARY_WEIGHT
from common.weights import Weights, initial_weights, read_weights_file, seeded_generator, write_weights_file

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


def gradient_probes(spec: Architecture, *, seed: int = 0, batch: int = 2) -> list[GradientProbe]:
    """The exact and the random probe, with stored statistics and, if the network normalises, with the batch's."""
    modes = (False, True) if any(isinstance(layer.operation, BatchNorm) for layer in spec.layers) else (False,)
    return [make(spec, seed, batch, training) for training in modes for make in (_exact_probe, _random_probe)]


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
        verdicts.append(
            _judge(readers[name][0] if readers[name] else "loss", name, gradients.get(name), expected[name])
        )
        dy = probe.drives[name] if name in probe.cuts else gradients.get(name)
        if dy is None:
            continue
        inputs = [given[input_name] for input_name in layer.inputs]
        parameters = parameters_of(name, probe.weights)
        found = backward(layer.operation, inputs, parameters, dy, training=probe.training)
        quantum = prod(_quantum(array) for array in (*inputs, *parameters.values(), dy))
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
        scaled = np.ldexp(array.astype(np.float64), exponent)
        if (scaled == np.rint(scaled)).all():
            return 2.0**-exponent
    return 0.0


def _exact(gradient: Gradient, quantum: float) -> Gradient:
    """The gradient with a bound of 0 if float32 makes no error in it: dyadic factors, and partial sums below 2^24."""
    if gradient.magnitude is not None and gradient.magnitude.max(initial=0) < EXACT_LIMIT * quantum:
        return Gradient(gradient.value, np.zeros_like(gradient.bound), gradient.magnitude)
    return gradient


def _judge(layer: str, what: str, answer: np.ndarray | None, parts: Sequence[Gradient]) -> GradientVerdict:
    """Whether a recorded gradient is the sum of its parts, up to their bounds and the roundings of the sum."""
    if not parts:  # nothing depends on it
        return GradientVerdict(layer, what, IDENTICAL if answer is None or not answer.any() else DIVERGED)
    value = np.sum([part.value for part in parts], axis=0)
    bound = np.sum([part.bound for part in parts], axis=0)
    if len(parts) > 1 and np.any(bound):
        magnitude = np.sum([np.abs(part.value) + part.bound for part in parts], axis=0)
        bound = SECOND_ORDER * (bound + gamma(len(parts)) * magnitude) + SMALLEST_NORMAL
    if answer is None or answer.shape != value.shape or not np.isfinite(answer).all():
        return GradientVerdict(layer, what, DIVERGED, None)
    if np.array_equal(answer, value.astype(np.float32)):
        return GradientVerdict(layer, what, IDENTICAL)
    error = np.abs(answer - value)
    if (error > bound).any():
        ratio = float(np.max(error / np.maximum(bound, SMALLEST_NORMAL)))
        return GradientVerdict(layer, what, DIVERGED, ratio if (bound > 0).all() else None)
    return GradientVerdict(layer, what, CERTIFIED, float(np.max(error[error > 0] / bound[error > 0], initial=0.0)))


def _judge_statistics(
    spec: Architecture, probe: GradientProbe, given: Mapping[str, np.ndarray], weights: Weights
) -> list[GradientVerdict]:
    """After a pass with the batch's statistics: what is stored of each, the mean and the *unbiased* variance."""
    verdicts = []
    for layer in spec.layers:
        if not isinstance(layer.operation, BatchNorm):
            continue
        x = given[layer.inputs[0]].astype(np.float64)
        over, count = (0, 2, 3), x.size // x.shape[1]
        share = _share(spec) if probe.training else 0.0
        mean, square = x.mean(over), np.square(x).mean(over)
        fresh = {"mean": mean, "variance": (square - mean**2) * count / (count - 1)}
        for kind, value in fresh.items():
            before = probe.weights[f"{layer.name}/{kind}"].astype(np.float64)
            expected = (1 - share) * before + share * value
            size = np.abs(x).mean(over) if kind == "mean" else 2 * square * count / (count - 1)
            bound = gamma(count + 8) * share * size + gamma(4) * (np.abs(before) + np.abs(expected))
            if not probe.training:
                bound = np.zeros_like(bound)
            what = f"{layer.name}/{kind}"
            verdicts.append(_judge(layer.name, what, weights[what], [Gradient(expected, bound)]))
    return verdicts


def _share(spec: Architecture) -> float:
    """What a batch's statistics count: Keras' default in the networks of a Keras tutorial, else PyTorch's."""
    return 0.01 if spec.name.startswith("resnet") and spec.name.endswith("_tutorial") else 0.1


# Running


@dataclass(frozen=True)
class GradientResult:
    """One backend on one probe."""

    backend: str
    status: str
    """`ok`, `diverged` or `crashed`."""
    reason: str | None = None
    verdicts: list[GradientVerdict] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        found = {verdict.verdict for verdict in self.verdicts}
        if self.status == "crashed":
            return "incomplete"
        return next((name for name in (DIVERGED, CERTIFIED) if name in found), IDENTICAL)

    @property
    def bound_ratio(self) -> float | None:
        ratios = [verdict.bound_ratio for verdict in self.verdicts]
        return None if None in ratios else max((r for r in ratios if r is not None), default=0.0)


@dataclass(frozen=True)
class GradientRun:
    """One network on one probe in every backend."""

    architecture: str
    probe: str
    mode: str
    """`inference` or `training`: which statistics batch normalisation uses."""
    rounding: list[str]
    """On the exact probe, the layers whose own backward pass rounds."""
    backends: list[GradientResult]


def run_gradients(
    spec: Architecture,
    backends: Sequence[Backend],
    *,
    seed: int = 0,
    batch: int = 2,
    timeout: float = 600.0,
    on_progress: Callable[[str], None] = lambda what: None,
) -> list[GradientRun]:
    """Differentiate a network in every backend that is installed, and judge every gradient.

    A backend that crashes or hangs becomes a row that says so; the others finish. No process and no file is left
    behind, also when this is interrupted.

    Raises:
        TriptychError: none of the backends is installed, or there is no exact probe for the network.
    """
    installed = [backend for backend in backends if not (backend.missing or backend.through_onnx)]
    if not installed:
        raise TriptychError("no backend that can differentiate is installed; see triptych doctor")
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        probes = gradient_probes(spec, seed=seed, batch=batch)
        requests = [_request(spec, probe, folder, number) for number, probe in enumerate(probes)]
        results: list[list[GradientResult]] = [[] for _ in probes]
        for backend in installed:
            worker = WorkerProcess(
                backend, Hardware(), folder / f"{backend.name}.log", module="common.parity.gradients"
            )
            try:
                for probe, request, row in zip(probes, requests, results, strict=True):
                    row.append(_run(spec, backend, worker, probe, request, timeout))
                    on_progress(f"{spec.name} {backend.name} {probe.name} {probe.mode}")
            finally:
                worker.kill()
    return [
        GradientRun(spec.name, probe.name, probe.mode, _rounding(spec) if probe.cuts else [], row)
        for probe, row in zip(probes, results, strict=True)
    ]


def _rounding(spec: Architecture) -> list[str]:
    kinds = (BatchNorm, LRN, Sigmoid, ScaledTanh)
    return [
        layer.name for layer in spec.layers if isinstance(layer.operation, kinds) or _averages_unevenly(spec, layer)
    ]


def _request(spec: Architecture, probe: GradientProbe, folder: Path, number: int) -> dict[str, Any]:
    arrays = {"image ": probe.image} | ({} if probe.labels is None else {"labels ": probe.labels})
    for kind, named in (("cuts", probe.cuts), ("drives", probe.drives)):
        arrays |= {f"{kind} {name}": array for name, array in named.items()}
    np.savez(folder / f"{number}.npz", **arrays)  # type: ignore[arg-type]
    weights = folder / f"{number}.safetensors"
    write_weights_file(weights, probe.weights)
    return {
        "architecture": spec.name,
        "num_classes": spec.num_classes,
        "image_size": spec.input_shape[1:],
        "weights": str(weights),
        "probe": str(folder / f"{number}.npz"),
        "training": probe.training,
        "output": str(folder / "answer.npz"),
    }


def _run(
    spec: Architecture,
    backend: Backend,
    worker: WorkerProcess,
    probe: GradientProbe,
    request: dict[str, Any],
    timeout: float,
) -> GradientResult:
    try:
        worker.ask(request, timeout)
    except WorkerFailure as failure:
        return GradientResult(backend.name, "crashed", str(failure))
    recorded: dict[str, dict[str, np.ndarray]] = {}
    with np.load(request["output"]) as arrays:
        for key in arrays.files:
            kind, _, name = key.partition(" ")
            recorded.setdefault(kind, {})[name] = arrays[key]
    verdicts = judge_gradients(spec, probe, recorded)
    wrong = next((verdict for verdict in verdicts if verdict.verdict == DIVERGED), None)
    reason = (
        None if wrong is None else f"the first from the loss backwards is {wrong.layer}: the gradient by {wrong.what}"
    )
    return GradientResult(backend.name, "ok" if wrong is None else "diverged", reason, verdicts)


# The process of a backend


def main() -> None:
    """Answer each request, a JSON line that names a probe's files, with the file of what was recorded."""
    from common.parity.worker import describe_error, watched_input

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a framework prints must not get between the answers
    lines = watched_input()
    backend = BACKENDS[sys.argv[1]]
    model = None
    while True:
        request = json.loads(lines.get())
        try:
            package = importlib.import_module(backend.implementation)
            module = importlib.import_module(
                f"{backend.implementation}.{'compiled' if backend.compiled else 'gradients'}"
            )
            record = module.record_gradients_compiled if backend.compiled else module.record_gradients
            if model is None:
                model = package.build(
                    request["architecture"],
                    num_classes=request["num_classes"],
                    image_size=tuple(request["image_size"]),
                )
            package.load_weights(model, read_weights_file(request["weights"]))
            with np.load(request["probe"]) as arrays:
                parts: dict[str, dict[str, np.ndarray]] = {"cuts": {}, "drives": {}}
                for key in arrays.files:
                    kind, _, name = key.partition(" ")
                    parts.setdefault(kind, {})[name] = arrays[key]
            labels = parts["labels"][""] if "labels" in parts else None
            recorded = record(
                model,
                parts["image"][""],
                cuts=parts["cuts"],
                drives=parts["drives"],
                labels=labels,
                training=request["training"],
            )
            np.savez(request["output"], **{f"{k} {n}": a for k, arrays in recorded.items() for n, a in arrays.items()})
            answer: dict[str, Any] = {}
        except Exception as error:  # a framework's own failure is a row in the report, not the end of it
            answer = {"error": describe_error(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
