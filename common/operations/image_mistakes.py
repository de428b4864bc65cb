"""Known mistakes on the way from an image's pixels to the first convolution."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from common.operations.arrays import np
from common.operations.mistake import given, widened
from common.operations.operation import Hypothesis, Observation
from common.operations.preprocessing import Preprocessing
from common.operations.rounding import UNIT_ROUNDOFF, gamma


def image_mistakes(seen: Observation, recipe: Preprocessing) -> Iterator[Hypothesis]:
    """What the convolution gives if the image was prepared otherwise than `recipe` says, or moved in memory."""
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
            yield mistake, given(seen, image).then(widened(slack))
    for axes, mistake in (
        ((2, 3), "the image's own mean is subtracted"),
        ((0, 2, 3), "the batch's mean is subtracted from the image"),
        ((1, 2, 3), "the mean over all channels is subtracted"),
    ):
        images = seen.batch[0] if 0 in axes else x
        own = images.mean(axis=axes, dtype=np.float64, keepdims=True)
        sizes = np.abs(images).mean(axis=axes, dtype=np.float64, keepdims=True)
        summed = gamma(images.size + 1) * sizes + UNIT_ROUNDOFF * np.abs(x - own)
        yield mistake, given(seen, x - own).then(widened(2 * float(summed.max())))
