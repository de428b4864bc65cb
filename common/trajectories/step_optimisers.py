"""Why a step is wrong: mistakes that are made with the right gradient. See `common.trajectories.step_causes`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.training.recipe import decays
from common.trajectories.step_causes import Fit, Mistake, Part, Tensors, moves, read_off, stores_rightly
from common.trajectories.steps import StepTaken, Tensor, compared


def optimiser_mistakes(kinds: Collection[str]) -> list[Mistake]:
    """The mistakes that are made with the right gradient, in a network with these kinds of parameters."""
    return [*_scaled(kinds), *_clipped(), NeverUpdated(), OtherStatistics()]


# The step moves A + f·B


@dataclass(frozen=True)
class Scaled:
    """The step moves `base` + f · `part`."""

    tell: Callable[[StepTaken, Fit], str | None]
    """The name of the mistake; None if this factor means another mistake."""
    base: Part
    part: Part = lambda t: 0.0
    factor: Callable[[StepTaken], float] | None = None
    """f for each step; None if it is found in the first step and the same in all."""
    velocity: Part | None = None
    """The velocity that the optimiser keeps, if it is not the movement."""
    earlier: Part | None = None
    """`Tensor.earlier` in the next step, if the mistake uses it."""

    def __call__(self, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
        fit = before or read_off(tensors, self.base, self.part)
        if self.factor is not None:
            fit = Fit(before.what if before else "", self.factor(step))
        if fit is None or not moves(step, tensors, self.base, self.part, fit):
            return None
        told = fit.what or self.tell(step, fit)
        if told is None:
            return None
        kept = [{t.name: np.asarray(of(t)) for t in tensors} if of else {} for of in (self.velocity, self.earlier)]
        return replace(fit, what=told, velocity=kept[0], earlier=kept[1])


def _gradient(t: Tensor) -> np.ndarray:
    return t.gradient


def _with_decay(t: Tensor) -> np.ndarray:
    return t.gradient + t.decay


def _right(t: Tensor) -> np.ndarray:
    return t.right


def _inert(t: Tensor) -> np.ndarray:
    """The movement without a gradient."""
    return t.momentum * t.velocity


def _inert_with_decay(t: Tensor) -> np.ndarray:
    return _inert(t) + t.decay


def _only(kinds: Sequence[str], part: Part) -> Part:
    return lambda t: part(t) if t.name.rpartition("/")[2] in kinds else 0.0


def _all_but(kinds: Sequence[str], part: Part) -> Part:
    return lambda t: 0.0 if t.name.rpartition("/")[2] in kinds else part(t)


def _scaled(kinds: Collection[str]) -> Iterator[Mistake]:
    def nesterov(t: Tensor) -> np.ndarray:
        return _with_decay(t) + t.momentum * t.right

    def beside_decay(t: Tensor) -> np.ndarray:
        """In the second step the velocity is the first gradient, without decay: `Tensor.earlier`."""
        return t.momentum * t.earlier + t.gradient

    yield Scaled(lambda step, fit: "the momentum is Nesterov's", nesterov, factor=_one, velocity=_right)
    yield Scaled(
        _in_second_step("the weight decay is decoupled, it bypasses the momentum"),
        lambda t: beside_decay(t) + t.decay,
        factor=_one,
        earlier=beside_decay,
    )
    yield Scaled(
        _in_second_step("gradients add up from step to step"),
        _right,
        lambda t: t.earlier,
        factor=_one,
        earlier=lambda t: t.earlier + t.gradient,
    )
    yield Scaled(_rate, lambda t: 0.0, _right, velocity=_right)
    yield Scaled(_momentum, _with_decay, lambda t: t.velocity)
    yield Scaled(_velocity_holds_old_rate, _with_decay, lambda t: t.velocity, factor=_momentum_at_old_rate)
    yield Scaled(_dampened, _inert, _with_decay)
    yield Scaled(_loss, _inert_with_decay, _gradient)
    yield Scaled(_weight_decay, lambda t: _inert(t) + t.gradient, lambda t: t.weight if decays(t.name) else 0.0)
    for what, some in _KINDS.items():
        if not {*some} <= {*kinds}:
            continue
        yield Scaled(_decay_too(what), _right, _only(some, lambda t: t.weight))
        yield Scaled(_rate_of(what), _all_but(some, _right), _only(some, _right), velocity=_right)


_KINDS = {"biases": ("bias",), "gamma and beta": ("gamma", "beta"), "biases, gamma and beta": ("bias", "gamma", "beta")}


def _one(step: StepTaken) -> float:
    return 1.0


def _in_second_step(what: str) -> Callable[[StepTaken, Fit], str | None]:
    return lambda step, fit: what if step.number == 2 else None


def _rate(step: StepTaken, fit: Fit) -> str | None:
    if step.rate != step.previous_rate and fit.is_near(step.previous_rate / step.rate):
        return "the learning rate is still that of the step before"
    return f"the learning rate is {fit.factor:.6g} times what it should be"


def _momentum(step: StepTaken, fit: Fit) -> str | None:
    right = step.recipe.momentum
    if fit.is_near(float(np.float32(right))):
        return f"the momentum is {right:g} rounded to float32"
    return "there is no momentum" if fit.is_near(0) else f"the momentum is {fit.factor:.6g}, not {right:g}"


def _momentum_at_old_rate(step: StepTaken) -> float:
    """The mistake of a velocity that includes the rate. It is right until the rate changes."""
    return step.recipe.momentum * step.previous_rate / step.rate


def _velocity_holds_old_rate(step: StepTaken, fit: Fit) -> str | None:
    changes = step.rate != step.previous_rate
    return "the velocity still holds the learning rate of the step before" if changes else None


def _dampened(step: StepTaken, fit: Fit) -> str | None:
    dampening = f", a dampening of {1 - fit.factor:.6g}" if 0 < fit.factor < 1 else ""
    return f"the velocity takes in {fit.factor:.6g} times the gradient{dampening}"


def _loss(step: StepTaken, fit: Fit) -> str | None:
    if fit.is_near(step.recipe.batch_size):
        return "the loss is summed over the batch, not averaged"
    return f"the gradient of the loss is {fit.factor:.6g} times what it should be"


def _weight_decay(step: StepTaken, fit: Fit) -> str | None:
    right = step.recipe.weight_decay
    if fit.is_near(0):
        return "nothing decays"
    return "the decay is twice as strong" if fit.is_near(2 * right) else f"the decay is {fit.factor:.6g}, not {right:g}"


def _decay_too(what: str) -> Callable[[StepTaken, Fit], str | None]:
    return lambda step, fit: f"{what} decay too" if fit.is_near(step.recipe.weight_decay) else None


def _rate_of(what: str) -> Callable[[StepTaken, Fit], str | None]:
    return lambda step, fit: f"the learning rate of {what} is {fit.factor:.6g} times what it should be"


# Clipping: the limit is what is read off


def _clipped() -> Iterator[Mistake]:
    for what, of, rest in (
        ("the gradient", _gradient, _inert_with_decay),
        ("the gradient, decay included,", _with_decay, _inert),
    ):
        yield ClippedByNorm(what, of, rest)
        yield ClippedByNorm(what, of, rest, added=1e-6)
        yield ClippedByNorms(what, of, rest)
        yield ClippedByValue(what, of, rest)


@dataclass(frozen=True)
class _Clipped:
    what: str
    of: Part
    """The part that is clipped before it enters the velocity."""
    rest: Part
    """The part that is moved besides."""

    added: float = 0.0
    """The number that is added to a norm before dividing: 1e-6 in PyTorch's `clip_grad_norm_`."""

    def norm(self, tensors: Tensors) -> float:
        return float(np.sqrt(sum(np.square(self.of(t)).sum() for t in tensors))) + self.added


class ClippedByNorm(_Clipped):
    """All gradients are scaled by one factor, if their norm is above a limit."""

    def __call__(self, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
        norm = self.norm(tensors)
        limit = before
        if limit is None:
            read = read_off(tensors, self.rest, self.of)
            if read is None or not 0 < read.factor < 1 - read.error:
                return None
            limit = Fit("", read.factor * norm, read.error * norm)
        scaled = Fit("", min(1.0, limit.factor / norm), limit.error / norm)
        told = f"{self.what} is clipped to a norm of {limit.factor:.5g}"
        return replace(limit, what=told) if moves(step, tensors, self.rest, self.of, scaled) else None


class ClippedByNorms(_Clipped):
    """Each parameter's gradient is scaled, if its own norm is above a limit."""

    def __call__(self, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
        norms = [self.norm([t]) for t in tensors]
        limit = before
        if limit is None:
            read = [(norm, read_off([t], self.rest, self.of)) for norm, t in zip(norms, tensors, strict=True)]
            shorter = [Fit("", fit.factor * n, fit.error * n) for n, fit in read if fit and fit.factor < 1 - fit.error]
            limit = min(shorter, key=lambda fit: fit.error, default=None)
        if limit is None or limit.factor <= 0:
            return None
        for t, norm in zip(tensors, norms, strict=True):
            factor = Fit("", min(1.0, limit.factor / norm), limit.error / norm) if norm else Fit("")
            if not moves(step, [t], self.rest, self.of, factor):
                return None
        return replace(limit, what=f"{self.what} by each parameter is clipped to a norm of {limit.factor:.5g}")


class ClippedByValue(_Clipped):
    """Each element is cut off at a limit."""

    def __call__(self, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
        limit = before
        if limit is None:
            limit = max((self._largest(t) for t in tensors), key=lambda fit: fit.factor)
            if max(float(np.abs(self.of(t)).max()) for t in tensors) <= limit.factor + limit.error:
                return None
        for t in tensors:
            clipped = np.clip(self.of(t), -limit.factor, limit.factor)
            if not compared(t.name, t.moved, self.rest(t) + clipped, t.bound + limit.error).follows:
                return None
        told = f"{self.what} is clipped, each element at {limit.factor:.5g}"
        return replace(limit, what=told) if stores_rightly(step) else None

    def _largest(self, t: Tensor) -> Fit:
        entered = np.abs(t.moved - self.rest(t))
        place = np.unravel_index(int(entered.argmax()), entered.shape)
        return Fit("", float(entered[place]), float(t.bound[place]))


# What stands still, and what is stored


class NeverUpdated:
    """Some parameters stand still, all others move rightly."""

    def __call__(self, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
        still = [t.name for t in tensors if not t.moved.any()]
        rest = [t for t in tensors if t.name not in still]
        if not still or not rest or not moves(step, rest, _right, lambda t: 0.0, Fit("")):
            return None
        told = f"not updated: {', '.join(still[:3])}{' and more' if len(still) > 3 else ''}"
        return Fit(told) if before is None or before.what == told else None


class OtherStatistics:
    """All parameters are right, but the stored statistics are wrong."""

    def __call__(self, step: StepTaken, tensors: Tensors, before: Fit | None) -> Fit | None:
        statistics = step.derivatives.statistics
        if not statistics or not all(misfit.follows for misfit in step.misfits_of_parameters()):
            return None
        for share in (step.share, self._share(step)) if before is None else (before.factor,):
            for biased in (False, True):
                if all(misfit.follows for misfit in step.misfits_of_statistics(share, biased=biased)):
                    other = f"a batch counts {share:.6g} in what is stored, not {step.share:g}"
                    if abs(share) < 1e-12:
                        other = "what is stored of the batches stands still"
                    wrong = [other] * (share != step.share) + ["the variance that is stored is biased"] * biased
                    told = " and ".join(wrong)
                    return Fit(told, share) if before is None or before.what == told else None
        return None

    def _share(self, step: StepTaken) -> float:
        """The weight of a batch's statistics, found from the mean that it moves the furthest."""
        name, value = max(step.derivatives.statistics.items(), key=lambda pair: float(np.abs(pair[1]).max()))
        old = step.before[name]
        name = name if name.endswith("/mean") else name.replace("/variance", "/mean")
        old, value = step.before[name], step.derivatives.statistics[name]
        place = int(np.abs(value - old).argmax())
        return float((step.after[name][place] - old[place]) / (value[place] - old[place]))
