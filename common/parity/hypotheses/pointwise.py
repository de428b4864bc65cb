"""Known porting mistakes in layers that treat each value alone: activations, the addition of branches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import erf

import numpy as np

from common.oracle import ELEMENTARY_ULP, SMALLEST_NORMAL, UNIT_ROUNDOFF, Reference, evaluate, gamma
from common.parity.hypotheses import Hypothesis, Observation, exchanged, mistakes
from common.specs.architecture import Add, ReLU, ScaledTanh, Sigmoid


@mistakes.register
def _relu(operation: ReLU, seen: Observation) -> Iterator[Hypothesis]:
    (x,) = (array.astype(np.float64) for array in seen.inputs)
    yield "the ReLU is missing", partial(Reference, x)
    yield "the ReLU is capped at 6", partial(Reference, x.clip(0, 6))
    for slope in (0.01, 0.1, 0.2, 0.25, 0.3):
        leaky = np.where(x > 0, x, slope * x)
        yield f"the ReLU is leaky, slope {slope}", partial(Reference, leaky, gamma(3) * np.abs(leaky) + SMALLEST_NORMAL)
    yield "the absolute value is taken", partial(Reference, np.abs(x))
    yield "a sigmoid is taken, not a ReLU", exchanged(seen, Sigmoid())
    yield "a hyperbolic tangent is taken, not a ReLU", exchanged(seen, ScaledTanh(1.0, 1.0))
    for name, value, bound in _other_activations(x):
        yield f"{name} is taken, not a ReLU", partial(Reference, value, bound + SMALLEST_NORMAL)


def _other_activations(x: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, value and bound of what newer networks have in place of a ReLU; E = `ELEMENTARY_ULP`.

    An exponential, a hyperbolic tangent or an error function is wrong by E·u of its value, which is below 1 in all of
    these; its argument by a few roundings, which change it by less than as many u. The rest are products and sums of
    numbers no larger than |x| and 1.
    """
    size, few = np.abs(x), UNIT_ROUNDOFF * (ELEMENTARY_ULP + 10)
    negative = np.expm1(np.minimum(x, 0))
    logistic = evaluate(Sigmoid(), [x], {}).value
    yield "an ELU", np.where(x > 0, x, negative), few * (np.abs(negative) + (x < 0))
    selu = 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * negative)
    yield "a SELU", selu, 4 * few * (np.abs(selu) + (x < 0))
    yield "a SiLU", x * logistic, few * size
    error_function = np.frompyfunc(erf, 1, 1)(x / np.sqrt(2)).astype(np.float64)
    yield "a GELU", 0.5 * x * (1 + error_function), few * size
    tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    yield "a GELU by its approximation with a hyperbolic tangent", 0.5 * x * (1 + tanh), few * size
    yield "a softplus", np.logaddexp(x, 0), few * (np.maximum(x, 0) + 1)
    yield "a hard swish", x * np.clip(x + 3, 0, 6) / 6, gamma(6) * size * (size + 3) / 6
    yield "a Mish", x * np.tanh(np.logaddexp(x, 0)), few * 2 * size


@mistakes.register
def _sigmoid(operation: Sigmoid, seen: Observation) -> Iterator[Hypothesis]:
    (x,) = (array.astype(np.float64) for array in seen.inputs)
    yield "the sigmoid is missing", partial(Reference, x)
    yield "a hyperbolic tangent is taken, not a sigmoid", exchanged(seen, ScaledTanh(1.0, 1.0))
    yield "a scaled hyperbolic tangent is taken, not a sigmoid", exchanged(seen, ScaledTanh(1.7159, 2 / 3))
    yield "a ReLU is taken, not a sigmoid", exchanged(seen, ReLU())
    for slope in (1 / 6, 0.2):
        hard = (slope * x + 0.5).clip(0, 1)
        yield (
            f"a hard sigmoid of slope {slope:.3g} is taken",
            partial(Reference, hard, gamma(4) * (np.abs(slope * x) + 0.5)),
        )
    yield "the sigmoid is applied twice", partial(_sigmoid_twice, seen)


def _sigmoid_twice(seen: Observation) -> Reference:
    """The second sigmoid's slope is at most ¼."""
    first = evaluate(Sigmoid(), seen.inputs, {})
    second = evaluate(Sigmoid(), [first.value], {})
    assert first.bound is not None
    assert second.bound is not None
    return Reference(second.value, second.bound + 0.25 * first.bound)


@mistakes.register
def _scaled_tanh(operation: ScaledTanh, seen: Observation) -> Iterator[Hypothesis]:
    amplitude, slope = operation.amplitude, operation.slope
    yield "the hyperbolic tangent is not scaled", exchanged(seen, ScaledTanh(1.0, 1.0))
    yield "the amplitude is missing", exchanged(seen, ScaledTanh(1.0, slope))
    yield "the slope is missing", exchanged(seen, ScaledTanh(amplitude, 1.0))
    yield "amplitude and slope are exchanged", exchanged(seen, ScaledTanh(slope, amplitude))
    yield "the slope is inverted", exchanged(seen, ScaledTanh(amplitude, 1 / slope))
    for near in (1.7, 1.71, 1.716, 1.72, 1.7160):
        yield f"the amplitude is {near:g}", exchanged(seen, ScaledTanh(near, slope))
    for near in (0.66, 0.67, 0.666, 0.667, 0.6666, 0.6667, 0.66667, 0.666667):
        yield f"the slope is {near:g}", exchanged(seen, ScaledTanh(amplitude, near))
    yield "a sigmoid is taken, not a hyperbolic tangent", exchanged(seen, Sigmoid())
    yield "a ReLU is taken, not a hyperbolic tangent", exchanged(seen, ReLU())
    yield "the hyperbolic tangent is missing", partial(Reference, seen.inputs[0].astype(np.float64))


@mistakes.register
def _add(operation: Add, seen: Observation) -> Iterator[Hypothesis]:
    inputs = [x.astype(np.float64) for x in seen.inputs]
    for number, x in enumerate(inputs, start=1):
        yield f"only operand {number} of {len(inputs)} is there", partial(Reference, x)
    for number, x in enumerate(seen.inputs):
        others = [*seen.inputs[:number], np.maximum(x, 0), *seen.inputs[number + 1 :]]
        mistake = f"a ReLU is applied to operand {number + 1} before the addition"
        yield mistake, exchanged(seen, None, others)
    if len(inputs) == 2:
        (left, right), (x, y) = inputs, seen.inputs
        yield "operand 2 is subtracted", exchanged(seen, None, [x, -y])
        yield "operand 1 is subtracted", exchanged(seen, None, [-x, y])
        yield "the operands are multiplied", partial(Reference, left * right, gamma(1) * np.abs(left * right))
        yield "the larger operand is taken", partial(Reference, np.maximum(left, right))
        half = (left + right) / 2
        yield "the operands are averaged", partial(Reference, half, gamma(2) * (np.abs(left) + np.abs(right)))
