"""One step of one training, judged by itself: do the new parameters follow from the old ones?

A step is v ← µ·v + (g + λ·w), w ← w − ε·v (`common.training.recipe`). g is the gradient of the batch's loss. A training
hands over its parameters after every step, and nothing else. That is enough. Its velocity is the movement of the last
step, divided by the rate of that step. Its gradient is that of `common.parity.derivatives` at its own parameters. So a
step is never compared with a step of another training.

The movement of a parameter is m = (w − w′) / ε. In float64, with u = 2^-53, rounding explains:

- of the gradient, its `reach`;
- of the arithmetic, γ_12 (µ|v| + |g| + λ|w|): two roundings for λ·w (a penalty has a factor of two), one for its sum
  with g, four for µ·v where v is scaled when the rate changes, one sum, two for ε, two to spare;
- of the stored w′, γ_2 (|w| + |w′|) / ε;
- of the velocity, what was stored before, µ·γ_2 (|w″| + |w|) / ε″, with w″ and ε″ those of the step before.

Stored statistics move by a fraction towards those of the batch. `reach` says how far the batch's may be off, and γ_8
covers the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.operations.rounding import DOUBLE, gamma
from common.parity.derivatives import Derivatives, differentiate
from common.specs.architecture import Architecture
from common.training.batches import Batch, Batches
from common.training.data import Data, Split
from common.training.recipe import Recipe, decays
from common.weights import Weights


@dataclass(frozen=True)
class Tensor:
    """One trained parameter in one step; arrays are float64 and have its shape."""

    name: str
    weight: np.ndarray
    """The parameter before the step."""
    moved: np.ndarray
    """The decrease in the step, divided by the rate. It is the velocity, if nothing is wrong."""
    velocity: np.ndarray
    """The decrease in the step before, divided by its rate; 0 in the first step."""
    gradient: np.ndarray
    earlier: np.ndarray
    """The gradient of the step before, in the second step; else 0."""
    bound: np.ndarray
    """The largest error of `moved`."""
    momentum: float
    weight_decay: float

    @property
    def decay(self) -> np.ndarray | float:
        """The weight decay that is added to the gradient."""
        return self.weight_decay * self.weight if decays(self.name) else 0.0

    @property
    def right(self) -> np.ndarray:
        """The right value of `moved`."""
        return self.momentum * self.velocity + self.gradient + self.decay


@dataclass(frozen=True)
class Misfit:
    """The parameter of a step with the largest error."""

    parameter: str
    times: float
    """Its error as a multiple of the rounding error."""

    @property
    def follows(self) -> bool:
        return self.times <= 1


@dataclass(frozen=True)
class StepTaken:
    """One step of one training: the parameters before and after it, and the derivatives of the batch."""

    number: int
    """The number of the step, from 1."""
    before: Weights
    after: Weights
    previous: Weights | None
    """The parameters before the step before; None in the first step."""
    rate: float
    previous_rate: float
    recipe: Recipe
    share: float
    """The weight of a batch's statistics in the stored ones."""
    derivatives: Derivatives

    def tensors(self) -> Iterator[Tensor]:
        """Every trained parameter, one at a time."""
        for name, gradient in self.derivatives.gradients.items():
            before, after = self.before[name].astype(np.float64), self.after[name].astype(np.float64)
            decay = self.recipe.weight_decay if decays(name) else 0.0
            momentum, velocity = self.recipe.momentum, np.zeros(before.shape)
            lost, earlier = np.zeros(()), np.zeros(before.shape)
            if self.previous is not None:
                previous = self.previous[name].astype(np.float64)
                velocity = (previous - before) / self.previous_rate
                lost = gamma(2, DOUBLE) * (np.abs(previous) + np.abs(before)) / self.previous_rate
                if self.number == 2:
                    earlier = velocity - decay * previous
            size = momentum * np.abs(velocity) + np.abs(gradient) + decay * np.abs(before)
            bound = self.derivatives.reach[name] + gamma(12, DOUBLE) * size + momentum * lost
            bound = bound + gamma(2, DOUBLE) * (np.abs(before) + np.abs(after)) / self.rate
            moved = (before - after) / self.rate
            yield Tensor(name, before, moved, velocity, gradient, earlier, bound, momentum, self.recipe.weight_decay)

    @cached_property
    def misfit(self) -> Misfit:
        """The parameter with the largest error in the step."""
        return worst([*self.misfits_of_parameters(), *self.misfits_of_statistics(self.share)])

    def misfits_of_parameters(self) -> Iterator[Misfit]:
        """The error of each trained parameter."""
        for tensor in self.tensors():
            yield compared(tensor.name, tensor.moved, tensor.right, tensor.bound)

    def misfits_of_statistics(self, share: float, *, biased: bool = False) -> Iterator[Misfit]:
        """The error of each stored statistic, if the batch's have this weight; the variance's are unbiased, unless…"""
        for name, value in self.derivatives.statistics.items():
            factor = 1.0
            if name.endswith("/variance") and not biased:
                factor = self.derivatives.counts[name] / (self.derivatives.counts[name] - 1)
            before, after = self.before[name].astype(np.float64), self.after[name].astype(np.float64)
            right = (1 - share) * before + share * factor * value
            bound = share * factor * self.derivatives.reach[name]
            bound = bound + gamma(8, DOUBLE) * (np.abs(before) + share * factor * np.abs(value))
            yield compared(name, after, right, bound)


def compared(name: str, found: np.ndarray, right: np.ndarray, bound: np.ndarray) -> Misfit:
    """The distance of an array from the right one, in units of the bound."""
    with np.errstate(all="ignore"):
        times = np.abs(found - right) / np.maximum(bound, np.finfo(np.float64).tiny)
    largest = float(times.max(initial=0.0))
    return Misfit(name, largest if np.isfinite(largest) else float("inf"))


def worst(misfits: list[Misfit]) -> Misfit:
    return max(misfits, key=lambda misfit: misfit.times)


class Course:
    """A right training: the batch and the rate of each step."""

    def __init__(self, spec: Architecture, data: Data, recipe: Recipe, share: float) -> None:
        self.spec, self.data, self.recipe, self.share = spec, data, recipe, share
        self.plan = Batches(spec, data, recipe)

    def place(self, step: int) -> tuple[int, int]:
        """The epoch and the batch of a step, both from 0."""
        return divmod(step - 1, self.plan.steps)

    def rate(self, step: int) -> float:
        return self.recipe.learning_rate_at(self.place(max(step, 1))[0])

    def batch(self, step: int) -> Batch:
        epoch, number = self.place(step)
        return self.plan.batches(epoch)[number]

    def pictures(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Images float32, (N, C, H, W), and labels."""
        return pixels(self.plan, self.data.train, batch), self.data.train.labels[batch.indices]

    def derivatives(self, step: int, weights: Weights) -> Derivatives:
        """The derivatives of a step's batch with respect to these parameters."""
        return differentiate(self.spec, weights, *self.pictures(self.batch(step)))

    def taken(
        self, step: int, previous: Weights | None, before: Weights, after: Weights, derivatives: Derivatives
    ) -> StepTaken:
        """A step that a training has made."""
        rates = self.rate(step), self.rate(step - 1)
        return StepTaken(step, before, after, previous, *rates, self.recipe, self.share, derivatives)


def pixels(plan: Batches, split: Split, batch: Batch) -> np.ndarray:
    """The pixels of a batch by the plan: float32, (N, C, H, W), rounded as the plan says."""
    images = []
    for row, index in enumerate(batch.indices):
        top, left = batch.tops[row], batch.lefts[row]
        image = plan.picture(split, index)[top : top + plan.height, left : left + plan.width]
        image = image[:, ::-1] if batch.flips[row] else image
        images.append((image.astype(np.float32) + batch.shifts[row] - plan.mean) / plan.scale)
    return np.stack(images).transpose(0, 3, 1, 2)
