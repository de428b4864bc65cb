"""Why a layer diverged: known porting mistakes as hypotheses, each evaluated by the oracle.

A hypothesis is a mistake made on purpose in the oracle. If the backend's own output lies within the rounding bound of
the network *with* the mistake, the mistake explains it, by the same proof by which a correct layer is certified. One
that does not is excluded. That another would not explain it as well, no output proves: all that do are told, and
`agreement` asks which of them explain every probe of a run.

`Operation.mistakes` knows those of each operation, `any_layer` those of any layer; `fits` are those with a number read
off the output.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from math import prod

import numpy as np

from common.errors import TriptychError
from common.operations import Add, Conv, Dense, Dropout, Flatten, Windowed
from common.operations.mistake import Evaluation, exchanged
from common.operations.names import parameters_of
from common.operations.operation import Observation
from common.operations.rounding import EXACT_LIMIT, Reference
from common.parity.any_layer import fitted_mistakes, of_any_layer, other_inputs, other_weights
from common.parity.measures import certifies
from common.parity.shapes import next_convolution
from common.probes import Probe, quantum_of
from common.specs.architecture import IMAGE, Architecture, Layer


@dataclass(frozen=True)
class Traced:
    """The structure of a backend's model, which is known before anything is run."""

    order: str = "C, H, W"
    """The order in which it flattens maps."""
    reads: Mapping[str, Collection[str]] = field(default_factory=dict)
    """For each layer, if it is known, the layers that it reads directly; `image` is one."""


UNTRACED = Traced()


@dataclass(frozen=True)
class Finding:
    """The mistakes that explain a layer's output, the likeliest first; and those that were tried and do not."""

    causes: tuple[str, ...]
    excluded: tuple[str, ...]
    seen: str | None = None
    """If nothing explains it: the channels that are wrong, if they are few."""
    untried: tuple[str, ...] = ()
    """Mistakes that could not be tried because the hypothesis itself failed, each with its traceback."""

    @property
    def told(self) -> str | None:
        """In words."""
        return alternatives(self.causes) or self.seen


_TOLD = 4


def alternatives(causes: Sequence[str]) -> str | None:
    """The explanations that the numbers cannot distinguish, in words: the first few and how many more."""
    more = [f"one of {len(causes) - _TOLD} more"] if len(causes) > _TOLD else []
    return ", or ".join([*causes[:_TOLD], *more]) or None


def observe(
    spec: Architecture,
    layer: Layer,
    probe: Probe,
    inputs: list[np.ndarray],
    output: np.ndarray,
    recorded: Mapping[str, np.ndarray],
    traced: Traced = UNTRACED,
) -> Observation:
    """The observation of a layer that diverged.

    Args:
        spec: the network.
        layer: the one that diverged.
        probe: what the backend was given.
        inputs: of the layer, as the backend had them.
        output: of the layer, as the backend recorded it.
        recorded: every layer's output, in the order in which the backend computed them.
        traced: the structure of its model.
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
    following = next_convolution(spec, layer)
    next_conv = None
    if following and following.name in recorded and following.inputs[0] in passed_on:
        given = [passed_on[following.inputs[0]]]
        weights = parameters_of(following.name, probe.weights)
        next_conv = Observation(
            following.name, following.operation, given, recorded[following.name], weights, batch=given
        )
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
        elsewhere={name: passed_on[name] for name in (IMAGE, *takewhile(lambda name: name != layer.name, recorded))},
        order=traced.order,
        reads=traced.reads.get(layer.name),
    )


def find_cause(seen: Observation) -> Finding:
    """Try the hypotheses that apply. If none certifies the output, try those with a number taken from it.

    They are tried on the first image for which the layer is wrong. A hypothesis that certifies it must certify all
    images. If its bound is so wide that it would certify the right output, too, it proves nothing and is left out. If a
    hypothesis itself raises an exception, it is reported; the layer is known to be wrong without it.
    """
    untried: list[str] = []
    wrong = _first_wrong_image(seen)
    right = _right_output(wrong)
    excluded: dict[str, None] = {}
    for hypotheses in (_all_hypotheses, _fitted_hypotheses):
        found: dict[str, str] = {}
        for summary, mistake, evaluation in _different(hypotheses(wrong, untried), wrong):
            try:
                if not _certified(wrong.output, evaluation):
                    excluded[summary] = None
                elif right is None or not _certified(right, evaluation):
                    found.setdefault(mistake, summary)
            except Exception as error:
                untried.append(_failure(mistake, error))
        if found and len(seen.output) > 1:
            explain_all = {
                mistake
                for _, mistake, evaluation in hypotheses(seen, untried)
                if mistake in found and _certified(seen.output, evaluation)
            }
            found = {mistake: summary for mistake, summary in found.items() if mistake in explain_all}
        if found:
            others = tuple(summary for summary in excluded if summary not in found.values())
            return Finding(tuple(found), others, untried=tuple(untried))
    return Finding((), tuple(excluded), _wrong_channels(seen), tuple(untried))


def _failure(mistake: str, error: Exception) -> str:
    return f"{mistake}: {''.join(traceback.format_exception(error))}"


_Named = tuple[str, str, Callable[[], Reference]]
"""A summary, for the list of excluded mistakes; the mistake; the layer's output with it."""


def _different(hypotheses: Iterator[_Named], seen: Observation) -> Iterator[_Named]:
    """If windows are the same on maps of this size, such as SAME and a padding by 1, keep only the plainer name."""
    known = set()
    for summary, mistake, evaluation in hypotheses:
        if key := _window_alone(evaluation, seen):
            if key in known:
                continue
            known.add(key)
        yield summary, mistake, evaluation


def _window_alone(evaluation: Callable[[], Reference], seen: Observation) -> tuple | None:
    """A key that distinguishes evaluations with the layer's own input and parameters but another window."""
    if not isinstance(evaluation, Evaluation):
        return None
    operation, inputs, parameters = evaluation.operation, evaluation.inputs, evaluation.parameters
    own = parameters.keys() == seen.parameters.keys() and all(
        parameters[name] is seen.parameters[name] for name in parameters
    )
    if not isinstance(operation, Windowed) or operation is seen.operation or not own or inputs is not seen.inputs:
        return None
    kernel, stride, padding = operation.window(inputs[0].shape[1:])
    with suppress(TriptychError):
        positions = operation.output_shape(inputs[0].shape[1:])[1:]
        sizes = zip(positions, stride, kernel, padding, inputs[0].shape[2:], strict=True)
        # Only what a window reaches counts.
        reached = [(before, max((n - 1) * step + k - size - before, 0)) for n, step, k, (before, _), size in sizes]
        return evaluation.alterations, type(operation), kernel, stride, positions, *reached
    return None


def _right_output(seen: Observation) -> np.ndarray | None:
    """The right output of the layer, float32, if it can be computed from its inputs."""
    return exchanged(seen)().value.astype(np.float32) if _shape(exchanged(seen)) else None


def _first_wrong_image(seen: Observation) -> Observation:
    if seen.whole:
        return seen
    for index in range(len(seen.output)):
        only = seen.of_image(index)
        if not _certified(only.output, exchanged(only)):
            return only
    return seen


def _certified(output: np.ndarray, evaluation: Callable[[], Reference]) -> bool:
    """Whether an evaluation explains the output. For a sum, the first few units are tested before all."""
    if _shape(evaluation) != output.shape:
        return False
    first = evaluation.of_first(_FEW) if isinstance(evaluation, Evaluation) else None
    if first and not _explains(output[:, :_FEW], first):
        return False
    return _explains(output, evaluation)


def _explains(output: np.ndarray, evaluation: Callable[[], Reference]) -> bool:
    reference = evaluation()
    return certifies(output, reference, _is_exact(evaluation, reference))


def _is_exact(evaluation: Callable[[], Reference], reference: Reference) -> bool:
    """Whether float32 makes no error in it, so that its bits are required: dyadic factors and small sums."""
    if not isinstance(evaluation, Evaluation) or evaluation.alterations or reference.magnitude is None:
        return False
    if not isinstance(evaluation.operation, Conv | Dense | Add):
        return False
    arrays = [*evaluation.inputs, *evaluation.parameters.values()]
    return reference.magnitude.max(initial=0) < EXACT_LIMIT * prod(quantum_of(array) for array in arrays)


_FEW = 4


def _shape(evaluation: Callable[[], Reference]) -> tuple[int, ...] | None:
    """The shape of an evaluation, without evaluating; None if it is impossible."""
    with suppress(ValueError, TriptychError):
        return evaluation.shape() if isinstance(evaluation, Evaluation) else evaluation().value.shape
    return None


def _wrong_channels(seen: Observation) -> str | None:
    """The wrong channels or units, if they are few. For a layer that no mistake explains."""
    if _shape(exchanged(seen)) != seen.output.shape:
        return None
    reference = exchanged(seen)()
    allowed = 0 if reference.bound is None else reference.bound
    with np.errstate(invalid="ignore"):  # of −∞ beside −∞
        right = np.abs(seen.output - reference.value) <= allowed
    wrong = np.flatnonzero(~right.all(axis=(0, *range(2, right.ndim))))
    if not 0 < len(wrong) <= max(1, right.shape[1] // 8) or right.shape[1] < 3:
        return None
    numbers = ", ".join(map(str, wrong[:8])) + (" …" if len(wrong) > 8 else "")
    return f"no known mistake; only {len(wrong)} of {right.shape[1]} channels differ ({numbers})"


def _all_hypotheses(seen: Observation, untried: list[str]) -> Iterator[_Named]:
    """The layer's own mistakes, and those of any layer."""
    for summary, hypotheses in (
        (None, seen.operation.mistakes(seen)),
        ("it reads another layer", other_inputs(seen)),
        (None, of_any_layer(seen)),
        ("the weights of another layer are used", other_weights(seen)),
    ):
        try:
            for mistake, evaluation in hypotheses:
                yield summary or mistake, mistake, evaluation
        except (ValueError, TriptychError):  # the input has a shape that this layer cannot take
            continue
        except Exception as error:
            untried.append(_failure(f"mistakes in {seen.operation.kind}", error))


def _fitted_hypotheses(seen: Observation, untried: list[str]) -> Iterator[_Named]:
    if _shape(exchanged(seen)) != seen.output.shape:
        return
    try:
        for summary, mistake, reference in fitted_mistakes(seen):
            yield summary, mistake, partial(replace, reference)
    except Exception as error:
        untried.append(_failure("mistakes with a number in them", error))
