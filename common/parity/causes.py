"""Why a layer diverged: known porting mistakes as hypotheses, each evaluated by the oracle.

A hypothesis is a mistake made on purpose in the oracle. If the backend's own output lies within the rounding bound of
the network *with* the mistake, the mistake is the cause: not a guess, but the same proof by which a correct layer is
certified. A hypothesis that certifies nothing is excluded.

`hypotheses` knows the mistakes of each operation. Those that any layer can have are here: it reads another layer than
it should, or has another layer's weights.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from common.errors import TriptychError
from common.oracle import (
    ELEMENTARY_ULP,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Reference,
    evaluate,
    evaluated_shape,
    gamma,
    parameters_of,
)
from common.parity.hypotheses import (  # noqa: F401, the modules register the mistakes of their operations
    UNITWISE,
    Hypothesis,
    Observation,
    exchanged,
    mistakes,
    pointwise,
    sums,
)
from common.parity.hypotheses.windows import window_mistakes
from common.probes import Probe
from common.specs.architecture import (
    IMAGE,
    Architecture,
    AveragePool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    Operation,
    ReLU,
    Shape,
)

Certifies = Callable[[np.ndarray, Reference], bool]
"""Whether an output is within a reference's bound and has float32's size of errors."""


@dataclass(frozen=True)
class Finding:
    """The cause, if a hypothesis certified; and what was excluded before it."""

    cause: str | None
    excluded: list[str]
    untried: list[str] = field(default_factory=list)
    """Mistakes that could not be tried because the hypothesis itself failed, each with its traceback."""


def observe(
    spec: Architecture,
    layer: Layer,
    probe: Probe,
    inputs: list[np.ndarray],
    output: np.ndarray,
    recorded: Mapping[str, np.ndarray],
) -> Observation:
    """What there is to know about a layer that diverged.

    Args:
        spec: the network.
        layer: the one that diverged.
        probe: what the backend was given.
        inputs: of the layer, as the backend had them.
        output: of the layer, as the backend recorded it.
        recorded: every layer's output.
    """
    layers = {other.name: other for other in spec.layers}
    source = layers.get(layer.inputs[0])
    while source is not None and isinstance(source.operation, Dropout):
        source = layers.get(source.inputs[0])
    flattens = source is not None and isinstance(source.operation, Flatten)
    parameters = parameters_of(layer.name, probe.weights)
    shapes = {name: array.shape for name, array in parameters.items()}
    others = {other.name: parameters_of(other.name, probe.weights) for other in spec.layers if other != layer}
    passed_on = {IMAGE: probe.image} | {name: probe.injected.get(name, array) for name, array in recorded.items()}
    behind = next_convolution(spec, layer)
    next_conv = None
    if behind and behind.name in recorded and behind.inputs[0] in passed_on:
        given = [passed_on[behind.inputs[0]]]
        weights = parameters_of(behind.name, probe.weights)
        next_conv = Observation(behind.name, behind.operation, given, recorded[behind.name], weights, batch=given)
    return Observation(
        layer.name,
        layer.operation,
        inputs,
        output,
        parameters,
        batch=inputs,
        input_names=layer.inputs,
        next_conv=next_conv,
        flattened=spec.shapes[source.inputs[0]] if source is not None and flattens else None,
        preprocessing=spec.preprocessing if layer.inputs == (IMAGE,) else None,
        neighbours={
            name: found
            for name, found in others.items()
            if found and {parameter: array.shape for parameter, array in found.items()} == shapes
        },
        elsewhere={name: array for name, array in passed_on.items() if name != layer.name},
    )


def find_cause(seen: Observation, certifies: Certifies) -> Finding:
    """Try the hypotheses that apply, in order, until one certifies the output.

    They are tried on the first image for which the layer is wrong; what certifies that one must certify all. One that
    would certify the right output as well, because its bound is wide, proves nothing and is passed over. One that fails
    itself is told, and costs nothing else: that the layer is wrong is known without it.
    """
    untried: list[str] = []
    wrong = _first_wrong_image(seen, certifies)
    right = _right_output(wrong)
    excluded: dict[str, None] = {}
    for summary, mistake, evaluation in _all_hypotheses(wrong, untried):
        try:
            if not _certified(wrong.output, evaluation, certifies):
                excluded[summary] = None
            elif (right is None or not _certified(right, evaluation, certifies)) and (
                len(seen.output) == 1
                or any(
                    _certified(seen.output, e, certifies) for _, m, e in _all_hypotheses(seen, untried) if m == mistake
                )
            ):
                return Finding(mistake, list(excluded), untried)
        except Exception as error:
            untried.append(_failure(mistake, error))
    return Finding(_wrong_channels(seen), list(excluded), untried)


def _failure(mistake: str, error: Exception) -> str:
    return f"{mistake}: {''.join(traceback.format_exception(error))}"


def _right_output(seen: Observation) -> np.ndarray | None:
    """What the layer should have given, float32, if it can be computed from what it was given."""
    return exchanged(seen)().value.astype(np.float32) if _shape(exchanged(seen)) else None


def _first_wrong_image(seen: Observation, certifies: Certifies) -> Observation:
    for index in range(len(seen.output)):
        only = seen.of_image(index)
        if not _certified(only.output, exchanged(only), certifies):
            return only
    return seen


def _certified(output: np.ndarray, evaluation: partial[Reference], certifies: Certifies) -> bool:
    """Whether an evaluation explains the output: of a sum, the first few units are asked before all are."""
    if _shape(evaluation) != output.shape:
        return False
    if (first := _first_units(evaluation)) and not certifies(output[:, :_FEW], first()):
        return False
    return certifies(output, evaluation())


_FEW = 4


def _first_units(evaluation: partial[Reference]) -> partial[Reference] | None:
    """The evaluation of a few units only, for a layer of many that are computed independently."""
    if evaluation.func in UNITWISE:
        first = _first_units(evaluation.args[0])
        return first and partial(evaluation.func, first, *evaluation.args[1:])
    if evaluation.func is not evaluate:
        return None
    operation, inputs, parameters = evaluation.args
    if isinstance(operation, Conv) and operation.groups == 1 and operation.filters > _FEW:
        operation = replace(operation, filters=_FEW)
    elif isinstance(operation, Dense) and operation.units > _FEW:
        operation = replace(operation, units=_FEW)
    else:
        return None
    return partial(evaluate, operation, inputs, {name: array[:_FEW] for name, array in parameters.items()})


def _shape(evaluation: partial[Reference]) -> tuple[int, ...] | None:
    """The shape that an evaluation would have, found without evaluating an operation; None if it is impossible."""
    if evaluation.func in UNITWISE:
        return _shape(evaluation.args[0])
    if evaluation.func is not evaluate:
        with suppress(ValueError, TriptychError):
            return evaluation().value.shape
        return None
    with suppress(TriptychError):
        return evaluated_shape(*evaluation.args)
    return None


def _wrong_channels(seen: Observation) -> str | None:
    """Where no mistake explains the layer: which channels or units are wrong, if they are few."""
    if _shape(exchanged(seen)) != seen.output.shape:
        return None
    reference = exchanged(seen)()
    allowed = 0 if reference.bound is None else reference.bound
    right = np.abs(seen.output - reference.value) <= allowed
    wrong = np.flatnonzero(~right.all(axis=(0, *range(2, right.ndim))))
    if not 0 < len(wrong) <= max(1, right.shape[1] // 8) or right.shape[1] < 3:
        return None
    numbers = ", ".join(map(str, wrong[:8])) + (" …" if len(wrong) > 8 else "")
    return f"no known mistake; only {len(wrong)} of {right.shape[1]} channels differ ({numbers})"


def _all_hypotheses(seen: Observation, untried: list[str]) -> Iterator[tuple[str, str, partial[Reference]]]:
    """Each with a summary, for the list of what was excluded: the layer's own mistakes, and those of any layer."""
    for summary, hypotheses in (
        (None, mistakes(seen.operation, seen)),
        ("it reads another layer", _other_inputs(seen)),
        (None, _of_any_layer(seen)),
        ("the weights of another layer are used", _other_weights(seen)),
    ):
        try:
            for mistake, evaluation in hypotheses:
                yield summary or mistake, mistake, evaluation
        except (ValueError, TriptychError):  # the input has a shape that this layer cannot take
            continue
        except Exception as error:
            untried.append(_failure(f"mistakes in {seen.operation.kind}", error))


def _of_any_layer(seen: Observation) -> Iterator[Hypothesis]:
    if not isinstance(seen.operation, ReLU | MaxPool | Flatten):
        yield "a ReLU is applied that belongs to another layer", partial(_relu, seen)
    if not isinstance(seen.operation, ReLU):
        for number, x in enumerate(seen.inputs):
            rectified = [*seen.inputs[:number], np.maximum(x, 0), *seen.inputs[number + 1 :]]
            yield "a ReLU is applied to what it reads", exchanged(seen, None, rectified)
    if isinstance(seen.operation, Dense):
        yield "a softmax is applied", partial(_softmax, exchanged(seen))
        yield "a softmax is applied twice", partial(_softmax, partial(_softmax, exchanged(seen)))


def _other_inputs(seen: Observation) -> Iterator[Hypothesis]:
    """It reads another layer than it should, in one of its places."""
    for place, name in enumerate(seen.input_names):
        for other, x in seen.elsewhere.items():
            inputs = [*seen.inputs[:place], x, *seen.inputs[place + 1 :]]
            if other != name and not np.array_equal(x, seen.inputs[place]):
                yield f"it reads {other}, not {name}", exchanged(seen, None, inputs)


def _other_weights(seen: Observation) -> Iterator[Hypothesis]:
    for name, parameters in seen.neighbours.items():
        yield f"the weights of {name} are used", exchanged(seen, **parameters)
    for name, parameters in seen.neighbours.items():
        for some in (("mean", "variance"), *((one,) for one in parameters)):
            if len(some) < len(parameters) and set(some) <= parameters.keys():
                taken = {parameter: parameters[parameter] for parameter in some}
                verb = "are those" if len(some) > 1 else "is that"
                yield f"{' and '.join(some)} {verb} of {name}", exchanged(seen, **taken)


def _relu(seen: Observation) -> Reference:
    reference = exchanged(seen)()
    return replace(reference, value=reference.value.clip(0))


def _softmax(evaluation: partial[Reference]) -> Reference:
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


def explain_shape(spec: Architecture, layer: Layer, shapes: Mapping[str, Shape]) -> str | None:
    """The mistakes with which a layer would have the shape that it has, for a network that could not be run.

    Args:
        spec: the network.
        layer: the first whose shape is not the specified one.
        shapes: of every layer's output, as found.
    """
    operation, found = layer.operation, tuple(shapes[layer.name])
    given = spec.input_shapes(layer)[0]
    if (behind := next_convolution(spec, layer)) and _stride_stands_in(behind, operation, found, given, shapes):
        return f"its stride and that of {behind.name} are exchanged"
    windows, others = [], []
    if isinstance(operation, Conv | MaxPool | AveragePool):
        blank = [np.empty((1, *given), np.float32)]
        for mistake, evaluation in window_mistakes(
            operation, Observation(layer.name, operation, blank, np.empty(0), {}, blank)
        ):
            with suppress(TriptychError):  # the window does not fit
                if evaluation.args[0].output_shape(given) == found:
                    windows.append(mistake)
    if not windows and len(layer.inputs) == 1:
        for other, shape in ({IMAGE: spec.input_shape} | dict(shapes)).items():
            with suppress(TriptychError):
                if other not in (layer.name, *layer.inputs) and operation.output_shape(tuple(shape)) == found:
                    others.append(f"it reads {other}, not {layer.inputs[0]}")
    return " or ".join(windows or others[: len(others) <= 2 and 2]) or None


def next_convolution(spec: Architecture, layer: Layer) -> Layer | None:
    """The convolution of the same block that a stride may have been given to instead."""
    block = layer.name.rpartition("/")[0]
    layers = spec.layers[spec.layers.index(layer) + 1 :]
    behind = (other for other in layers if isinstance(other.operation, Conv) and other.name.rpartition("/")[0] == block)
    return next(behind, None) if block and isinstance(layer.operation, Conv) else None


def _stride_stands_in(
    behind: Layer, operation: Operation, found: Shape, given: Shape, shapes: Mapping[str, Shape]
) -> bool:
    """Whether the shapes are those of two convolutions that have each other's stride."""
    assert isinstance(operation, Conv)
    assert isinstance(behind.operation, Conv)
    if operation.stride == behind.operation.stride or behind.inputs[0] not in shapes:
        return False
    with suppress(TriptychError):
        here = replace(operation, stride=behind.operation.stride).output_shape(given)
        there = replace(behind.operation, stride=operation.stride).output_shape(tuple(shapes[behind.inputs[0]]))
        return here == found and there == tuple(shapes.get(behind.name, ()))
    return False
