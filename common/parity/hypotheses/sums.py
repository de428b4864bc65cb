"""Known porting mistakes in convolutions and dense layers, and on the image's way to the first of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np

from common.oracle import SMALLEST_NORMAL, UNIT_ROUNDOFF, Reference, gamma
from common.parity.hypotheses import (
    ORDERS,
    Hypothesis,
    Observation,
    exchanged,
    given,
    mistakes,
    rounded_result,
    widened,
)
from common.parity.hypotheses.windows import border_mistakes, position_mistakes, window_mistakes
from common.specs.architecture import Conv, Dense, Padding, Preprocessing, Shape


@mistakes.register
def _conv(operation: Conv, seen: Observation) -> Iterator[Hypothesis]:
    (x,), weight = seen.inputs, seen.parameters["weight"]
    groups = operation.groups
    yield from _bias_mistakes(seen)
    if (other := seen.next_conv) and isinstance(other.operation, Conv) and other.operation.stride != operation.stride:
        moved = exchanged(other, replace(other.operation, stride=operation.stride))
        own = exchanged(seen, replace(operation, stride=other.operation.stride))
        mistake = f"its stride and that of {other.name} are exchanged"
        yield mistake, partial(_if_certified, moved, other.output, own)
    yield from window_mistakes(operation, seen)
    yield from border_mistakes(operation, seen)
    yield from position_mistakes(operation, seen)
    if seen.preprocessing and x.shape[1] <= len(seen.preprocessing.mean):
        yield from _image_mistakes(seen, seen.preprocessing)
    if groups > 1:
        rolled = np.roll(x, x.shape[1] // groups, axis=1)
        swapped = {name: np.roll(array, len(array) // groups, axis=0) for name, array in seen.parameters.items()}
        yield "the groups' inputs are swapped", given(seen, rolled)
        yield "the groups' outputs are swapped", given(seen, rolled, **swapped)
        yield "the groups' kernels are swapped", exchanged(seen, weight=swapped["weight"])
        yield "the groups' kernels and biases are swapped", exchanged(seen, **swapped)
        for group in range(groups):
            width, units = x.shape[1] // groups, len(weight) // groups
            same = np.tile(x[:, group * width : (group + 1) * width], (1, groups, 1, 1))
            yield f"every group reads the channels of group {group + 1}", given(seen, same)
            of_one = np.tile(weight[group * units : (group + 1) * units], (groups, 1, 1, 1))
            yield f"every group has the kernels of group {group + 1}", exchanged(seen, weight=of_one)
            only = (np.arange(len(weight)) // units == group).astype(np.float32)
            mistake = f"only group {group + 1} of {groups} is there"
            alone = {name: array * only.reshape(-1, *[1] * (array.ndim - 1)) for name, array in seen.parameters.items()}
            yield mistake, exchanged(seen, **alone)
            if groups > 2:
                continue
            yield f"{mistake}, the other has its bias alone", exchanged(seen, weight=alone["weight"])
        interleaved = x.reshape(len(x), -1, groups, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
        yield "channels are dealt to the groups in turn", given(seen, interleaved)
    yield from _dilations(operation, seen)
    if max(weight.shape[2:]) > 1:
        yield "the kernel's height and width are exchanged", exchanged(seen, weight=weight.swapaxes(2, 3))
        yield "the kernel is mirrored from left to right", exchanged(seen, weight=weight[..., ::-1])
        yield "the kernel is upside down", exchanged(seen, weight=weight[:, :, ::-1])
        for turns in (1, 3):
            turned = np.rot90(weight, turns, (2, 3))
            yield f"the kernel is turned by {90 * turns}° counter-clockwise", exchanged(seen, weight=turned)
        flipped = weight[:, :, ::-1, ::-1]
        yield "the kernel is flipped (convolution for cross-correlation)", exchanged(seen, weight=flipped)
    yield from _unit_mistakes(seen, "filter")
    if weight.shape[0] == weight.shape[1]:
        yield "the kernel's inputs and outputs are exchanged", exchanged(seen, weight=weight.swapaxes(0, 1))
    hwio = weight.transpose(2, 3, 1, 0)
    for taken in (weight.reshape(hwio.shape).transpose(3, 2, 0, 1), hwio.reshape(weight.shape)):
        yield "the kernel is reshaped where it should be transposed", exchanged(seen, weight=taken)
    yield from _precision_mistakes(seen)


def _dilations(operation: Conv, seen: Observation) -> Iterator[Hypothesis]:
    """A kernel with holes is a larger one with zeros in it."""
    weight, padding = seen.parameters["weight"], operation.window(seen.inputs[0].shape[1:])[2]
    for step in (2, 3):
        height, width = (step * (length - 1) + 1 for length in weight.shape[2:])
        dilated = np.zeros((*weight.shape[:2], height, width), np.float32)
        dilated[:, :, ::step, ::step] = weight
        wider: Padding = ((step * padding[0][0], step * padding[0][1]), (step * padding[1][0], step * padding[1][1]))
        for pads in (padding, wider):
            larger = replace(operation, kernel=(height, width), padding=pads)
            yield f"the kernel is dilated by {step}", exchanged(seen, larger, weight=dilated)


def _if_certified(condition: partial[Reference], output: np.ndarray, evaluation: partial[Reference]) -> Reference:
    """An evaluation that stands only if another layer's output is within the bound of a mistake too."""
    reference = condition()
    assert reference.bound is not None
    if output.shape != reference.value.shape or not (np.abs(output - reference.value) <= reference.bound).all():
        raise ValueError("the other layer does not have its part of the mistake")
    return evaluation()


@mistakes.register
def _dense(operation: Dense, seen: Observation) -> Iterator[Hypothesis]:
    weight = seen.parameters["weight"]
    yield from _bias_mistakes(seen)
    if seen.flattened and seen.flattened[1:] != (1, 1):
        yield from _order_mistakes(seen, seen.flattened)
    yield from _unit_mistakes(seen, "unit")
    if weight.shape[0] == weight.shape[1]:
        yield "the kernel's inputs and outputs are exchanged", exchanged(seen, weight=weight.T)
    for taken in (weight.reshape(weight.shape[::-1]).T, weight.T.reshape(weight.shape)):
        yield "the kernel is reshaped where it should be transposed", exchanged(seen, weight=taken)
    yield from _precision_mistakes(seen)


def _order_mistakes(seen: Observation, flattened: Shape) -> Iterator[Hypothesis]:
    """A map is flattened in the framework's order P. The weights are in another, or were put into P from another."""
    weight, own = seen.parameters["weight"], ORDERS[seen.order]
    maps = weight.reshape(-1, *flattened)
    in_own = [len(weight), *(flattened[axis - 1] for axis in own[1:])]
    for order, axes in ORDERS.items():
        if order != seen.order:
            taken = maps.transpose(axes).reshape(in_own).transpose(np.argsort(own)).reshape(weight.shape)
            mistake = f"the weights are for a flatten in the order {order}, not {seen.order}"
            yield mistake, exchanged(seen, weight=taken)
    for order, axes in ORDERS.items():
        if order != "C, H, W" and (order, seen.order) != ("H, W, C", "H, W, C"):  # which is to leave them as they are
            turned = weight.reshape(-1, *(flattened[axis - 1] for axis in axes[1:]))
            taken = turned.transpose(np.argsort(axes)).reshape(weight.shape)
            mistake = f"the weights are reordered as if they were for a flatten in the order {order}"
            yield mistake, exchanged(seen, weight=taken)


def _unit_mistakes(seen: Observation, unit: str) -> Iterator[Hypothesis]:
    """Filters, or units, in another order, or their inputs."""
    own = {name: seen.parameters[name] for name in ("weight", "bias") if name in seen.parameters}
    for name, array in own.items():
        what = "bias" if name == "bias" else "weights"
        for step in (1, -1):
            neighbour = "previous" if step == 1 else "next"
            mistake = f"the {what} of each {unit} {'is' if name == 'bias' else 'are'} the {neighbour} {unit}'s"
            yield mistake, exchanged(seen, **{name: np.roll(array, step, axis=0)})
        plural = "biases" if name == "bias" else "weights"
        yield f"the {plural} of the {unit}s are in reverse order", exchanged(seen, **{name: array[::-1]})
    if len(own) > 1:
        for step in (1, -1):
            rolled = {name: np.roll(array, step, axis=0) for name, array in own.items()}
            neighbour = "previous" if step == 1 else "next"
            yield f"weights and bias of each {unit} are the {neighbour} {unit}'s", exchanged(seen, **rolled)
        yield f"the {unit}s are in reverse order", exchanged(seen, **{name: array[::-1] for name, array in own.items()})


def _bias_mistakes(seen: Observation) -> Iterator[Hypothesis]:
    if "bias" in seen.parameters:
        yield "the bias is missing", exchanged(seen, bias=0 * seen.parameters["bias"])
        yield "the bias is added twice", exchanged(seen, bias=2 * seen.parameters["bias"])
        yield "the bias is subtracted", exchanged(seen, bias=-seen.parameters["bias"])


def _precision_mistakes(seen: Observation) -> Iterator[Hypothesis]:
    (x,), weight = seen.inputs, seen.parameters["weight"]
    for name, bits, ties in (
        ("TF32", 11, "even"),
        ("TF32 (ties away from zero)", 11, "away"),
        ("TF32 (towards zero)", 11, "none"),
        ("bfloat16", 8, "even"),
        ("bfloat16 (towards zero)", 8, "none"),
    ):
        evaluation = given(seen, rounded(x, bits, ties), weight=rounded(weight, bits, ties))
        yield f"factors are rounded to {name}", evaluation
        yield f"factors and result are rounded to {name}", partial(rounded_result, evaluation, bits)
    # As many bits as TF32, but a smaller range: where no factor leaves that, no number tells the two apart.
    halves = given(seen, _float16(x), weight=_float16(weight))
    yield "factors are rounded to float16", halves
    yield "factors and result are rounded to float16", partial(rounded_result, halves, 11)
    yield "the weights are rounded to bfloat16", exchanged(seen, weight=rounded(weight, 8))
    yield "the weights are rounded to float16", exchanged(seen, weight=_float16(weight))
    yield "the weights are rounded to TF32", exchanged(seen, weight=rounded(weight, 11))
    yield "what it reads is rounded to float16", given(seen, _float16(x))
    yield "what it reads is rounded to TF32", given(seen, rounded(x, 11))
    yield "what it reads is rounded to bfloat16", given(seen, rounded(x, 8))
    for over, what in ((None, "all"), (tuple(range(1, weight.ndim)), "each unit")):
        scale = np.maximum(np.abs(weight).max(axis=over, keepdims=True), SMALLEST_NORMAL).astype(np.float64) / 127
        eight_bits = np.rint(weight / scale) * scale
        yield f"the weights are rounded to int8, one scale for {what}", exchanged(seen, weight=eight_bits)


def _float16(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def rounded(array: np.ndarray, bits: int, ties: str = "even") -> np.ndarray:
    """Float32 numbers with that many significant bits: rounded to nearest, ties to even or away; or cut ("none")."""
    dropped = np.uint64(24 - bits)
    words = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    half = np.uint64(1) << (dropped - np.uint64(1))
    if ties == "even":
        words += half - np.uint64(1) + ((words >> dropped) & np.uint64(1))
    elif ties == "away":
        words += half
    return (words >> dropped << dropped).astype(np.uint32).view(np.float32)


def _image_mistakes(seen: Observation, recipe: Preprocessing) -> Iterator[Hypothesis]:
    """What goes wrong on the way from pixels to the network."""
    (x,) = seen.inputs
    channels = x.shape[1]
    if channels == 3:
        yield "the image's channels are in reverse order (RGB for BGR), or the kernels'", given(seen, x[:, ::-1])
        for order in permutations(range(3)):
            if order not in ((0, 1, 2), (2, 1, 0)):
                yield f"the image's channels, or the kernels', are in the order {order}", given(seen, x[:, list(order)])
        for kept, lost in ((0, 2), (2, 0)):
            taken = [kept, 1, kept]
            mistake = f"channel {lost} of the image is lost, channel {kept} stands in both places"
            yield f"{mistake} (a swap through aliased views)", given(seen, x[:, taken])
    yield "the image's height and width are exchanged", given(seen, x.swapaxes(2, 3))
    batch, channels, height, width = x.shape
    for image in (
        x.reshape(batch, height, width, channels).transpose(0, 3, 1, 2),
        x.transpose(0, 2, 3, 1).reshape(x.shape),
    ):
        yield "the image is reshaped where it should be transposed", given(seen, image)
    yield "the image is mirrored", given(seen, x[..., ::-1])
    yield "the image is upside down", given(seen, x[:, :, ::-1])
    mean, scale = (np.array(numbers)[:channels].reshape(-1, 1, 1) for numbers in (recipe.mean, recipe.scale))
    pixels = x.astype(np.float64) * scale + mean
    made = {
        "the mean is not subtracted from the image": pixels / scale,
        "the image is not divided by its scale": pixels - mean,
        "the image's pixels are taken as they are, from 0 to 255": pixels,
        "the image's pixels are from 0 to 1": pixels / 255,
        "the image's pixels are from −1 to 1": pixels / 127.5 - 1,
        "the image is divided by 255 before the mean is subtracted": (pixels / 255 - mean) / scale,
        "the mean is subtracted from the image twice": (pixels - 2 * mean) / scale,
        "the mean's channels are in reverse order": (pixels - mean[::-1]) / scale,
        "the image is inverted": (255 - pixels - mean) / scale,
    }
    # Pixels, mean and scale are rounded, and so is each of up to four operations on them.
    slack = gamma(8) * float(((np.abs(pixels) + 2 * np.abs(mean)) / np.minimum(scale, 1) + 255).max())
    for mistake, image in made.items():
        if not np.array_equal(image, x):
            yield mistake, partial(widened, given(seen, image), slack)
    for axes, mistake in (
        ((2, 3), "the image's own mean is subtracted"),
        ((0, 2, 3), "the batch's mean is subtracted from the image"),
        ((1, 2, 3), "the mean over all channels is subtracted"),
    ):
        images = seen.batch[0] if 0 in axes else x
        own = images.mean(axis=axes, dtype=np.float64, keepdims=True)
        sizes = np.abs(images).mean(axis=axes, dtype=np.float64, keepdims=True)
        summed = gamma(images.size + 1) * sizes + UNIT_ROUNDOFF * np.abs(x - own)
        yield mistake, partial(widened, given(seen, x - own), 2 * float(summed.max()))
