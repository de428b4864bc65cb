"""A first convolution's filters in the terminal: in colour where it has some, else in shades of characters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.color import Color
from rich.style import Style
from rich.text import Text

from common.cli.terminal import say
from common.explorer.inside.census import Census, census
from common.explorer.inside.filters import NOT_A_NUMBER, Filters, colours, filters_in, not_finite
from common.specs.architecture import shape_text

if TYPE_CHECKING:
    from rich.console import Console

SHADES = " ░▒▓█"
"""From the darkest to the brightest."""

STRANGE = "×"
"""What stands for NaN and infinity where there is no colour."""

MOST_TOLD = 5
"""Filters with NaN of which it is said where."""


def filters_of_file(path: Path) -> tuple[dict[str, Any], Filters, Census]:
    """The first convolution in a file: for programs, and for `print_filters`.

    Raises:
        TriptychError: the file cannot be read, or nothing in it is clearly a first convolution.
    """
    filters = filters_in(path)
    counted = census(filters.layer, filters.kernel)
    content = {
        "path": str(path),
        "layer": filters.layer,
        "shape": filters.kernel.shape,
        "channels": filters.channels,
        "dead": counted.dead,
        "duplicates": counted.duplicates,
        "not_finite": list(not_finite(filters)),
        "notes": filters.notes,
        "filters": [_extremes(number, kernel) for number, kernel in enumerate(filters.kernel)],
    }
    return content, filters, counted


def _extremes(number: int, kernel: np.ndarray) -> dict[str, Any]:
    finite = kernel[np.isfinite(kernel)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    return {"filter": number, "min": low, "max": high}


def print_filters(console: Console, path: Path, filters: Filters, counted: Census) -> None:
    """Draw them, as many beside each other as there is room for, and say what they are."""
    say(console, f"{path}: {filters.layer}, {shape_text(filters.kernel.shape)}, channels {filters.order}")
    for note in filters.notes:
        say(console, f"note: {note}")
    strange = list(not_finite(filters))
    for phrase in strange[:MOST_TOLD]:
        say(console, phrase, style="bold magenta")
    if len(strange) > MOST_TOLD:
        say(console, f"and {len(strange) - MOST_TOLD} more filters hold NaN or infinity", style="bold magenta")
    say(console, f"{len(counted.dead)} dead, {len(counted.duplicates)} duplicates; filter 0 is first, row by row")
    if console.color_system:
        drawn = _in_colour(colours(filters.in_rgb), console.width)
    else:
        with np.errstate(invalid="ignore"):  # infinities cancel
            drawn = _in_shades(colours(filters.kernel.mean(axis=1, keepdims=True)), console.width)
    for line in drawn:
        console.print(line, no_wrap=True, overflow="crop")


def _rows(pictures: np.ndarray, columns: int) -> Iterator[np.ndarray]:
    """The pictures that stand beside each other, row by row."""
    beside = max(1, columns // (pictures.shape[2] + 1))
    return (pictures[first : first + beside] for first in range(0, len(pictures), beside))


def _in_colour(pictures: np.ndarray, width: int) -> Iterator[Text]:
    """Half blocks: the character's own colour is that of the upper pixel, its background the lower one's."""
    for row in _rows(pictures, width):
        height = row.shape[1]
        for top in range(0, height, 2):
            line = Text()
            for picture in row:
                for column in range(picture.shape[1]):
                    lower = _colour(picture[top + 1, column]) if top + 1 < height else None
                    line.append("▀", Style(color=_colour(picture[top, column]), bgcolor=lower))
                line.append(" ")
            yield line
        yield Text()


def _colour(pixel: np.ndarray) -> Color:
    return Color.from_rgb(*pixel.tolist())


def _in_shades(pictures: np.ndarray, width: int) -> Iterator[Text]:
    """Two characters a pixel, which are about as wide as they are high."""
    steps = np.rint(pictures.mean(axis=3) / 255 * (len(SHADES) - 1)).astype(int)
    strange = (pictures == NOT_A_NUMBER).all(axis=3)
    characters = np.where(strange, STRANGE, np.array(list(SHADES))[steps])
    for row in _rows(characters, width // 2):
        for y in range(row.shape[1]):
            line = "  ".join("".join(2 * character for character in picture[y]) for picture in row)
            yield Text(line.rstrip())
        yield Text()
