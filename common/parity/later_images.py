"""A quick judgement of the images after the first, which would cost as much as the first otherwise.

What a convolution gives is linear in its weights. So the sum of its filters' outputs, each with a sign of its own, is
the output of one filter whose weights are summed with the same signs, and what two filters give tells of all (as
Freivalds checks a product of matrices, 1979). Every element takes part. The rounding errors of such a sum are those of
its products, whose squares sum up to those of a filter with the root of the summed squares of the weights.

A sum that is further off than is usual for float32 proves nothing: the image is then judged like the first. So this
accuses nobody. What passes has not been held to the bound element by element, but a mistake in one image alone, at a
border between images or in what is left over of a batch, is far larger than what can hide below the errors of a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from common.operations import Conv, evaluate
from common.operations.rounding import SMALLEST_NORMAL, UNIT_ROUNDOFF
from common.specs.seeded import seeded_generator


def sums_are_right(
    operation: Conv, x: np.ndarray, parameters: Mapping[str, np.ndarray], output: np.ndarray, largest: float
) -> bool:
    """Whether the signed sum of the filters, over each group of them, is right but for errors of float32's size.

    Args:
        operation: of the layer.
        x: what it was given, float32, (N, C, H, W).
        parameters: in the canonical layout.
        output: what the backend made of it, float32, (N, filters, H, W).
        largest: how large an error may be, divided by u·√Σp².
    """
    groups = operation.groups
    signs = np.where(seeded_generator(0, "signs").random(operation.filters) < 0.5, -1.0, 1.0)
    weight, bias = parameters["weight"], parameters.get("bias", np.zeros(operation.filters))
    by_group = (signs.reshape(-1, 1, 1, 1) * weight).reshape(groups, -1, *weight.shape[1:])
    two = np.stack([by_group.sum(axis=1), np.sqrt(np.square(by_group).sum(axis=1))], axis=1)
    biases = np.stack([(signs * bias).reshape(groups, -1).sum(axis=1), np.zeros(groups)], axis=1)
    summed = {"weight": two.reshape(2 * groups, *weight.shape[1:]), "bias": biases.reshape(-1)}
    reference = evaluate(replace(operation, filters=2 * groups, bias=True), [x], summed)
    assert reference.spread is not None
    if output.shape[1:] != (operation.filters, *reference.value.shape[2:]):
        return False
    signed = output.astype(np.float64) * signs.reshape(-1, 1, 1)
    found = signed.reshape(len(output), groups, -1, *output.shape[2:]).sum(axis=2)
    allowed = largest * UNIT_ROUNDOFF * reference.spread[:, 1::2] + SMALLEST_NORMAL
    return bool((np.abs(found - reference.value[:, ::2]) <= allowed).all())
