"""Trajectory parity: from the same weights, the same batches take every framework the same way.

Each backend trains in a process of its own (`python -m common.parity.trajectory BACKEND`), with its implementation's
own `train`: its own pipeline, optimiser, weight decay and schedule. The processes go in step, and after each step every
parameter of every backend is compared. Dropout is off: no two frameworks draw the same masks.

In float64 the trajectories must agree to `FLOAT64_AGREEMENT`, at a rate at which the networks learn. In float32 they
part, and chaotic as training is, the distance grows. How fast it may grow is measured, at a rate at which that means
something: the envelope is the distance between two float64 trainings of which one has its parameters rounded to
`ENVELOPE_BITS` significant bits, at the start and after every step.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from common.errors import TriptychError
from common.names import layer_of
from common.operations import BatchNorm
from common.operations.rounding import SMALLEST_NORMAL
from common.operations.sums import rounded
from common.parity.backends import BACKENDS, Backend, Hardware
from common.parity.processes import WorkerFailure, WorkerProcess
from common.specs import get_spec
from common.specs.architecture import Architecture
from common.training.data import Data, Split
from common.training.recipe import Recipe, he_weights
from common.training.run import Monitor, Step
from common.weights import Weights, seeded_generator

FLOAT64_AGREEMENT = 1e-12
"""How far a float64 parameter may be from the first backend's; see `Distance`."""

ENVELOPE_BITS = 18
"""How precise the parameters are that a float32 trajectory is held against.

A float32 training rounds to 24 bits, and not the parameters only: a sum of n terms, added one after another, rounds n
times at random, and is off by some √n roundings. So is an exact sum whose n factors are each off by √n roundings. 4096
terms, as these networks add up, are 6 bits.
"""

ENVELOPE_FACTOR = 2.0
"""How far above the envelope a float32 trajectory may be; chosen: which ReLU or maximum tips over is chance."""

LEARNING_RATE = 1e-4
"""In float64. In a hundred steps the loss falls by a third or more, and of an error at the start nothing grows.

At 0.001 GoogLeNet with batch normalisation makes 10⁻¹⁵ into 2·10⁻¹¹ in that time.
"""

SLOW_LEARNING_RATE = 1e-6
"""In float32: so small that what rounding changes stays small.

At 0.001 the parameters of deep networks have nothing in common after 100 steps in float32, which no limit tells from a
mistake. At 1e-5 a ReLU that tips over still changes more than all rounding. A mistake in the optimiser is seen at any
rate: what starts at 0, as biases and beta do, is the sum of the steps and nothing else.
"""

STEPS_IN_EPOCH, CLASSES = 4, 4

SIZES, BATCH = (32, 64, 224), 4
"""Heights and widths to choose from, and pictures in a step."""

NORMALISED_SIZES, NORMALISED_BATCH = (64, 224), 16
"""The same for networks with batch normalisation.

On 32×32 the last maps of a ResNet are single pixels, of which a batch of 4 has 4. Where these hardly differ, their
variance is all cancellation: a relative error of 1e-10 grows 10⁹-fold in ten steps, and no two correct backends stay
together. On 64×64 with 16 pictures it grows 16-fold.
"""


@dataclass(frozen=True)
class Job:
    """What a process is to train."""

    architecture: str
    num_classes: int
    image_size: tuple[int, int]
    steps: int
    seed: int
    dtype: str
    """`float64` or `float32`."""
    learning_rate: float = LEARNING_RATE
    rounded: bool = False
    """Whether the parameters are rounded to `ENVELOPE_BITS` at the start and after every step."""
    folder: str = ""


@dataclass(frozen=True)
class Distance:
    """How far a backend's parameters are from the reference's after one step."""

    relative: float
    """The largest |difference| of an element, relative to the largest |element|: of its tensor where two float64
    trajectories are compared, else of its layer's parameters. A bias that starts at 0 is the sum of its gradients and
    nothing else; where these cancel, float32's rounding of them is large beside it, but nothing beside the kernel.
    """
    parameter: str
    """Where it is that large."""


@dataclass
class Trajectory:
    """One backend's way in one precision: in float64 at `LEARNING_RATE`, in float32 at `SLOW_LEARNING_RATE`."""

    backend: str
    dtype: str
    status: str = "ok"
    """`ok`, `diverged`, `crashed` or `skipped`."""
    reason: str | None = None
    first_divergence: str | None = None
    """The layer of the first parameter that is too far off."""
    distances: list[Distance] = field(default_factory=list)
    """For each step; from the first backend's float64 training at the same rate."""
    losses: list[float] = field(default_factory=list)
    """For each step, the mean cross-entropy of its batch before it was made."""

    @property
    def largest(self) -> float | None:
        return max((distance.relative for distance in self.distances), default=None)


@dataclass(frozen=True)
class TrajectoryRun:
    """One network in every backend, in float64 and float32."""

    architecture: str
    image_size: tuple[int, int]
    steps: int
    trajectories: list[Trajectory]
    """First those in float64, then those in float32; the backends in the same order."""
    envelope: list[float]
    """For each step, the distance that rounding the parameters alone makes, at the rate of float32."""

    @property
    def verdict(self) -> str:
        statuses = [trajectory.status for trajectory in self.trajectories]
        if "diverged" in statuses:
            return "diverged"
        return "incomplete" if "crashed" in statuses or "ok" not in statuses else "certified"


def small_spec(architecture: str) -> Architecture:
    """The network with few classes, on the smallest image of a few usual sizes that it takes."""
    for size in NORMALISED_SIZES if _normalises(architecture) else SIZES:
        try:
            return get_spec(architecture, num_classes=CLASSES, image_size=(size, size))
        except TriptychError:
            continue
    return get_spec(architecture, num_classes=CLASSES)


def _normalises(architecture: str) -> bool:
    return any(isinstance(layer.operation, BatchNorm) for layer in get_spec(architecture).layers)


def recipe_for(job: Job) -> Recipe:
    """Few pictures a step, and a schedule with two changes of the learning rate on the way."""
    return Recipe(
        epochs=-(-job.steps // STEPS_IN_EPOCH),
        batch_size=NORMALISED_BATCH if _normalises(job.architecture) else BATCH,
        learning_rate=job.learning_rate,
        dropout=False,
        augment=("crop", "flip", "colour"),
        seed=job.seed,
    )


def pictures_for(job: Job) -> Data:
    """Sections of the photographs that ship with scikit-image; the class says which photograph."""
    from common.images import photograph

    generator = seeded_generator(job.seed, "sections")
    sections, size = [], 96
    count = STEPS_IN_EPOCH * recipe_for(job).batch_size
    for number in range(count):
        picture = np.asarray(photograph(number % CLASSES))
        top, left = (int(generator.integers(0, length - size)) for length in picture.shape[:2])
        sections.append(picture[top : top + size, left : left + size])
    split = Split(np.stack(sections), np.arange(count) % CLASSES)
    return Data("photographs", split, split.take(np.arange(CLASSES)), tuple("abcd"))


# The process of a backend


class _Enough(Exception):
    """As many steps as were asked for have been made."""


class _Export(Monitor):
    """Writes the parameters after each step, then waits until the next step is asked for."""

    def __init__(self, job: Job, read: Callable, load: Callable, answer: Callable, wait: Callable) -> None:
        self.job, self.read, self.load, self.answer, self.wait = job, read, load, answer, wait
        self.made = 0

    def step(self, step: Step) -> None:
        self.made += 1
        weights = self.read()
        if self.job.rounded:
            weights = _shortened(weights)
            self.load(weights)
        path = Path(self.job.folder) / f"{self.made}.safetensors"
        save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, path)
        self.answer({"path": str(path), "loss": step.loss})
        if self.made == self.job.steps:
            raise _Enough
        self.wait()


def _shortened(weights: Weights) -> dict[str, np.ndarray]:
    return {name: rounded(array.astype(np.float32), ENVELOPE_BITS) for name, array in weights.items()}


def train_in_steps(job: Job, backend: Backend, answer: Callable, wait: Callable) -> None:
    """Train as the job says; after each step, answer with the parameters' file and the loss, and wait for the next."""
    package = importlib.import_module(backend.implementation)
    module = importlib.import_module(f"{backend.implementation}.backend")
    height, width = job.image_size
    spec = get_spec(job.architecture, num_classes=job.num_classes, image_size=(height, width))
    build = module.build_float64 if job.dtype == "float64" else module.build
    model = build(job.architecture, num_classes=job.num_classes, image_size=(height, width))
    weights = he_weights(spec, job.seed)  # with which a hundred small steps go far
    package.load_weights(model, _shortened(weights) if job.rounded else weights)
    monitor = _Export(
        job, lambda: package.read_weights(model), lambda weights: package.load_weights(model, weights), answer, wait
    )
    try:
        package.train(model, pictures_for(job), recipe_for(job), monitor=monitor)
    except _Enough:
        return


def main() -> None:
    """Wait for a job on standard input, then answer each line with one step."""
    from common.parity.worker import describe_error, watched_input

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a framework prints must not get between the answers
    lines = watched_input()

    def answer(content: Mapping[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    job = Job(**json.loads(lines.get()))
    try:
        train_in_steps(job, BACKENDS[sys.argv[1]], answer, lines.get)
    except Exception as error:  # a framework's own failure is a row in the report, not the end of it
        answer({"error": describe_error(error)})
    lines.get()


# The other side


def run_trajectories(
    spec: Architecture,
    backends: Sequence[Backend],
    *,
    steps: int,
    seed: int = 0,
    timeout: float = 600.0,
    on_step: Callable[[int], None] = lambda step: None,
) -> TrajectoryRun:
    """Train a network in some backends that can, in float64 and float32, and compare every parameter after every step.

    A backend that crashes or hangs becomes a row that says so; the others finish. No process and no file is left
    behind, also when this is interrupted.
    """
    num_classes, size = spec.shapes[spec.outputs["logits"]][0], (spec.input_shape[1], spec.input_shape[2])
    job = Job(spec.name, num_classes, size, steps, seed, "float64")
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder:
        race = _Race(Path(folder), len(backends) * 2 + 2, timeout)
        try:
            for backend in backends:
                race.enter(backend, job, race.lanes[0] if race.lanes else None)
            slow = replace(job, learning_rate=SLOW_LEARNING_RATE)
            reference = race.enter(backends[0], slow)
            coarse = race.enter(backends[0], replace(slow, rounded=True), reference)
            for backend in backends:
                race.enter(backend, replace(slow, dtype="float32"), reference)
            race.run(steps, on_step)
        finally:
            race.end()
    envelope = [distance.relative for distance in coarse.trajectory.distances]
    shown = [lane for lane in race.lanes if lane not in (reference, coarse)]
    for lane in shown:
        against = (reference, coarse) if lane.reference is reference else (lane.reference or lane,)
        lost = next((other.trajectory for other in against if other.trajectory.status == "crashed"), None)
        if lost is None:
            judge_trajectory(lane.trajectory, envelope)
        elif lane.trajectory.status == "ok":
            lane.trajectory.status = "crashed"
            lane.trajectory.reason = f"{lost.backend}, which it is held against, crashed in float64: {lost.reason}"
    return TrajectoryRun(spec.name, size, steps, [lane.trajectory for lane in shown], envelope)


@dataclass(eq=False)
class _Lane:
    """A process, and what comes of it."""

    worker: WorkerProcess
    job: Job
    trajectory: Trajectory
    reference: _Lane | None
    """What it is measured against; itself if None."""


class _Race:
    """All processes of one network, going in step."""

    def __init__(self, folder: Path, processes: int, timeout: float) -> None:
        self.folder, self.timeout = folder, timeout
        self.hardware = Hardware.shared(processes)
        self.lanes: list[_Lane] = []

    def enter(self, backend: Backend, job: Job, reference: _Lane | None = None) -> _Lane:
        """Start a process."""
        home = self.folder / str(len(self.lanes))
        home.mkdir()
        worker = WorkerProcess(backend, self.hardware, home / "log", module="common.parity.trajectory")
        trajectory = Trajectory(backend.name, job.dtype)
        self.lanes.append(_Lane(worker, replace(job, folder=str(home)), trajectory, reference))
        return self.lanes[-1]

    def end(self) -> None:
        """End all processes."""
        for lane in self.lanes:
            lane.worker.kill()

    def run(self, steps: int, on_step: Callable[[int], None]) -> None:
        """Have all make a step and compare them, again and again; a lane whose reference is lost ends with it."""
        with ThreadPoolExecutor(len(self.lanes)) as executor:
            try:
                for step in range(1, steps + 1):
                    paths = list(executor.map(self._ask, self.lanes))
                    if not any(paths):
                        break
                    self._compare(paths)
                    on_step(step)
            except BaseException:
                self.end()  # or the threads would be waited for, and they for answers
                raise

    def _ask(self, lane: _Lane) -> Path | None:
        """Have a process make a step; where its parameters are then, or None if it is out of the race."""
        lost = lane.reference is not None and lane.reference.trajectory.status != "ok"
        if lane.trajectory.status != "ok" or lost:
            return None
        try:
            request = {} if lane.trajectory.losses else asdict(lane.job)
            answer = lane.worker.ask(request, self.timeout)
        except WorkerFailure as failure:
            lane.trajectory.status, lane.trajectory.reason = "crashed", str(failure)
            return None
        lane.trajectory.losses.append(answer["loss"])
        return Path(answer["path"])

    def _compare(self, paths: Sequence[Path | None]) -> None:
        """Measure every process against its reference, and forget what was written."""
        found = {id(lane): path for lane, path in zip(self.lanes, paths, strict=True) if path}
        for reference in (lane for lane in self.lanes if lane.reference is None and id(lane) in found):
            parameters = load_file(found[id(reference)])
            scales = scales_of(parameters, by_layer=reference.job.learning_rate == SLOW_LEARNING_RATE)

            def compare(lane: _Lane, parameters: Weights = parameters, scales: Mapping[str, float] = scales) -> None:
                path = found[id(lane)]
                lane.trajectory.distances.append(distance(load_file(path), parameters, scales))
                path.unlink()

            held = [lane for lane in self.lanes if id(lane) in found and (lane.reference or lane) is reference]
            with ThreadPoolExecutor(os.cpu_count()) as executor:
                list(executor.map(compare, held))


def scales_of(reference: Weights, *, by_layer: bool) -> dict[str, float]:
    """What the distance of each parameter is relative to: the largest |element| of it, or of all its layer's."""
    largest = {name: max(float(np.abs(array).max()), SMALLEST_NORMAL) for name, array in reference.items()}
    if not by_layer:
        return largest
    of_layers: dict[str, float] = {}
    for name, size in largest.items():
        of_layers[layer_of(name)] = max(size, of_layers.get(layer_of(name), 0.0))
    return {name: of_layers[layer_of(name)] for name in largest}


def distance(found: Weights, reference: Weights, scales: Mapping[str, float]) -> Distance:
    """The largest distance of all parameters, each relative to its scale."""
    relative = {}
    for name, scale in scales.items():
        difference = float(np.abs(found[name] - reference[name]).max()) / scale
        relative[name] = difference if np.isfinite(difference) else np.inf
    worst = max(relative, key=relative.__getitem__)
    return Distance(relative[worst], worst)


def judge_trajectory(trajectory: Trajectory, envelope: Sequence[float]) -> None:
    """Accuse a trajectory of what rounding does not explain.

    In float64 that is more than the agreement required, in float32 more than `ENVELOPE_FACTOR` times the envelope's
    largest until then.
    """
    for number, found in enumerate(trajectory.distances):
        allowed = FLOAT64_AGREEMENT
        if trajectory.dtype == "float32":
            allowed = ENVELOPE_FACTOR * max(envelope[: number + 1])
        if found.relative > allowed:
            trajectory.status = "diverged"
            trajectory.first_divergence = layer_of(found.parameter)
            trajectory.reason = (
                f"{found.parameter} differs by {found.relative:.2g} after step {number + 1}, "
                f"{allowed:.2g} is explained by {trajectory.dtype}"
            )
            return


if __name__ == "__main__":
    main()
