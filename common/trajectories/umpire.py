"""Judges trainings that take each step together: which steps are looked at, which training is wrong, and why."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from common.errors import one_line
from common.operations.names import layer_of
from common.operations.rounding import SMALLEST_NORMAL
from common.parity.causes import alternatives
from common.parity.derivatives import Derivatives
from common.parity.gradients import share_of_batch
from common.specs.architecture import Architecture
from common.training.recipe import he_weights
from common.trajectories.step_causes import Suspects, confirmed, suspects
from common.trajectories.step_gradients import gradient_mistakes
from common.trajectories.step_optimisers import optimiser_mistakes
from common.trajectories.steps import Course, StepTaken
from common.trajectories.worker import Job, pictures_for, recipe_for
from common.weights import Weights

PARTING = 1e-12
"""If float64 parameters are further apart than this (see `Distance`), every training's step is judged. Chosen."""


@dataclass(frozen=True)
class Distance:
    """The distance of a backend's parameters from another's after one step."""

    relative: float
    """The largest |difference| of an element, relative to the largest |element| of its tensor (between two float64
    trajectories) or of its layer's parameters (else). The reason for the latter: a bias that starts at 0 is only the
    sum of its gradients. If these cancel, float32's rounding errors are large beside the bias, but small beside the
    kernel.
    """
    parameter: str
    """The parameter with this distance."""


@dataclass
class Trajectory:
    """The training of one backend in one precision: in float64 at `LEARNING_RATE`, in float32 at
    `SLOW_LEARNING_RATE`."""

    backend: str
    dtype: str
    status: str = "ok"
    """`ok`, `diverged`, `crashed` or `skipped`."""
    reason: str | None = None
    step: int | None = None
    """The first step that was found to be wrong, from 1."""
    parameter: str | None = None
    """The parameter with the largest error in that step."""
    likely_cause: str | None = None
    """The mistakes that explain it, if any does."""
    distances: list[Distance] = field(default_factory=list)
    """For each step: in float64 the distance from the first backend without a wrong step, in float32 from that
    backend's float64 training at the same rate."""
    losses: list[float] = field(default_factory=list)
    """For each step, the mean cross-entropy of its batch before it was made."""

    @property
    def first_divergence(self) -> str | None:
        """The layer of `parameter`."""
        return layer_of(self.parameter) if self.parameter else None

    @property
    def largest(self) -> float | None:
        return max((distance.relative for distance in self.distances), default=None)

    def diverge(self, step: int, parameter: str, reason: str) -> None:
        self.status, self.step, self.parameter = "diverged", step, parameter
        self.reason = f"step {step}, {parameter}: {reason}"


@dataclass(frozen=True)
class TrajectoryRun:
    """One network in every backend, in float64 and float32."""

    architecture: str
    image_size: tuple[int, int]
    steps: int
    trajectories: list[Trajectory]
    """First those in float64, then those in float32; the backends in the same order."""
    envelope: list[float]
    """For each step, the distance that comes from rounding the parameters alone, at the rate of float32."""

    @property
    def verdict(self) -> str:
        statuses = [trajectory.status for trajectory in self.trajectories]
        if "diverged" in statuses:
            return "diverged"
        return "incomplete" if "crashed" in statuses or "ok" not in statuses else "certified"


# Judging


@dataclass(eq=False)
class _Entry:
    """What the umpire knows about one training."""

    way: Trajectory
    records: deque[Callable[[], Weights]]
    """Functions that read its parameters: before the step before, before the step, after it."""
    suspects: Suspects = ()


class Umpire:
    """Judges float64 trainings by themselves, one step after another.

    A step is looked at

    - where trainings part, by more than `PARTING` and ten times more than when this was last looked at: everyone's;
    - in the first step, in which all begin with the same parameters: everyone's;
    - in the second, which has a velocity, in the first after a change of the rate, and in the last: everyone's if they
      have parted, else one training's. All others are as good as the same then, and a mistake that all make is seen.
    """

    def __init__(self, spec: Architecture, job: Job, first: Derivatives | None = None) -> None:
        self.course = Course(spec, pictures_for(job), recipe_for(job), share_of_batch(spec))
        self.steps, self.limit = job.steps, PARTING
        start = he_weights(spec, job.seed)
        self.start: Callable[[], Weights] = lambda: start
        self.entries: dict[str, _Entry] = {}
        self.first = first
        """Of the first step, in which all begin with the same parameters at any rate; None until it is needed."""

    def look(self, step: int, ways: Mapping[str, Trajectory], after: Mapping[str, Callable[[], Weights]]) -> None:
        """Judge the step that some trainings have made.

        Args:
            step: from 1.
            ways: the trajectory of each, by name, which gets the findings.
            after: reads the parameters of each after the step; must go on doing so for two more steps.
        """
        for name, way in ways.items():
            entry = self.entries.setdefault(name, _Entry(way, deque([self.start], maxlen=3)))
            entry.records.append(after[name])
        entries = [self.entries[name] for name in ways]
        for entry in entries:
            if entry.way.step == step - 1:
                self._confirm(step, entry)
        measured = self._measure(entries)
        looked_at = self._to_be_judged(step, entries, measured)
        for entry in looked_at:
            self._judge(step, entry)
        if any(entry.way.step == step for entry in entries):  # then it may be everybody's mistake
            for entry in entries:
                if entry.way.status == "ok" and entry not in looked_at:
                    self._judge(step, entry)
            measured = self._measure(entries)
        apart = _widest(entries, measured)
        if apart > self.limit:  # and nobody's step is wrong: this is how rounding grows
            self.limit = 10 * apart
        for entry, distance in zip(entries, measured, strict=True):
            entry.way.distances.append(distance)

    def _to_be_judged(self, step: int, entries: list[_Entry], measured: list[Distance]) -> list[_Entry]:
        running = [entry for entry in entries if entry.way.status == "ok"]
        apart, changes = _widest(entries, measured), self.course.rate(step) != self.course.rate(step - 1)
        if step in (1, 2, self.steps) or changes:
            return running if step == 1 or apart > PARTING else running[:1]
        return running if apart > self.limit else []

    def _judge(self, step: int, entry: _Entry) -> None:
        """Mark a training as wrong if its step is wrong. If the oracle fails, the training's row fails, too."""
        try:
            taken = self._taken(step, entry)
            misfit = taken.misfit
        except Exception as error:
            entry.way.status = "crashed"
            entry.way.reason = f"the oracle failed at step {step}: {one_line(error)}"
            return
        if misfit.follows:
            return
        off = f"off by {misfit.times:.2g} times what rounding explains" if isfinite(misfit.times) else "not finite"
        entry.way.diverge(step, misfit.parameter, f"{off}, given its own parameters and velocity before")
        kinds = {name.rpartition("/")[2] for name in taken.before}
        entry.suspects = suspects([*optimiser_mistakes(kinds), *gradient_mistakes(self.course)], taken)
        entry.way.likely_cause = _told(entry.suspects)

    def _confirm(self, step: int, entry: _Entry) -> None:
        """Of the mistakes that explain a wrong step, keep those that explain the next."""
        if not entry.suspects:
            return
        with suppress(Exception):  # the verdict stands, whatever the step after it is like
            entry.suspects = confirmed(entry.suspects, self._taken(step, entry))
            entry.way.likely_cause = _told(entry.suspects)

    def _taken(self, step: int, entry: _Entry) -> StepTaken:
        *earlier, before, after = (read() for read in entry.records)
        if step > 1:
            return self.course.taken(step, earlier[0], before, after, self.course.derivatives(step, before))
        if self.first is None:
            self.first = self.course.derivatives(step, before)
        return self.course.taken(step, None, before, after, self.first)

    def _measure(self, entries: list[_Entry]) -> list[Distance]:
        """Measure the distance of each from the first training without a wrong step."""
        yardstick = next((entry for entry in entries if entry.way.status == "ok"), entries[0])
        reference = yardstick.records[-1]()
        scales = scales_of(reference, by_layer=False)
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            return list(executor.map(lambda entry: distance(entry.records[-1](), reference, scales), entries))


def _widest(entries: list[_Entry], measured: list[Distance]) -> float:
    """The largest distance between trainings without a wrong step."""
    return max((d.relative for e, d in zip(entries, measured, strict=True) if e.way.status == "ok"), default=0.0)


def _told(accused: Suspects) -> str | None:
    return alternatives(list(dict.fromkeys(fit.what for _, fit in accused)))


def scales_of(reference: Weights, *, by_layer: bool) -> dict[str, float]:
    """The scale of each parameter's distance: its largest |element|, or that of all parameters of its layer."""
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
        there = name in found and found[name].shape == reference[name].shape
        difference = float(np.abs(found[name] - reference[name]).max()) / scale if there else np.inf
        relative[name] = difference if np.isfinite(difference) else np.inf
    worst = max(relative, key=relative.__getitem__)
    return Distance(relative[worst], worst)
