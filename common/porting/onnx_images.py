"""What an ONNX graph does to the image before its first layer.

For phones, people put the normalisation into the graph: (x / 255 − mean) / std. It is kept exactly, as y = scale · x +
shift for each channel, in float64, and becomes the preprocessing of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.operations.onnx_node import OnnxNode
from common.specs.architecture import Preprocessing
from common.specs.resnet import CAFFE, TORCHVISION

NEAR = 0.02
"""The largest relative difference at which means count as the well-known ones."""


@dataclass(frozen=True)
class Affine:
    """scale · x + shift, for each channel of the result. One number stands for all channels."""

    channels: tuple[int, ...] | None = None
    """The channel of the image that each channel reads; None: its own."""
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    @property
    def identity(self) -> bool:
        own = self.channels is None or self.channels == tuple(range(len(self.channels)))
        return own and set(self.scale) == {1.0} and set(self.shift) == {0.0}

    def then(self, scale: Any = 1.0, shift: Any = 0.0) -> Affine:
        """The composition with a following one.

        Raises:
            TriptychError: it differs from pixel to pixel.
        """
        factor, summand = (np.asarray(value, np.float64).reshape(-1) for value in (scale, shift))
        if factor.size not in (1, 3) or summand.size not in (1, 3):
            raise TriptychError("its graph treats the pixels of the image differently, so this is no normalisation")
        return replace(
            self,
            scale=tuple(float(n) for n in np.array(self.scale) * factor),
            shift=tuple(float(n) for n in np.array(self.shift) * factor + summand),
        )

    def select(self, channels: list[int]) -> Affine:
        """Some of its channels."""
        own = self.channels or tuple(range(3))
        pick = [numbers if len(numbers) == 1 else tuple(numbers[c] for c in channels) for numbers in self._numbers]
        return Affine(tuple(own[c] for c in channels), *pick)

    @property
    def _numbers(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.scale, self.shift


def joined(parts: list[Affine]) -> Affine:
    """The channels of several, concatenated."""
    channels: list[int] = []
    scale: list[float] = []
    shift: list[float] = []
    for part in parts:
        own = part.channels or tuple(range(3))
        channels += own
        scale += part.scale * (len(own) if len(part.scale) == 1 else 1)
        shift += part.shift * (len(own) if len(part.shift) == 1 else 1)
    return Affine(tuple(channels), tuple(scale), tuple(shift))


def whole(affine: Affine, before: Preprocessing) -> Preprocessing:
    """The preprocessing that consists of `before` and then the graph: y = scale · (p − mean) / s + shift."""
    channels = affine.channels or tuple(range(len(before.channels)))
    scale, shift = (np.broadcast_to(np.array(numbers), len(channels)) for numbers in (affine.scale, affine.shift))
    if not np.all(np.isfinite([scale, shift])) or not np.all(scale):
        raise TriptychError("its graph multiplies the image by zero, infinity or NaN")
    sizes = [before.scale[c] / float(k) for c, k in zip(channels, scale, strict=True)]
    means = [before.mean[c] - size * float(t) for c, size, t in zip(channels, sizes, shift, strict=True)]
    return Preprocessing("".join(before.channels[c] for c in channels), tuple(means), tuple(sizes))


def proved(affine: Affine) -> Preprocessing | None:
    """The whole preprocessing, if the numbers in the graph prove it.

    They prove it if they are the known means of pixels, or of pixels divided by 255. In torchvision's GoogLeNet they
    turn a standardised image into one from −1 to 1.
    """
    pixels, unit = Preprocessing(), Preprocessing(scale=(255.0, 255.0, 255.0))
    if len(affine.channels or (0, 1, 2)) != 3:
        return None
    for before in (pixels, unit):
        recipe = whole(replace(affine, channels=None), before)
        for known in (TORCHVISION, CAFFE):
            sizes = known.scale
            if _near(recipe.mean, known.mean) and (_near(recipe.scale, sizes) or set(recipe.scale) in ({1.0}, {255.0})):
                return replace(recipe, channels=known.channels)
    own = affine.channels in (None, (0, 1, 2))
    if own and _near(affine.scale, (0.458, 0.448, 0.45)) and _near(affine.shift, (-0.03, -0.088, -0.188)):
        return whole(affine, TORCHVISION)
    return None


def _near(found: tuple[float, ...], known: tuple[float, ...]) -> bool:
    return len(found) == len(known) and all(abs(f - k) <= NEAR * abs(k) for f, k in zip(found, known, strict=True))


def formula(affine: Affine) -> str:
    """The graph's part, in words."""
    scale, shift = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (affine.scale, affine.shift))
    order = "" if affine.channels in (None, (0, 1, 2)) else f", channels {affine.channels}"
    return f"({scale}) · x + ({shift}){order}"


def channels_taken(node: OnnxNode) -> list[int] | None:
    """Which channels of an image a Gather or a Slice takes."""
    if node.kind == "Gather":
        chosen = node.constant(1)
        if chosen is None or node.attributes.get("axis", 0) not in (1, -3, 3, -1) or chosen.size > 16:
            return None
        found = [int(n) for n in np.asarray(chosen).reshape(-1)]
    else:
        given = map(node.constant, range(1, 5))
        starts, ends, axes, steps = (None if array is None else [int(n) for n in array.reshape(-1)] for array in given)
        if not starts or not ends or len(starts) != 1 or len(ends) != 1 or axes not in ([1], [-3], [3], [-1]):
            return None
        found = list(range(3))[slice(starts[0], ends[0] if ends[0] > -(2**31) else None, (steps or [1])[0])]
    return found if found and all(-3 <= n < 3 for n in found) else None
