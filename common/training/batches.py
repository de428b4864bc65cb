"""The plan of a training: the images of each batch, and where each is cropped, mirrored and recoloured.

It is drawn with NumPy from the seed and the number of the epoch alone. So the three frameworks see the same pixels, and
a resumed training sees what it would have seen. Each framework's own pipeline applies the plan:

    pixel = (picture[top : top + H, left : left + W], mirrored where flip is set, + shift − mean) / scale

in float32, in this order, each operation rounded by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.specs.architecture import Architecture
from common.specs.photographs import fitted
from common.specs.seeded import seeded_generator
from common.training.data import Data, Split
from common.training.recipe import Recipe

ENLARGED = 8 / 7
"""How much larger an image is than the network's input, for random crops: 256 pixels for 224."""

COLOUR_DEVIATION = 0.1
"""The standard deviation of the random factor of each principal component."""

PICTURES_FOR_COLOURS = 1000
"""The number of training images from which the principal components are computed."""


@dataclass(frozen=True)
class Batch:
    """The images of a batch by number, and what happens to each. All arrays have N rows."""

    indices: np.ndarray
    """int64, (N,): positions in the split."""
    tops: np.ndarray
    """int32, (N,): the first row of the crop."""
    lefts: np.ndarray
    """int32, (N,): the first column of the crop."""
    flips: np.ndarray
    """bool, (N,): whether the crop is mirrored, left to right."""
    shifts: np.ndarray
    """float32, (N, C): what is added to each channel, in pixel values."""

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, rank: int, ranks: int) -> Batch:
        """The part of one of several processes: every `ranks`-th image."""
        return self.take(slice(rank, None, ranks))

    def take(self, rows: slice | np.ndarray) -> Batch:
        return Batch(self.indices[rows], self.tops[rows], self.lefts[rows], self.flips[rows], self.shifts[rows])


class Batches:
    """The batches of every epoch, for one network, one set of data and one recipe."""

    def __init__(self, spec: Architecture, data: Data, recipe: Recipe) -> None:
        self.spec = spec if recipe.preprocessing is None else replace(spec, preprocessing=recipe.preprocessing)
        self.recipe = recipe
        self.channels, self.height, self.width = spec.input_shape
        self.crops = "crop" in recipe.augment
        self.picture_size = tuple(round(ENLARGED * n) if self.crops else n for n in (self.height, self.width))
        preprocessing = self.spec.preprocessing
        self.mean = np.array(preprocessing.mean, np.float32)[: self.channels]
        """float32, (C,)."""
        self.scale = np.array(preprocessing.scale, np.float32)[: self.channels]
        """float32, (C,)."""
        self.count, self.test_count = len(data.train), len(data.test)
        self.colours = self._principal_colours(data.train) if "colour" in recipe.augment else None

    @property
    def steps(self) -> int:
        """The number of batches in an epoch. An incomplete last batch is left out, unless it is the only one."""
        return max(1, self.count // self.recipe.batch_size)

    def batches(self, epoch: int) -> list[Batch]:
        """The batches of an epoch, counted from 0, in order."""
        generator = seeded_generator(self.recipe.seed, f"epoch {epoch}")
        order = generator.permutation(self.count)
        batch = self._centred(order)
        if self.crops:
            height, width = self.picture_size
            tops = generator.integers(0, height - self.height + 1, self.count, np.int32)
            lefts = generator.integers(0, width - self.width + 1, self.count, np.int32)
            batch = replace(batch, tops=tops, lefts=lefts)
        if "flip" in self.recipe.augment:
            batch = replace(batch, flips=generator.integers(0, 2, self.count).astype(bool))
        if self.colours is not None:
            factors = generator.standard_normal((self.count, self.channels)) * COLOUR_DEVIATION
            batch = replace(batch, shifts=(factors @ self.colours).astype(np.float32))
        size = self.recipe.batch_size
        return [batch.take(slice(step * size, (step + 1) * size)) for step in range(self.steps)]

    def test_batches(self) -> list[Batch]:
        """The test images in order, cropped at the centre and not changed otherwise."""
        batch = self._centred(np.arange(self.test_count))
        size = self.recipe.batch_size
        return [batch.take(slice(start, start + size)) for start in range(0, self.test_count, size)]

    def _centred(self, indices: np.ndarray) -> Batch:
        count = len(indices)
        top, left = ((n - m) // 2 for n, m in zip(self.picture_size, (self.height, self.width), strict=True))
        return Batch(
            indices.astype(np.int64),
            np.full(count, top, np.int32),
            np.full(count, left, np.int32),
            np.zeros(count, bool),
            np.zeros((count, self.channels), np.float32),
        )

    def picture(self, split: Split, index: int) -> np.ndarray:
        """A picture, scaled to cover `picture_size` and cropped to it: uint8, (H, W, C), channels in network order."""
        from PIL import Image

        height, width = self.picture_size
        return fitted(Image.fromarray(split.pictures[index]).convert("RGB"), (height, width), self.spec)

    def pictures(self, split: Split, batch: Batch) -> np.ndarray:
        """The pictures of a batch before cropping: uint8, (N, H, W, C)."""
        return np.stack([self.picture(split, index) for index in batch.indices])

    def _principal_colours(self, split: Split) -> np.ndarray:
        """A row for each principal component of the colours: its direction times its standard deviation, (C, C).

        The paper multiplies by the eigenvalue, a variance. Then the shift would depend on whether pixels go to 1 or to
        255. The published constants of its successors are standard deviations.
        """
        chosen = seeded_generator(self.recipe.seed, "colours").permutation(self.count)[:PICTURES_FOR_COLOURS]
        total, count = np.zeros(self.channels), 0
        products = np.zeros((self.channels, self.channels))
        for index in chosen:
            pixels = self.picture(split, index).reshape(-1, self.channels).astype(np.float64)
            total += pixels.sum(0)
            products += pixels.T @ pixels
            count += len(pixels)
        mean = total / count
        variances, directions = np.linalg.eigh(products / count - np.outer(mean, mean))
        return (directions * np.sqrt(np.maximum(variances, 0))).T
