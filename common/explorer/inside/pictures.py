"""Pictures: mosaics of channels, maps of differences, photographs; encoded so that they stay small."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import TriptychError
from common.explorer.inside.filters import NOT_A_NUMBER
from common.explorer.results import SCALE
from common.files import os_error_sentence, written_atomically

PICTURES = "inside"
"""The folder of the site in which they lie."""

LIMIT = 3_000_000
"""Bytes of all pictures of a network."""

FIRST = 64
"""Channels that are shown at once; the rest are shown on demand."""

ACROSS = 8
"""Channels beside each other in the mosaic of the first; the rest stand in a square."""

SIDES = (64, 56, 48, 40, 32, 28, 24, 20, 16, 14, 12, 10, 8, 6, 4, 3, 2, 1)
"""Of a channel in a mosaic, in pixels, the first that fits its share; larger maps are averaged, none is enlarged."""

BRIGHTEST = 99.5
"""The percentile of a layer's values that is white, and its opposite that is black: one value in 100 is beyond them."""

ULP_STEPS = (0, 1, 3, 15, 255, 4095, 65535, 1048575)
"""The largest distance in units in the last place of each of `SCALE`'s colours but the last, which is for all above."""

ULP_LABELS = ("0", "1", "2–3", "4–15", "16–255", "to 2^12", "to 2^16", "to 2^20", "more")

COLOURS = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in SCALE], np.uint8)


@dataclass(frozen=True)
class Picture:
    """A picture of an album."""

    source: str
    """The path of its file from the pages, or a data URI."""
    width: int
    height: int


@dataclass
class Album:
    """The pictures of a network; those that are the same are one file."""

    files: dict[str, bytes] = field(default_factory=dict)
    """WebP, by a name made of the content."""
    inline: int = 0
    """Bytes of those that stand in the page itself."""

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values())) + self.inline

    @property
    def left(self) -> int:
        return LIMIT - self.size

    def cost(self, contents: Sequence[bytes]) -> int:
        """Bytes that some pictures would add."""
        new = {_name(content): len(content) for content in contents}
        return sum(size for name, size in new.items() if name not in self.files)

    def add(self, pixels: np.ndarray, content: bytes) -> Picture:
        """A picture in a file of its own."""
        self.files[_name(content)] = content
        return Picture(f"{PICTURES}/{_name(content)}", pixels.shape[1], pixels.shape[0])

    def add_inline(self, pixels: np.ndarray, content: bytes | None = None) -> Picture:
        """A picture in the page itself; lossless if it is not encoded yet."""
        data = b64encode(content or encoded(pixels, lossless=True)).decode()
        self.inline += len(data)
        return Picture(f"data:image/webp;base64,{data}", pixels.shape[1], pixels.shape[0])

    @contextmanager
    def written(self, folder: Path) -> Iterator[None]:
        """Have the files in a folder while pages that show them are written; then remove those of former albums.

        Where that fails, or is interrupted, the former files are still there, and these are not.

        Raises:
            TriptychError: the folder cannot be written.
        """
        new: list[Path] = []
        try:
            if self.files:
                _make(folder)
            for name, content in self.files.items():
                if not (folder / name).exists():
                    with written_atomically(folder / name) as temporary:
                        temporary.write_bytes(content)
                    new.append(folder / name)
            yield
        except BaseException:
            _remove(new, folder)
            raise
        _remove([path for path in folder.glob("*.webp") if _OURS(path.name) and path.name not in self.files], folder)


class InlineAlbum(Album):
    """The pictures of a page that needs no other file."""

    def cost(self, contents: Sequence[bytes]) -> int:
        return sum((len(content) + 2) // 3 * 4 for content in contents)

    def add(self, pixels: np.ndarray, content: bytes) -> Picture:
        return self.add_inline(pixels, content)


_OURS = re.compile(r"[0-9a-f]{16}\.webp").fullmatch
"""The names of pictures of albums."""


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise TriptychError(f"cannot write into {folder}: {os_error_sentence(error)}") from None


def _remove(files: Sequence[Path], folder: Path) -> None:
    """Remove some files, and their folder if nothing is left in it."""
    for path in files:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:16]}.webp"


def encoded(pixels: np.ndarray, *, lossless: bool) -> bytes:
    """uint8, (height, width, 3), as WebP."""
    stream = BytesIO()
    options = {"lossless": True, "quality": 60} if lossless else {"quality": 72}
    Image.fromarray(pixels).save(stream, "WEBP", method=3, **options)
    return stream.getvalue()


# Layers


@dataclass(frozen=True)
class Mosaic:
    """Some channels of a layer in each framework, and how far apart these are."""

    channels: tuple[int, ...]
    """In the order of their places, row by row."""
    across: int
    side: tuple[int, int]
    """Height and width of a channel, in pixels."""
    pictures: Mapping[str, Picture]
    """By framework."""
    distance: Picture | None
    """The map of the difference, where there are two frameworks."""


Range = tuple[float, float]
"""What is black and what is white."""


def range_of(arrays: Sequence[np.ndarray]) -> Range:
    """For all pictures of a layer that stand beside each other."""
    values = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays]) if arrays else np.zeros(0)
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values, (100 - BRIGHTEST, BRIGHTEST))
    return float(low), float(high)


def by_mean(maps: np.ndarray) -> np.ndarray:
    """The channels of (C, H, W) or (features,), the largest mean first."""
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = flat.mean(axis=1)
    return np.argsort(-np.nan_to_num(means, nan=-np.inf), kind="stable")


def mosaic(
    album: Album, maps: Mapping[str, np.ndarray], channels: np.ndarray, within: Range, share: int, across: int
) -> Mosaic | None:
    """Some channels of a layer, at the largest side at which the pictures take no more than a share.

    Args:
        album: what they are added to.
        maps: by framework, (C, H, W) or (features,), all of one shape.
        channels: which.
        within: black and white.
        share: bytes.
        across: how many channels stand beside each other.

    Returns:
        None if not even pixels fit.
    """
    chosen = {name: _as_maps(array)[channels] for name, array in maps.items()}
    steps = ulp_steps([*chosen.values()]) if len(chosen) > 1 else None
    height, width = next(iter(chosen.values())).shape[1:]
    for side in SIDES:
        if side > max(height, width) and side > 1:
            continue
        sides = tuple(max(1, round(length * side / max(height, width))) for length in (height, width))
        if across * sides[1] * sides[0] * -(-len(channels) // across) > MOST_BYTES * share:
            continue
        drawn = {name: _laid(_grey(_averaged(array, sides), within), across) for name, array in chosen.items()}
        sharp = side < 4 or not all(np.isfinite(array).all() for array in chosen.values())
        contents = {name: encoded(pixels, lossless=sharp) for name, pixels in drawn.items()}
        map_ = None if steps is None else _laid(COLOURS[np.ceil(_averaged(steps, sides)).astype(int)], across)
        map_content = b"" if map_ is None else encoded(map_, lossless=True)
        if album.cost([*contents.values(), map_content]) <= share:
            return Mosaic(
                tuple(channels.tolist()),
                across,
                (sides[0], sides[1]),
                {name: album.add(pixels, contents[name]) for name, pixels in drawn.items()},
                None if map_ is None else album.add(map_, map_content),
            )
    return None


MOST_BYTES = 20
"""Pixels a byte of the share: where there are more, it need not be tried."""


def _as_maps(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array.reshape(-1, 1, 1)


def _averaged(maps: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """(K, H, W) made smaller, each pixel the mean of those that it stands for."""
    found = maps.astype(np.float64)
    for axis, side in zip((1, 2), sides, strict=True):
        length = found.shape[axis]
        if side < length:
            edges = np.arange(side) * length // side
            counts = np.diff(np.append(edges, length)).reshape([-1 if a == axis else 1 for a in range(3)])
            with np.errstate(invalid="ignore"):
                found = np.add.reduceat(found, edges, axis=axis) / counts
    return found


def _grey(maps: np.ndarray, within: Range) -> np.ndarray:
    """uint8, (K, H, W, 3); NaN and infinity in their own colour."""
    finite, (low, high) = np.isfinite(maps), within
    grey = np.clip((np.where(finite, maps, 0) - low) / (high - low), 0, 1) if high > low else 0.5 * finite
    found = np.rint(255 * grey).astype(np.uint8)[..., None].repeat(3, axis=3)
    found[~finite] = NOT_A_NUMBER
    return found


def _laid(tiles: np.ndarray, across: int) -> np.ndarray:
    """(K, H, W, 3) row by row, `across` beside each other; what is left of the last row is grey."""
    count, height, width, _ = tiles.shape
    rows = -(-count // across)
    grid = np.full((rows * across, height, width, 3), 128, np.uint8)
    grid[:count] = tiles
    return grid.reshape(rows, across, height, width, 3).swapaxes(1, 2).reshape(rows * height, across * width, 3)


# Distances


def ulps(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many float32 numbers lie between two, element by element: int64; NaN is as far as can be from all but NaN."""
    ordered = []
    for array in (left, right):
        bits = np.ascontiguousarray(array, np.float32).view(np.int32).astype(np.int64)
        ordered.append(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))
    distance = np.abs(ordered[0] - ordered[1])
    either, both = np.isnan(left) | np.isnan(right), np.isnan(left) & np.isnan(right)
    return np.where(both, 0, np.where(either, np.int64(1) << 32, distance))


def largest_ulps(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The largest distance between any two of several arrays, element by element."""
    return np.max([ulps(*pair) for pair in combinations(arrays, 2)], axis=0)


def ulp_steps(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The same as indices into `SCALE`."""
    return np.searchsorted(ULP_STEPS, largest_ulps(arrays)).astype(np.uint8)


# Photographs and gradients


def original(picture: Image.Image, side: int = 360) -> np.ndarray:
    """A photograph made small, its proportions kept; uint8, (H, W, 3)."""
    small = picture.copy()
    small.thumbnail((side, side))
    return np.asarray(small)


def as_given(image: np.ndarray) -> np.ndarray:
    """A network's input, (C, H, W), as colours: its least value is black, its largest white."""
    planes = image if len(image) == 3 else image[:1].repeat(3, axis=0)
    return _grey(planes, (float(image.min()), float(image.max())))[..., 0].transpose(1, 2, 0)


def strengths(gradient: np.ndarray) -> np.ndarray:
    """The largest of the channels at each pixel, without its sign: (H, W) from (C, H, W)."""
    return np.abs(gradient).max(axis=0)


def saliency(strength: np.ndarray, largest: float) -> np.ndarray:
    """The strength of a gradient as a picture: white is the largest."""
    with np.errstate(invalid="ignore"):
        return _grey(np.sqrt(strength)[None], (0.0, float(np.sqrt(largest))))[0]


def ulp_map(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Maps of (C, H, W) compared: the largest distance over the channels, in the colours of `SCALE`."""
    return COLOURS[ulp_steps(arrays).max(axis=0)]
