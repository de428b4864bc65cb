"""Why a step is wrong, continued: it is right for the gradient of other images, or of another loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np

from common.operations import BatchNorm
from common.parity.derivatives import differentiate
from common.training.batches import Batch, Batches
from common.trajectories.step_causes import Fit, Mistake, Tensors
from common.trajectories.steps import Course, StepTaken, pixels

SIEVE = 1e3
"""A mistake whose error is more than this many times the rounding error is not examined further. This only saves
time."""

Choice = Callable[[int], Batch]
"""The batch of a step, by its number."""


@dataclass(frozen=True)
class Instead:
    """The step is right for another batch, for other pixels, or for another loss."""

    what: str
    course: Course
    batch: Choice
    plan: Batches
    upside_down: bool = False
    """Whether images are mirrored top to bottom instead of left to right."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Options for `differentiate`."""

    def __call__(self, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
        spec, own = self.course.spec, self.course.pictures(self.course.batch(step.number))
        images, labels = self._pictures(step.number)
        same = images.shape == own[0].shape and (images == own[0]).all() and (labels == own[1]).all()
        if same and not self.options:
            return None
        quick = differentiate(spec, step.before, images, labels, reaching=False, **self.options)  # type: ignore[arg-type]
        reach = {name: SIEVE * far for name, far in step.derivatives.reach.items()}
        if not replace(step, derivatives=replace(quick, reach=reach)).misfit.follows:
            return None
        found = differentiate(spec, step.before, images, labels, **self.options)  # type: ignore[arg-type]
        return Fit(self.what) if replace(step, derivatives=found).misfit.follows else None

    def _pictures(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        batch, train = self.batch(number), self.course.data.train
        if not self.upside_down:
            return pixels(self.plan, train, batch), train.labels[batch.indices]
        images = pixels(self.plan, train, replace(batch, flips=np.zeros_like(batch.flips)))
        flips = batch.flips[:, None, None, None]
        return np.where(flips, images[:, :, ::-1], images), train.labels[batch.indices]


def gradient_mistakes(course: Course) -> Iterator[Mistake]:
    """The mistakes before the optimiser gets the gradient."""
    plan = course.plan

    def instead(what: str, batch: Choice = course.batch, plan: Batches = plan, upside_down: bool = False) -> Mistake:
        return Instead(what, course, batch, plan, upside_down)

    yield instead("the batch is that of the next step", _neighbour(course, 1))
    yield instead("the batch is that of the step before", _neighbour(course, -1))
    yield instead("the batches of an epoch come in reverse order", lambda step: _reversed(course, step))
    yield instead("every epoch has the batches of the first", lambda step: plan.batches(0)[course.place(step)[1]])
    yield instead("pictures are not shuffled", lambda step: _in_order(course, step))
    yield instead("no picture is mirrored", _changed(course, lambda batch: {"flips": np.zeros_like(batch.flips)}))
    yield instead("the other pictures are mirrored", _changed(course, lambda batch: {"flips": ~batch.flips}))
    yield instead("pictures are mirrored top to bottom", upside_down=True)
    yield instead("the colours are left alone", _changed(course, lambda batch: {"shifts": np.zeros_like(batch.shifts)}))
    yield instead(
        "rows and columns of the crops are exchanged",
        _changed(course, lambda batch: {"tops": batch.lefts, "lefts": batch.tops}),
    )
    yield instead("pictures are cropped at the centre", _changed(course, lambda batch: _centre(plan, batch)))
    yield instead("the mean is not subtracted", plan=_plan(plan, mean=np.zeros_like(plan.mean)))
    yield instead("pixels are not divided by their scale", plan=_plan(plan, scale=np.ones_like(plan.scale)))
    if len(course.spec.outputs) > 1:
        for what, weight in (("do not count", 0.0), ("count as much as the logits", 1.0)):
            yield Instead(f"the auxiliary heads {what}", course, course.batch, plan, options={"auxiliary": weight})
    if any(isinstance(layer.operation, BatchNorm) for layer in course.spec.layers):
        what = "stored statistics normalise, not the batch's"
        yield Instead(what, course, course.batch, plan, options={"stored": True})


def _neighbour(course: Course, by: int) -> Choice:
    def batch(step: int) -> Batch:
        epoch, place = course.place(step)
        batches = course.plan.batches(epoch)
        return batches[(place + by) % len(batches)]

    return batch


def _reversed(course: Course, step: int) -> Batch:
    epoch, place = course.place(step)
    return course.plan.batches(epoch)[-1 - place]


def _in_order(course: Course, step: int) -> Batch:
    batch, first = course.batch(step), course.place(step)[1] * course.recipe.batch_size
    return replace(batch, indices=np.arange(first, first + len(batch)))


def _changed(course: Course, change: Callable[[Batch], Mapping[str, np.ndarray]]) -> Choice:
    def batch(step: int) -> Batch:
        own = course.batch(step)
        return replace(own, **change(own))

    return batch


def _centre(plan: Batches, batch: Batch) -> dict[str, np.ndarray]:
    top, left = ((n - m) // 2 for n, m in zip(plan.picture_size, (plan.height, plan.width), strict=True))
    return {"tops": np.full_like(batch.tops, top), "lefts": np.full_like(batch.lefts, left)}


def _plan(plan: Batches, **numbers: np.ndarray) -> Batches:
    other = copy(plan)
    vars(other).update(numbers)
    return other
