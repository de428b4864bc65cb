"""Why a layer diverged: known porting mistakes as hypotheses, each evaluated by the oracle.

A hypothesis is a mistake made on purpose in the oracle. If the backend's own output lies within the rounding bound of
the network *with* the mistake, the mistake is the cause: not a guess, but the same proof by which a correct layer is
certified. A hypothesis that certifies nothing is excluded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial, singledispatch

import numpy as np

from common.errors import TriptychError
from common.oracle import (
    ELEMENTARY_ULP,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Reference,
    evaluate,
    gamma,
    lrn_factor,
    parameters_of,
)
from common.specs.architecture import (
    LRN,
    SAME,
    Add,
    Architecture,
    AveragePool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    Operation,
    Padding,
    ReLU,
    Shape,
)


@dataclass(frozen=True)
class Observation:
    """What a backend had before it and what it made of it, for one image, and what it should have used."""

    operation: Operation
    inputs: list[np.ndarray]
    """float32, (1, C, H, W) or (1, features)."""
    output: np.ndarray
    parameters: Mapping[str, np.ndarray]
    flattened: Shape | None = None
    """The (C, H, W) of the map whose flattening is the input, if it is one."""
    neighbours: Mapping[str, Mapping[str, np.ndarray]] | None = None
    """Parameters of other layers with the same shapes, by layer."""


Hypothesis = tuple[str, partial[Reference]]
"""The mistake in words, and what the layer gives with it."""


@dataclass(frozen=True)
class Finding:
    """The cause, if a hypothesis certified; and what was excluded before it."""

    cause: str | None
    excluded: list[str]


def observe(
    spec: Architecture, layer: Layer, weights: Mapping[str, np.ndarray], inputs: list[np.ndarray], output: np.ndarray
) -> Observation:
    """What there is to know about a layer that diverged, on the first image of the batch."""
    layers = {other.name: other for other in spec.layers}
    source = layers.get(layer.inputs[0])
    while source is not None and isinstance(source.operation, Dropout):
        source = layers.get(source.inputs[0])
    flattens = source is not None and isinstance(source.operation, Flatten)
    parameters = parameters_of(layer.name, weights)
    shapes = {name: array.shape for name, array in parameters.items()}
    others = {other.name: parameters_of(other.name, weights) for other in spec.layers if other != layer}
    return Observation(
        layer.operation,
        [array[:1] for array in inputs],
        output[:1],
        parameters,
        flattened=spec.shapes[source.inputs[0]] if source is not None and flattens else None,
        neighbours={
            name: found
            for name, found in others.items()
            if found and {parameter: array.shape for parameter, array in found.items()} == shapes
        },
    )


def find_cause(seen: Observation, certifies: Callable[[np.ndarray, Reference], bool]) -> Finding:
    """Try the hypotheses that apply, in order, until one certifies the output.

    Args:
        seen: of the layer that diverged.
        certifies: whether an output is within a reference's bound and has float32's size of errors.
    """
    excluded: list[str] = []
    try:
        for mistake, evaluation in _all_hypotheses(seen):
            if _shape(evaluation) == seen.output.shape and certifies(seen.output, evaluation()):
                return Finding(mistake, excluded)
            excluded.append(mistake)
    except ValueError:  # what reached the layer has a shape that it cannot take: the network is wired differently
        pass
    return Finding(None, excluded)


def _shape(evaluation: partial[Reference]) -> tuple[int, ...] | None:
    """The shape that an evaluation would have, found without evaluating an operation; None if it is impossible."""
    if evaluation.func is not evaluate:
        return evaluation().value.shape
    operation, inputs, parameters = evaluation.args
    shapes = [x.shape[1:] for x in inputs]
    try:
        expected = operation.parameter_shapes(*shapes)
        fits = all(parameters[name].shape == shape for name, shape in expected.items())
        return (len(inputs[0]), *operation.output_shape(*shapes)) if fits else None
    except TriptychError:
        return None


def explain_shape(operation: Operation, given: Shape, found: Shape) -> str | None:
    """The mistakes with which a window would give the shape that was found, for a network that could not be run."""
    if not isinstance(operation, Conv | MaxPool | AveragePool):
        return None
    seen = Observation(operation, [np.empty((1, *given), np.float32)], np.empty(0), {})
    mistakes = []
    for mistake, evaluation in _window_mistakes(operation, seen):
        with suppress(TriptychError):  # the window does not fit
            if evaluation.args[0].output_shape(given) == found:
                mistakes.append(mistake)
    return " or ".join(mistakes) or None


def _all_hypotheses(seen: Observation) -> Iterator[Hypothesis]:
    yield from _hypotheses(seen.operation, seen)
    if not isinstance(seen.operation, ReLU | MaxPool | Flatten):
        yield "a ReLU is applied that belongs to another layer", partial(_relu, seen)
    if isinstance(seen.operation, Dense):
        yield "a softmax is applied", partial(_softmax, seen)
    for name, parameters in (seen.neighbours or {}).items():
        yield f"the weights of {name} are used", partial(evaluate, seen.operation, seen.inputs, parameters)


@singledispatch
def _hypotheses(operation: Operation, seen: Observation) -> Iterator[Hypothesis]:
    """The mistakes that are made with an operation."""
    yield from ()


def _with(
    seen: Observation, operation: Operation | None = None, /, *, x: np.ndarray | None = None, **parameters: np.ndarray
) -> partial[Reference]:
    """An evaluation with some of its ingredients exchanged."""
    inputs = seen.inputs if x is None else [x]
    return partial(evaluate, operation or seen.operation, inputs, {**seen.parameters, **parameters})


def _relu(seen: Observation) -> Reference:
    reference = evaluate(seen.operation, seen.inputs, seen.parameters)
    return replace(reference, value=reference.value.clip(0))


def _softmax(seen: Observation) -> Reference:
    """Softmax of logits that are within δ of their reference.

    Each exponential is then wrong by a factor exp(±δ), and by the rounding of its argument, so a probability by twice
    that; n − 1 additions, two exponentials and a quotient add the rest.
    """
    reference = evaluate(seen.operation, seen.inputs, seen.parameters)
    assert reference.bound is not None
    logits = reference.value - reference.value.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    value = exponentials / exponentials.sum(axis=1, keepdims=True)
    argument = reference.bound.max() + UNIT_ROUNDOFF * np.abs(logits).max()
    relative = np.expm1(2 * argument) + gamma(logits.shape[1] + 2 * ELEMENTARY_ULP + 2)
    return Reference(value, 1.001 * relative * value + SMALLEST_NORMAL)


@_hypotheses.register
def _(operation: Conv, seen: Observation) -> Iterator[Hypothesis]:
    (x,), weight = seen.inputs, seen.parameters["weight"]
    groups = operation.groups
    yield from _window_mistakes(operation, seen)
    if x.shape[1] == 3:
        yield "the image's channels are in reverse order (RGB for BGR)", _with(seen, x=x[:, ::-1])
    if groups > 1:
        rolled = np.roll(x, x.shape[1] // groups, axis=1)
        yield "the groups' inputs are swapped", _with(seen, x=rolled)
        swapped = {name: np.roll(array, len(array) // groups, axis=0) for name, array in seen.parameters.items()}
        yield "the groups' outputs are swapped", _with(seen, x=rolled, **swapped)
        interleaved = x.reshape(len(x), -1, groups, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
        yield "channels are dealt to the groups in turn", _with(seen, x=interleaved)
    yield "the kernel's height and width are exchanged", _with(seen, weight=weight.swapaxes(2, 3))
    yield "the kernel is flipped (convolution for cross-correlation)", _with(seen, weight=weight[:, :, ::-1, ::-1])
    if weight.shape[0] == weight.shape[1]:
        yield "the kernel's inputs and outputs are exchanged", _with(seen, weight=weight.swapaxes(0, 1))
    yield from _sum_mistakes(seen)


_ORDERS = {"C, H, W": (0, 1, 2, 3), "H, W, C": (0, 2, 3, 1), "W, H, C": (0, 3, 2, 1), "C, W, H": (0, 1, 3, 2)}
"""The orders in which a map is flattened, as transpositions of (N, C, H, W)."""


@_hypotheses.register
def _(operation: Dense, seen: Observation) -> Iterator[Hypothesis]:
    weight = seen.parameters["weight"]
    if seen.flattened:
        for order, axes in _ORDERS.items():
            rows = weight.reshape(-1, *seen.flattened).transpose(axes).reshape(weight.shape)
            yield f"the weights are for a flatten in the order {order}", _with(seen, weight=rows)
    if weight.shape[0] == weight.shape[1]:
        yield "the kernel's inputs and outputs are exchanged", _with(seen, weight=weight.T)
    yield from _sum_mistakes(seen)


def _sum_mistakes(seen: Observation) -> Iterator[Hypothesis]:
    weight = seen.parameters["weight"]
    if "bias" in seen.parameters:
        yield "the bias is missing", _with(seen, bias=0 * seen.parameters["bias"])
        yield "the bias is added twice", _with(seen, bias=2 * seen.parameters["bias"])
    for name, bits in {"TF32": 11, "bfloat16": 8}.items():
        rounded = [_rounded(array, bits) for array in (seen.inputs[0], weight)]
        yield f"factors are rounded to {name}", _with(seen, x=rounded[0], weight=rounded[1])


def _rounded(array: np.ndarray, bits: int) -> np.ndarray:
    """Float32 numbers rounded to that many significant bits, ties to even."""
    dropped = 24 - bits
    words = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    words += (1 << (dropped - 1)) - 1 + ((words >> np.uint64(dropped)) & np.uint64(1))
    return (words >> np.uint64(dropped) << np.uint64(dropped)).astype(np.uint32).view(np.float32)


def _window_mistakes(
    operation: Conv | MaxPool | AveragePool, seen: Observation
) -> Iterator[tuple[str, partial[Reference]]]:
    kernel, stride, padding = operation.window(seen.inputs[0].shape[1:])
    same = replace(operation, padding=SAME)
    if same.window(seen.inputs[0].shape[1:])[2] != padding:
        yield "the padding is TensorFlow's SAME", _with(seen, same)
    if any(map(any, padding)):
        yield "the padding is missing", _with(seen, replace(operation, padding=0))
        (top, bottom), (left, right) = padding
        shifted: Padding = ((top - 1, bottom + 1), (left - 1, right + 1))
        if min(top, left) > 0:
            yield (
                "the padding is shifted by a pixel to the bottom and right",
                _with(seen, replace(operation, padding=shifted)),
            )
    for pixels in range(1, max(kernel)):
        if padding != ((pixels, pixels), (pixels, pixels)):
            yield f"the padding is {pixels}", _with(seen, replace(operation, padding=pixels))
    if not isinstance(operation, Conv):
        over = ((0, stride[0] - 1), (0, stride[1] - 1))
        if max(stride) > 1 and padding != over:
            yield "the number of windows is rounded up, not down", _with(seen, replace(operation, padding=over))
    for step in range(1, 6):
        if stride != (step, step):
            yield f"the stride is {step}", _with(seen, replace(operation, stride=step))


@_hypotheses.register
def _(operation: MaxPool, seen: Observation) -> Iterator[Hypothesis]:
    yield from _window_mistakes(operation, seen)
    for size in range(1, 6):
        if operation.kernel not in (size, (size, size)):
            yield f"the window is {size}×{size}", _with(seen, replace(operation, kernel=size))
    average = AveragePool(operation.kernel, operation.stride, operation.padding)
    yield "the average is taken, not the maximum", _with(seen, average)


@_hypotheses.register
def _(operation: AveragePool, seen: Observation) -> Iterator[Hypothesis]:
    yield from _window_mistakes(operation, seen)
    maximum = MaxPool(operation.kernel, operation.stride, operation.padding)
    yield "the maximum is taken, not the average", _with(seen, maximum)


@_hypotheses.register
def _(operation: LRN, seen: Observation) -> Iterator[Hypothesis]:
    size, alpha = operation.size, operation.alpha
    alphas = {
        "alpha is not divided by the size": alpha * size,
        "alpha is divided by the size twice": alpha / size,
        "alpha is ten times too large": alpha * 10,
        "alpha is ten times too small": alpha / 10,
        "alpha is ten times too small and not divided by the size": alpha * size / 10,
    }
    for mistake, value in alphas.items():
        yield mistake, _with(seen, replace(operation, alpha=value))
    for window, mistake in {
        2 * size + 1: "the size is taken for a radius",
        size // 2 | 1: "a radius is taken for the size",
    }.items():
        if window != size:
            # In TensorFlow alpha / size is one number, which the window does not change; elsewhere alpha is.
            yield mistake, _with(seen, replace(operation, size=window, alpha=alpha * window / size))
            yield f"{mistake}, and alpha divided by it", _with(seen, replace(operation, size=window))
    for k in (0.5, 1.0, 2.0):
        if k != operation.k:
            yield f"k is {k:g}", _with(seen, replace(operation, k=k))
    for beta in (0.5, 0.75, 1.0):
        if beta != operation.beta:
            yield f"beta is {beta:g}", _with(seen, replace(operation, beta=beta))
    for shift in (-1, 1):
        yield f"the window is {shift:+d} channel off", partial(_shifted_lrn, operation, seen.inputs[0], shift)


def _shifted_lrn(operation: LRN, x: np.ndarray, shift: int) -> Reference:
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    moved = slice(1 + shift, 1 + shift + x.shape[1])
    factor, relative = (array[:, moved] for array in lrn_factor(operation, padded))
    value = x * factor
    return Reference(value, relative * np.abs(value) + SMALLEST_NORMAL)


@_hypotheses.register
def _(operation: BatchNorm, seen: Observation) -> Iterator[Hypothesis]:
    for eps in (1e-5, 1.001e-5, 1e-3, 0.0):
        if eps != operation.eps:
            yield f"eps is {eps:g}", _with(seen, replace(operation, eps=eps))
    ones, zeros = np.ones_like(seen.parameters["gamma"]), np.zeros_like(seen.parameters["beta"])
    yield "gamma is missing", _with(seen, gamma=ones)
    yield "beta is missing", _with(seen, beta=zeros)
    yield "the stored mean is missing", _with(seen, mean=zeros)
    yield "the stored statistics are missing", _with(seen, mean=zeros, variance=ones)
    yield "gamma and beta are exchanged", _with(seen, gamma=seen.parameters["beta"], beta=seen.parameters["gamma"])
    yield "the variance is taken for a standard deviation", _with(seen, variance=seen.parameters["variance"] ** 2)


@_hypotheses.register
def _(operation: ReLU, seen: Observation) -> Iterator[Hypothesis]:
    (x,) = (array.astype(np.float64) for array in seen.inputs)
    yield "the ReLU is missing", partial(Reference, x)
    yield "the ReLU is capped at 6", partial(Reference, x.clip(0, 6))
    for slope in (0.01, 0.1, 0.2, 0.3):
        leaky = np.where(x > 0, x, slope * x)
        yield f"the ReLU is leaky, slope {slope}", partial(Reference, leaky, gamma(3) * np.abs(leaky) + SMALLEST_NORMAL)


@_hypotheses.register
def _(operation: Flatten, seen: Observation) -> Iterator[Hypothesis]:
    """Where maps are (N, H, W, C), what is recorded has been put into the order C, H, W as if it had been H, W, C."""
    (x,) = seen.inputs
    if x.ndim != 4:
        return
    batch, channels, height, width = x.shape
    for order, axes in _ORDERS.items():
        flat = x.transpose(axes).reshape(batch, -1).astype(np.float64)
        if order != "C, H, W":
            yield f"the order is {order}, not C, H, W", partial(Reference, flat)
        if order != "H, W, C":
            canonical = flat.reshape(batch, height, width, channels).transpose(0, 3, 1, 2).reshape(batch, -1)
            yield f"the order is {order}, not H, W, C", partial(Reference, canonical)


@_hypotheses.register
def _(operation: Dropout, seen: Observation) -> Iterator[Hypothesis]:
    (x,) = (array.astype(np.float64) for array in seen.inputs)
    for keep in {1 - operation.rate, operation.rate, 0.75, 0.25}:
        scaled = x / keep
        bound = gamma(3) * np.abs(scaled) + SMALLEST_NORMAL
        yield f"every value is divided by {keep:g}", partial(Reference, scaled, bound)
        dropped = np.where(seen.output == 0, 0, scaled)
        yield f"dropout is active, and divides what it keeps by {keep:g}", partial(Reference, dropped, bound)
    yield (
        f"every value is multiplied by {operation.rate:g}",
        partial(Reference, x * operation.rate, gamma(2) * np.abs(x)),
    )
    yield "dropout is active, and does not scale", partial(Reference, np.where(seen.output == 0, 0, x))


@_hypotheses.register
def _(operation: Add, seen: Observation) -> Iterator[Hypothesis]:
    for number, x in enumerate(seen.inputs, start=1):
        yield f"only operand {number} of {len(seen.inputs)} is there", partial(Reference, x.astype(np.float64))


@_hypotheses.register
def _(operation: Concat, seen: Observation) -> Iterator[Hypothesis]:
    yield "the inputs are in reverse order", partial(evaluate, operation, seen.inputs[::-1], {})
