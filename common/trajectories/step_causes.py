"""Why a step is wrong: known mistakes of trainings, each tried in the oracle.

A mistake explains a step if all parameters and statistics lie within the bound of the step *with* the mistake; the
right step has failed already. Some mistakes have a number that is taken from the step itself (a factor, a limit). Such
a mistake must explain the next step, too, with the same number. All mistakes that no step has excluded are reported.

Most optimisers have one shape: a step moves a parameter by A + f·B, with an unknown factor f. By least squares f = Σ B
(m − A) / Σ B². Its error is at most Σ |B| bound / Σ B², by which the bound grows. One f stands for all elements of all
tensors, so it cannot explain everything. The bound of A + f·B is 1 + 2|f| times that of the right step: f multiplies
the gradient, or the velocity, whose bound is part of the step's bound once, or µ > 1/2 times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from common.operations.rounding import DOUBLE, gamma
from common.trajectories.steps import StepTaken, Tensor, compared

Tensors = Sequence[Tensor]
Part = Callable[[Tensor], "np.ndarray | float"]
"""The movement of a tensor in a step, or a part of it."""


@dataclass(frozen=True)
class Fit:
    """A mistake that explains a step, the number that it found, and the state for the next step."""

    what: str
    """In words."""
    factor: float = 1.0
    error: float = 0.0
    """The largest error of `factor`."""
    velocity: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The velocity, if it is not the movement divided by the rate."""
    earlier: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The values of `Tensor.earlier` for a mistake that uses it."""

    def is_near(self, value: float) -> bool:
        return abs(self.factor - value) <= self.error + gamma(4, DOUBLE) * abs(value)


class Mistake(Protocol):
    """A known one."""

    def __call__(self, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
        """Whether it explains a step; `before` is its fit of the step before, unless this is the first."""


Suspects = Sequence[tuple[Mistake, Fit]]
"""The mistakes that have explained every step since the first wrong one."""


def suspects(mistakes: Sequence[Mistake], step: StepTaken) -> Suspects:
    """The mistakes that explain the first wrong step."""
    tensors = list(step.tensors())
    return [(mistake, fit) for mistake in mistakes if (fit := _asked(mistake, step, tensors, None))]


def confirmed(accused: Suspects, step: StepTaken) -> Suspects:
    """The mistakes among these that explain the next step, too."""
    tensors, found = list(step.tensors()), []
    for mistake, before in accused:
        begun = [
            replace(t, velocity=before.velocity.get(t.name, t.velocity), earlier=before.earlier.get(t.name, t.earlier))
            for t in tensors
        ]
        if fit := _asked(mistake, step, begun, before):
            found.append((mistake, replace(fit, what=before.what)))
    return found


def _asked(mistake: Mistake, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
    """A hypothesis that raises an exception on unexpected numbers explains nothing."""
    try:
        with np.errstate(all="ignore"):
            return mistake(step, tensors, before)
    except Exception:
        return None


def read_off(tensors: Tensors, base: Part, part: Part) -> Fit | None:
    """The factor f, or None if it multiplies nothing."""
    products, squares, uncertain = 0.0, 0.0, 0.0
    for t in tensors:
        b = np.broadcast_to(part(t), t.moved.shape)
        products += float(np.sum(b * (t.moved - base(t))))
        squares += float(np.sum(np.square(b)))
        uncertain += float(np.sum(np.abs(b) * t.bound))
    if not squares or not np.isfinite(products):
        return None
    factor = products / squares
    return Fit("", factor, _wider(factor) * uncertain / squares)


def moves(step: StepTaken, tensors: Tensors, base: Part, part: Part, fit: Fit) -> bool:
    """Whether the step moves `base` + f · `part`, and the stored statistics are right."""
    for t in tensors:
        a, b = base(t), np.asarray(part(t))
        bound = _wider(fit.factor) * t.bound + fit.error * np.abs(b)
        bound = bound + gamma(4, DOUBLE) * (np.abs(a) + abs(fit.factor) * np.abs(b))
        if not compared(t.name, t.moved, a + fit.factor * b, bound).follows:
            return False
    return stores_rightly(step)


def _wider(factor: float) -> float:
    """The bound of A + f·B as a multiple of the right step's bound."""
    return 1 + 2 * abs(factor)


def stores_rightly(step: StepTaken) -> bool:
    """Whether the stored statistics are right, which no mistake of the optimiser changes."""
    return all(misfit.follows for misfit in step.misfits_of_statistics(step.share))
