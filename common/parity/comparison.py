"""The outputs of two backends side by side: how far apart they are from end to end. No verdict rests on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """The same output of two backends, over all images and classes."""

    left: str
    right: str
    output: str
    """`logits`, `aux1` or `aux2`."""
    largest_absolute: float
    """max |l − r|."""
    largest_relative: float
    """max |l − r| ÷ max(|l|, |r|), without 0 ÷ 0."""
    tolerance: float
    """The smallest t with |l − r| ≤ t + t·|r| everywhere: the tolerance with which `allclose` would pass."""
    top1: float
    """The share of images with the same largest class."""
    top5: float
    """The share of images with the same five largest classes."""


def compare_all(outputs: Mapping[str, Mapping[str, np.ndarray]]) -> list[Comparison]:
    """Compare every pair of backends. An output that is not (N, classes) is wrong and is not compared.

    Args:
        outputs: by backend and by name, float32, (N, classes).
    """
    return [
        compare(left, right, name, outputs[left][name], outputs[right][name])
        for left, right in combinations(outputs, 2)
        for name in outputs[left]
        if name in outputs[right] and outputs[left][name].shape == outputs[right][name].shape
        if outputs[left][name].ndim == 2
    ]


def compare(left: str, right: str, output: str, one: np.ndarray, other: np.ndarray) -> Comparison:
    """Compare one output of two backends, both float32, (N, classes)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        difference = np.where(alike, 0, np.abs(a - b))
        larger = np.maximum(np.abs(a), np.abs(b))
        relative = np.divide(difference, larger, out=np.zeros_like(larger), where=~alike & (larger > 0))
    order = [np.argsort(-values, axis=1, kind="stable") for values in (a, b)]
    same = [
        [set(x) == set(y) for x, y in zip(order[0][:, :count], order[1][:, :count], strict=True)] for count in (1, 5)
    ]
    top1, top5 = (sum(images) / len(images) if images else 1.0 for images in same)
    return Comparison(
        left,
        right,
        output,
        float(difference.max(initial=0)),
        float(relative.max(initial=0)),
        float(np.divide(difference, 1 + np.abs(b), out=np.zeros_like(b), where=~alike).max(initial=0)),
        top1,
        top5,
    )
