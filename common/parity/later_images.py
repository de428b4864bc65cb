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

import numpy as np

from common.operations import Conv
from common.operations.rounding import SMALLEST_NORMAL, UNIT_ROUNDOFF
from common.specs.seeded import seeded_generator


def sums_are_right(
    operation: Conv, x: np.ndarray, parameters: Mapping[str, np.ndarray], output: np.ndarray, largest: float
) -> bool:
    """Whether the signed sum of the filters of each group is right, except for errors of float32's size.

    Args:
        operation: of the layer.
        x: what it was given, float32, (N, C, H, W).
        parameters: in the canonical layout.
        output: what the backend made of it, float32, (N, filters, H, W).
        largest: how large an error may be, divided by u·√Σp².
    """
    groups = operation.groups
    weight, bias = parameters["weight"], parameters.get("bias", np.zeros(operation.filters, np.float32))
    signs = np.where(seeded_generator(0, "signs").random(operation.filters) < 0.5, -1.0, 1.0).reshape(groups, 1, -1)
    by_group = weight.reshape(groups, signs.shape[2], -1)
    if output.shape != (len(x), *operation.output_shape(x.shape[1:])):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        kernels = np.einsum("gof,gft->got", signs, by_group).reshape(groups, *weight.shape[1:])
        squares = np.einsum("gft,gft->gt", by_group, by_group).reshape(kernels.shape)
        expected, spread = _correlated(operation, x, kernels, squares)
        expected += (signs[:, 0] * bias.reshape(groups, -1)).sum(axis=1).reshape(-1, 1, 1)
        found = signs @ output.reshape(len(x), groups, signs.shape[2], -1).astype(np.float64)
        allowed = largest * UNIT_ROUNDOFF * np.sqrt(spread) + SMALLEST_NORMAL
        return bool((np.abs(found.reshape(expected.shape) - expected) <= allowed).all() and np.isfinite(allowed).all())


def _correlated(
    operation: Conv, x: np.ndarray, kernels: np.ndarray, squares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The output of one filter for each group of channels, and of another for their squares: (N, groups, height, width)
    each.

    Every element of a kernel is multiplied with all pixels that it may meet, and the shifted products are added. A
    stride divides pixels and elements into phases that do not meet.

    Args:
        operation: the convolution.
        x: float32, (N, C, H, W).
        kernels: float64, (groups, C / groups, kernel's height, width).
        squares: float32, of that shape.
    """
    _, (down, across), padding = operation.window(x.shape[1:])
    shape = (len(x), len(kernels), *operation.output_shape(x.shape[1:])[1:])
    padded = np.pad(x, ((0, 0), (0, 0), *padding)) if np.any(padding) else x
    sums = np.zeros(shape), np.zeros(shape, np.float32)
    for top, left in np.ndindex(min(down, kernels.shape[2]), min(across, kernels.shape[3])):
        pixels = np.ascontiguousarray(padded[:, :, top::down, left::across])
        by_group = pixels.reshape(len(x), *kernels.shape[:2], -1)
        read = by_group.astype(np.float64), np.square(by_group)
        for total, factors, numbers in zip(sums, (kernels, squares), read, strict=True):
            places = factors[:, :, top::down, left::across]
            products = places.reshape(*places.shape[:2], -1).swapaxes(1, 2) @ numbers
            maps = products.reshape(*shape[:2], *places.shape[2:], *pixels.shape[2:])
            for i, j in np.ndindex(*places.shape[2:]):
                total += maps[:, :, i, j, i : i + shape[2], j : j + shape[3]]
    return sums
