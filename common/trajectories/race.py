"""Trajectory parity: the same weights and batches must give the same steps in every framework.

All backends take each step together. In float64, at a rate at which the networks learn, each training is judged by
itself (`umpire`): a step must follow from its own parameters and its own velocity. It is not compared with another
training.

In float32, trainings diverge. Since training is chaotic, the distance grows. The allowed growth is measured, at a rate
at which it is meaningful. This *envelope* is the distance between two float64 trainings. One of them has its parameters
rounded to `ENVELOPE_BITS` significant bits, at the start and after every step. Both are trainings of the first backend
whose float64 steps are all right. The float32 trainings are compared with the one that is not rounded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from safetensors.numpy import load_file

from common.parity.backends import Backend, Hardware
from common.parity.processes import WorkerProcess
from common.process import ProcessFailure
from common.specs.architecture import Architecture
from common.trajectories.umpire import Trajectory, TrajectoryRun, Umpire, distance, scales_of
from common.trajectories.worker import SLOW_LEARNING_RATE, Job

ENVELOPE_FACTOR = 2.0
"""How many times the envelope a float32 trajectory may be away. Chosen: it is chance which ReLU or maximum changes."""


def run_trajectories(
    spec: Architecture,
    backends: Sequence[Backend],
    *,
    steps: int,
    seed: int = 0,
    timeout: float = 600.0,
    on_step: Callable[[int], None] = lambda step: None,
) -> TrajectoryRun:
    """Train a network in some backends, in float64 and then in float32, and judge every training.

    A backend that crashes or hangs becomes a row that says so; the others finish. No process and no file is left
    behind, also when this is interrupted.

    Args:
        spec: the network, as `small_spec` makes it.
        backends: which.
        steps: how many steps each makes.
        seed: of the weights and of the pictures.
        timeout: seconds that a backend may take for a step.
        on_step: is told of each step, twice: of those in float64, then of those in float32.
    """
    num_classes, size = spec.shapes[spec.outputs["logits"]][0], (spec.input_shape[1], spec.input_shape[2])
    job = Job(spec.name, num_classes, size, steps, seed, "float64")
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder:
        umpire = Umpire(spec, job)
        race = _Race(Path(folder) / "float64", len(backends), timeout)
        double = _in_float64(backends, job, race, umpire, on_step)
        right = next((b for b, way in zip(backends, double, strict=True) if way.status == "ok"), None)
        if right is None:
            reason = "no backend makes all float64 steps rightly, so there is nothing to compare with"
            single = [Trajectory(backend.name, "float32", "skipped", reason) for backend in backends]
            return TrajectoryRun(spec.name, size, steps, double + single, [])
        slow = replace(job, learning_rate=SLOW_LEARNING_RATE)
        race = _Race(Path(folder) / "float32", len(backends) + 2, timeout)
        single, envelope = _in_float32(right, backends, slow, race, Umpire(spec, slow, umpire.first), on_step)
    return TrajectoryRun(spec.name, size, steps, double + single, envelope)


def _in_float64(
    backends: Sequence[Backend], job: Job, race: _Race, umpire: Umpire, on_step: Callable[[int], None]
) -> list[Trajectory]:
    """Judge the trainings in float64, each by itself."""
    lanes = [race.enter(backend, job) for backend in backends]

    def after(step: int, made: Sequence[_Lane]) -> None:
        _show(umpire, step, made)
        on_step(step)

    race.run(job.steps, after)
    return [lane.trajectory for lane in lanes]


def _in_float32(
    right: Backend,
    backends: Sequence[Backend],
    job: Job,
    race: _Race,
    umpire: Umpire,
    on_step: Callable[[int], None],
) -> tuple[list[Trajectory], list[float]]:
    """Compare the trainings in float32 with one in float64, whose first step is judged. Returns the envelope, too."""
    reference = race.enter(right, job)
    coarse = race.enter(right, replace(job, rounded=True))
    lanes = [race.enter(backend, replace(job, dtype="float32")) for backend in backends]

    def after(step: int, made: Sequence[_Lane]) -> None:
        if not {reference, coarse} <= {*made}:
            for lane in made:
                lane.out = True
            return
        if step == 1:
            _show(umpire, step, [reference])
        parameters = load_file(reference.files[-1])
        scales = scales_of(parameters, by_layer=True)
        for lane in made:
            if lane is not reference:
                lane.trajectory.distances.append(distance(load_file(lane.files[-1]), parameters, scales))
            lane.keep(0)
        on_step(step)

    race.run(job.steps, after)
    envelope = [distance.relative for distance in coarse.trajectory.distances]
    lost = next((lane.trajectory for lane in (reference, coarse) if lane.trajectory.status != "ok"), None)
    for trajectory in (lane.trajectory for lane in lanes):
        if lost is None:
            judge_in_float32(trajectory, envelope)
        elif trajectory.status == "ok":
            trajectory.status = "crashed"
            trajectory.reason = f"{lost.backend}, which it is held against, {lost.status} in float64: {lost.reason}"
    return [lane.trajectory for lane in lanes], envelope


def judge_in_float32(trajectory: Trajectory, envelope: Sequence[float]) -> None:
    """Mark a trajectory as wrong if its distance exceeds `ENVELOPE_FACTOR` times the largest envelope so far."""
    for number, found in enumerate(trajectory.distances):
        allowed = ENVELOPE_FACTOR * max(envelope[: number + 1])
        if found.relative > allowed:
            reason = f"differs by {found.relative:.2g}, {allowed:.2g} is explained by float32"
            trajectory.diverge(number + 1, found.parameter, reason)
            return


# Processes that go in step


@dataclass(eq=False)
class _Lane:
    """A process and its results."""

    worker: WorkerProcess
    job: Job
    trajectory: Trajectory
    out: bool = False
    """Whether it has stopped."""
    files: list[Path] = field(default_factory=list)
    """The files of its parameters after the latest steps."""

    def step(self, timeout: float) -> None:
        """Let the process make a step."""
        if self.out:
            return
        try:
            answer = self.worker.ask({} if self.trajectory.losses else asdict(self.job), timeout)
        except ProcessFailure as failure:
            self.out = True
            if self.trajectory.status == "ok":
                self.trajectory.status, self.trajectory.reason = "crashed", str(failure)
        else:
            self.trajectory.losses.append(answer["loss"])
            self.files.append(Path(answer["path"]))

    def keep(self, count: int) -> None:
        """Remove all files except the latest."""
        while len(self.files) > count:
            self.files.pop(0).unlink()


def _show(umpire: Umpire, step: int, lanes: Sequence[_Lane]) -> None:
    """Let the umpire look at a step. It also reads the parameters of the two steps before."""
    ways = {lane.trajectory.backend: lane.trajectory for lane in lanes}
    umpire.look(step, ways, {name: partial(load_file, lane.files[-1]) for name, lane in zip(ways, lanes, strict=True)})
    for lane in lanes:
        lane.keep(2)


class _Race:
    """The processes of one network, which take each step together."""

    def __init__(self, folder: Path, processes: int, timeout: float) -> None:
        self.folder, self.timeout = folder, timeout
        self.hardware = Hardware.shared(processes)
        self.lanes: list[_Lane] = []

    def enter(self, backend: Backend, job: Job) -> _Lane:
        """Start a process; `run` ends it."""
        home = self.folder / str(len(self.lanes))
        home.mkdir(parents=True)
        worker = WorkerProcess(backend, self.hardware, home / "evidence", module="common.trajectories.worker")
        self.lanes.append(_Lane(worker, replace(job, folder=str(home)), Trajectory(backend.name, job.dtype)))
        return self.lanes[-1]

    def run(self, steps: int, after: Callable[[int, Sequence[_Lane]], None]) -> None:
        """Let all make one step after another. `after` is called after each, with those that have made it."""
        try:
            with ThreadPoolExecutor(len(self.lanes)) as executor:
                try:
                    for step in range(1, steps + 1):
                        list(executor.map(lambda lane: lane.step(self.timeout), self.lanes))
                        made = [lane for lane in self.lanes if not lane.out]
                        if not made:
                            break
                        after(step, made)
                except BaseException:
                    self.end()  # or the threads would be waited for, and they for answers
                    raise
        finally:
            self.end()

    def end(self) -> None:
        """End all processes."""
        for lane in self.lanes:
            lane.worker.kill()
