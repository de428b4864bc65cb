"""The files in which a user gives an input: an array, or an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from common.errors import TriptychError
from common.layouts import TURNS
from common.operations.preprocessing import Preprocessing
from common.specs.photographs import prepared, read_photograph

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "np.ndarray | Image"

PLAIN = Preprocessing(mean=(127.5,) * 3, scale=(127.5,) * 3)
"""For a model whose own preprocessing nobody knows: pixels from −1 to 1."""


def is_given_as(kind: np.dtype) -> bool:
    """Whether an input of a model may have this type: float32, integers or truth values."""
    return kind == np.float32 or kind.kind in "iub"


def read_array(file: str | Path) -> np.ndarray:
    """The array in a `.npy` file.

    Raises:
        TriptychError: there is no such file, or no array in it of float32, integers or truth values.
    """
    try:
        array = np.load(Path(file), allow_pickle=False)
    except FileNotFoundError:
        raise TriptychError(f"there is no file {file}") from None
    except (ValueError, OSError, EOFError):
        raise TriptychError(f"{file} is no NumPy file of numbers") from None
    if not isinstance(array, np.ndarray):
        raise TriptychError(f"{file} holds several arrays; save the one that is meant as .npy")
    if not is_given_as(array.dtype):
        raise TriptychError(f"{file} holds {array.dtype}, expected float32, integers or truth values")
    return array


def read_picture(file: str) -> Picture:
    """The array in a `.npy` file, or the image in another.

    Raises:
        TriptychError: as for `read_array` and `read_photograph`.
    """
    return read_array(file) if file.endswith(".npy") else read_photograph(file)


def only_input(names: Sequence[str], called: str) -> str:
    """The name of the only input of a model.

    Raises:
        TriptychError: it takes several.
    """
    if len(names) != 1:
        raise TriptychError(f"{called} takes {', '.join(names)}; give each with --input NAME=FILE.npy")
    return names[0]


def layouts(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array as it is; then, if it may be images, with its channels on another axis."""
    yield array
    for turn in TURNS[4][1:] if array.ndim == 4 else ():
        yield np.ascontiguousarray(array.transpose(turn))


def as_input(picture: Picture, shape: Sequence[int], called: str, recipe: Preprocessing = PLAIN) -> np.ndarray:
    """An array or an image as the only input of a model.

    Args:
        picture: an array, whose channels may be on another axis than the model's, or an image.
        shape: what the model takes, batch axis first.
        called: what it is called in messages.
        recipe: how an image is prepared.

    Raises:
        TriptychError: it does not fit.
    """
    wanted = "×".join(map(str, shape))
    if isinstance(picture, np.ndarray):
        fitting = next((array for array in layouts(picture) if array.shape == tuple(shape)), None)
        if fitting is None:
            found = "×".join(map(str, picture.shape)) or "one number"
            raise TriptychError(f"--probe FILE holds {found}, but {called} takes {wanted}")
        return fitting
    first = len(shape) == 4 and shape[1] in (1, 3)
    if len(shape) != 4 or not (first or shape[3] in (1, 3)):
        raise TriptychError(f"{called} takes {wanted}, which is no image; give a .npy file")
    channels, height, width = shape[1:] if first else (shape[3], *shape[1:3])
    image = np.stack([prepared(picture, (channels, height, width), recipe)] * shape[0])
    return image if first else np.ascontiguousarray(image.transpose(0, 2, 3, 1))
