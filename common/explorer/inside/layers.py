"""Every layer of a network as pictures: its channels in each framework, and how far apart they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.explorer.inside.pictures import ACROSS, FIRST, Album, Mosaic, by_mean, largest_ulps, mosaic, range_of

Maps = Mapping[str, np.ndarray]
"""The output of one layer for one image in each framework: (C, H, W) or (features,), all of one shape."""


@dataclass(frozen=True)
class Panel:
    """A layer on one photograph, with one file's weights."""

    first: Mosaic | None
    """The channels with the largest means; None if they exceed the size limit of all pictures."""
    rest: Mosaic | None
    """The others."""
    left_out: int
    """The number of channels in neither."""
    ulp: int | None
    """The largest distance between two frameworks; None if there is only one."""


@dataclass(frozen=True)
class LayerView:
    """A layer, in every view."""

    name: str
    kind: str
    shape: str
    panels: tuple[Panel, ...]
    verdict: str
    """The worst of all frameworks and files."""
    ratio: float | None
    """The largest error ÷ bound."""
    problems: tuple[str, ...]
    """The problems, in words."""

    @property
    def channels(self) -> tuple[int, ...]:
        """In the order of their places, which is the same in every view."""
        drawn = [[mosaic.channels for mosaic in (panel.first, panel.rest) if mosaic] for panel in self.panels]
        return max((sum(parts, ()) for parts in drawn), key=len, default=())

    @property
    def ulp(self) -> int | None:
        """The largest distance in any view."""
        return max((panel.ulp for panel in self.panels if panel.ulp is not None), default=None)


def draw_layers(
    album: Album, names: Sequence[str], views: int, maps_of: Callable[[str, int], Maps]
) -> dict[str, tuple[Panel, ...]]:
    """The pictures of all layers, which share the rest of the album's limit.

    Args:
        album: what they are added to.
        names: of the layers.
        views: how many pictures of each are side by side.
        maps_of: the outputs of a layer in a view, by framework.
    """
    found = {}
    for number, name in enumerate(names):
        share = album.left // (len(names) - number)
        found[name] = _panels(album, [maps_of(name, view) for view in range(views)], share)
    return found


def _panels(album: Album, views: Sequence[Maps], share: int) -> tuple[Panel, ...]:
    """The panels of a layer. All views have the channel order of the first one."""
    arrays = [array for maps in views for array in maps.values()]
    within = range_of(arrays)
    order = by_mean(next(iter(views[0].values()))) if views[0] else np.zeros(0, int)
    panels = []
    for number, maps in enumerate(views):
        before, own = album.size, share // (len(views) - number)
        panels.append(_panel(album, maps, order, within, own))
        share -= album.size - before
    return tuple(panels)


def _panel(album: Album, maps: Maps, order: np.ndarray, within: tuple[float, float], share: int) -> Panel:
    if not maps:
        return Panel(None, None, 0, None)
    before = album.size
    shown, others = order[:FIRST], order[FIRST:]
    first = mosaic(album, maps, shown, within, share if not len(others) else 2 * share // 3, min(ACROSS, len(shown)))
    rest = None
    if len(others) and first:
        across = int(np.ceil(np.sqrt(len(others))))
        rest = mosaic(album, maps, others, within, share - (album.size - before), across)
    left_out = len(order) - sum(len(drawn.channels) for drawn in (first, rest) if drawn)
    ulp = int(largest_ulps([*maps.values()]).max(initial=0)) if len(maps) > 1 else None
    return Panel(first, rest, left_out, ulp)
