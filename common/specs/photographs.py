"""The photographs that ship with scikit-image, and the way from an image to a network's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import TriptychError
from common.files import os_error_sentence
from common.operations.preprocessing import Preprocessing
from common.specs.architecture import Architecture

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
"""Files inside scikit-image's own package; nothing is downloaded."""


def photograph(index: int) -> Image:
    """The photograph at `index`, modulo their number, as an RGB image."""
    from importlib.resources import files

    from PIL import Image

    with (files("skimage.data") / PHOTOGRAPHS[index % len(PHOTOGRAPHS)]).open("rb") as stream:
        return Image.open(stream).convert("RGB")


def read_photograph(path: str | Path) -> Image:
    """The image in a file, as RGB with 8 bits, in the orientation that a person sees.

    Sixteen bits are rounded to eight, transparent pixels are put on white, and EXIF's orientation is followed.

    Raises:
        TriptychError: there is no such file, or it is not an image that can be read in this way.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return _as_rgb(ImageOps.exif_transpose(picture), picture.format, path)
    except UnidentifiedImageError:
        raise TriptychError(f"{path} is not an image; give the path of a JPEG or PNG file") from None
    except OSError as error:
        raise TriptychError(f"cannot read the image {path}: {os_error_sentence(error)}") from None
    except Image.DecompressionBombError:
        raise TriptychError(f"the image {path} is too large; scale it down") from None


def _as_rgb(picture: Image, kind: str | None, path: str | Path) -> Image:
    from PIL import Image

    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM")):
        eight = (np.asarray(picture).astype(np.uint32) + 128) // 257  # 65535 is 255
        return Image.fromarray(eight.astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        what = "integers of 32 bits" if picture.mode == "I" else "floating-point numbers"
        raise TriptychError(f"the pixels of {path} are {what}, of which white is unknown; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    try:
        return picture.convert("RGB")
    except ValueError:
        raise TriptychError(
            f"{path} has colours of mode {picture.mode}, expected RGB or grey; save it as such"
        ) from None


def preprocess(picture: Image, spec: Architecture) -> np.ndarray:
    """An image as a network's input: resized to cover it, cropped at the centre, normalised as the specification says.

    Resizing is Pillow's bicubic filter with its antialiasing.

    Returns:
        float32, (C, H, W), channels in the order of `spec.preprocessing.channels`; grey where the network takes one.
    """
    return prepared(picture, spec.input_shape, spec.preprocessing)


def prepared(picture: Image, shape: Sequence[int], recipe: Preprocessing) -> np.ndarray:
    """As `preprocess`, for an input of `shape`, (channels, height, width), and by a recipe."""
    channels, height, width = shape
    pixels = _fitted(picture, (height, width), channels, recipe).transpose(2, 0, 1).astype(np.float32)
    mean, scale = (np.array(numbers, np.float32)[:channels, None, None] for numbers in (recipe.mean, recipe.scale))
    return np.ascontiguousarray((pixels - mean) / scale)


def fitted(picture: Image, size: tuple[int, int], spec: Architecture) -> np.ndarray:
    """An image, resized to cover (height, width) and cropped at the centre.

    Returns:
        uint8, (H, W, C), channels in the order of `spec.preprocessing.channels`; grey where the network takes one.
    """
    return _fitted(picture, size, spec.input_shape[0], spec.preprocessing)


def _fitted(picture: Image, size: tuple[int, int], channels: int, recipe: Preprocessing) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width = size
    scaled = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    if channels == 1:
        return np.array(scaled.convert("L"))[..., None]
    return np.asarray(scaled)[..., ["RGB".index(channel) for channel in recipe.channels]]


def photographs(spec: Architecture, count: int) -> np.ndarray:
    """A batch of preprocessed photographs, float32, (N, C, H, W)."""
    return np.stack([preprocess(photograph(index), spec) for index in range(count)])
