"""Mistakes that any layer can have: it reads another layer, has another's weights, or its result is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from common.operations import Dense, Flatten, GlobalAveragePool, MaxPool, ReLU, Sigmoid, evaluate
from common.operations.mistake import exchanged, factor_fits
from common.operations.operation import Fit, Hypothesis, Observation
from common.operations.rounding import ELEMENTARY_ULP, SMALLEST_NORMAL, UNIT_ROUNDOFF, Reference, gamma


def of_any_layer(seen: Observation) -> Iterator[Hypothesis]:
    if not isinstance(seen.operation, ReLU | MaxPool | Flatten):
        yield "a ReLU is applied that belongs to another layer", partial(_relu, seen)
    yield "every value is 0", partial(Reference, np.zeros(seen.output.shape))
    if seen.output.ndim == 4 and not isinstance(seen.operation, GlobalAveragePool):
        yield "its output's height and width are exchanged", partial(_turned, exchanged(seen))
    if not isinstance(seen.operation, ReLU):
        for number, x in enumerate(seen.inputs):
            rectified = [*seen.inputs[:number], np.maximum(x, 0), *seen.inputs[number + 1 :]]
            yield "a ReLU is applied to what it reads", exchanged(seen, None, rectified)
    if isinstance(seen.operation, Dense):
        yield "the logarithm of a softmax is taken", partial(_log_softmax, exchanged(seen))
        yield "a sigmoid is applied", partial(_sigmoid, exchanged(seen))
        yield "a softmax is applied", partial(_softmax, exchanged(seen))
        yield "a softmax is applied twice", partial(_softmax, partial(_softmax, exchanged(seen)))


def other_inputs(seen: Observation) -> Iterator[Hypothesis]:
    """It reads a wrong layer, one that was computed before.

    If the model's structure says what it reads, numbers that happen to be equal do not overrule that.
    """
    for place, name in enumerate(seen.input_names):
        for other, x in seen.elsewhere.items():
            inputs = [*seen.inputs[:place], x, *seen.inputs[place + 1 :]]
            refuted = seen.reads is not None and other not in seen.reads
            if other != name and not refuted and not np.array_equal(x, seen.inputs[place]):
                yield f"it reads {other}, not {name}", exchanged(seen, None, inputs)


def other_weights(seen: Observation) -> Iterator[Hypothesis]:
    for name, parameters in seen.neighbours.items():
        yield f"the weights of {name} are used", exchanged(seen, **parameters)
    for name, parameters in seen.neighbours.items():
        for some in (("mean", "variance"), *((one,) for one in parameters)):
            if len(some) < len(parameters) and set(some) <= parameters.keys():
                taken = {parameter: parameters[parameter] for parameter in some}
                verb = "are those" if len(some) > 1 else "is that"
                yield f"{' and '.join(some)} {verb} of {name}", exchanged(seen, **taken)


def fitted_mistakes(seen: Observation) -> Iterator[Fit]:
    """The factors, slopes and epsilons that explain a layer's output.

    They are tried if no mistake without such a number explains a layer. The number is taken from the output, and all
    other values must confirm it (`common.operations.mistake.fitted`).
    """
    if not np.isfinite(seen.output).all():
        return
    right = exchanged(seen)()
    yield from seen.operation.fits(seen, right)
    whole = Reference(np.zeros(right.value.shape), right.bound)
    yield from factor_fits(seen, whole, right.value.astype(np.float64), "the result is")


def _relu(seen: Observation) -> Reference:
    reference = exchanged(seen)()
    return replace(reference, value=reference.value.clip(0))


def _softmax(evaluation: Callable[[], Reference]) -> Reference:
    """Softmax of logits that are within δ of their reference.

    Each exponential is then wrong by a factor exp(±δ), and by the rounding of its argument, so a probability by twice
    that; n − 1 additions, two exponentials and a quotient add the rest.
    """
    reference = evaluation()
    assert reference.bound is not None
    logits = reference.value - reference.value.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    value = exponentials / exponentials.sum(axis=1, keepdims=True)
    argument = reference.bound.max() + UNIT_ROUNDOFF * np.abs(logits).max()
    relative = np.expm1(min(2 * argument, 700.0)) + gamma(logits.shape[1] + 2 * ELEMENTARY_ULP + 2)
    return Reference(value, 1.001 * relative * value + SMALLEST_NORMAL)


def _log_softmax(evaluation: Callable[[], Reference]) -> Reference:
    """x − log Σ exp(x): the errors of the logits count twice, and a few roundings of numbers of their size."""
    reference = evaluation()
    assert reference.bound is not None
    logits = reference.value - reference.value.max(axis=1, keepdims=True)
    value = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    sizes = np.abs(logits).max(axis=1, keepdims=True) + np.abs(value) + 1
    return Reference(value, 2 * reference.bound.max() + gamma(logits.shape[1] + 2 * ELEMENTARY_ULP + 4) * sizes)


def _sigmoid(evaluation: Callable[[], Reference]) -> Reference:
    """Its slope is 1/4 at most."""
    reference = evaluation()
    assert reference.bound is not None
    applied = evaluate(Sigmoid(), [reference.value], {})
    assert applied.bound is not None
    return Reference(applied.value, applied.bound + 0.25 * reference.bound)


def _turned(evaluation: Callable[[], Reference]) -> Reference:
    reference = evaluation()
    bound = None if reference.bound is None else reference.bound.swapaxes(2, 3)
    return Reference(reference.value.swapaxes(2, 3), bound)
