"""A drawing of a network: a rectangle for each layer, as high as its map and as wide as its channels, and its branches.

Layers stand in columns by the longest way from the image, and in lanes: the trunk, which is the longest way to the
logits, in the middle, branches above and below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log2

from markupsafe import Markup

from common.operations import Shape
from common.specs.architecture import IMAGE, Architecture, Layer

GROUPS = {
    "Conv": "conv",
    "Dense": "dense",
    "MaxPool": "pool",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
    "AdaptiveAveragePool": "pool",
    "SubSampling": "pool",
    "LRN": "norm",
    "BatchNorm": "norm",
    "ReLU": "act",
    "Sigmoid": "act",
    "ScaledTanh": "act",
    "Add": "join",
    "Concat": "join",
}
"""The colour of each kind of layer; `other` where it is not listed."""

LEGEND = {
    "conv": "convolution",
    "pool": "pooling",
    "norm": "normalisation",
    "act": "activation",
    "dense": "dense",
    "join": "addition, concatenation",
    "other": "reshaping, dropout",
}


def group_of(kind: str) -> str:
    """The colour of a kind of layer."""
    return GROUPS.get(kind, "other")


@dataclass(frozen=True)
class Box:
    """A layer in the drawing."""

    layer: Layer
    column: int
    lane: int
    height: int
    width: float
    """From 0 to 1, the part of the column's width."""


def place(spec: Architecture, scale: float = 1) -> dict[str, Box]:
    """The place of every layer, in the order of the specification; heights are multiplied by `scale`."""
    return placed(spec.layers, spec.outputs["logits"], spec.shapes, scale)


def placed(layers: Sequence[Layer], last: str, shapes: Mapping[str, Shape], scale: float = 1) -> dict[str, Box]:
    """The place of every layer: a column and a lane. The longest path to the last layer has the middle lane.

    Args:
        layers: in the order in which they can be computed.
        last: the layer that the trunk leads to.
        shapes: of their outputs, without the batch.
        scale: what heights are multiplied by.
    """
    columns = {IMAGE: 0}
    for layer in layers:
        columns[layer.name] = 1 + max(columns[name] for name in layer.inputs)
    lanes = _lanes(layers, last, columns)
    return {
        layer.name: Box(layer, columns[layer.name], lanes[layer.name], *_extent(shapes[layer.name], scale))
        for layer in layers
    }


def _extent(shape: tuple[int, ...], scale: float) -> tuple[int, float]:
    """Height in pixels and width as a part of the column's, both on logarithmic scales."""
    size = max(shape[1:]) if len(shape) == 3 else 1
    return round(scale * (4 + 5.6 * log2(1 + size))), 0.35 + 0.6 * min(1.0, log2(1 + shape[0]) / 12)


def _lanes(ordered: Sequence[Layer], last: str, columns: dict[str, int]) -> dict[str, int]:
    layers = {layer.name: layer for layer in ordered}
    to_last = _ancestors(layers, last)
    lanes = {IMAGE: 0}
    name = last
    while name != IMAGE:
        lanes[name] = 0
        name = max(layers[name].inputs, key=lambda before: columns[before])
    taken = {(columns[name], 0) for name in lanes}
    # Side branches of the trunk stay close to it; what does not lead to the last layer goes round them.
    for layer in sorted(ordered, key=lambda layer: layer.name not in to_last):
        if layer.name not in lanes:
            column, before = columns[layer.name], lanes[layer.inputs[0]]
            outwards = (sign * distance for distance in range(1, len(layers)) for sign in (1, -1))
            choices = [before, *outwards] if before else outwards
            lanes[layer.name] = next(lane for lane in choices if (column, lane) not in taken)
            taken.add((column, lanes[layer.name]))
    return lanes


def _ancestors(layers: dict[str, Layer], name: str) -> set[str]:
    found, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name != IMAGE and name not in found:
            found.add(name)
            waiting += layers[name].inputs
    return found


def draw(spec: Architecture) -> Markup:
    """The drawing for the network's own page, as SVG. Its `path.l` elements are the layers, in their order."""
    deepest = max(box.column for box in place(spec).values())
    pitch = max(8, min(54, 1300 // (2 + deepest)))
    boxes = place(spec, scale=1.6 if pitch >= 30 else 1)
    return Markup("".join(_svg(spec, boxes, pitch)))


def miniature(spec: Architecture) -> Markup:
    """The same drawing without lines and letters, for the index: one path for each colour."""
    boxes = place(spec)
    lanes = [box.lane for box in boxes.values()]
    spacing = spacing_of(boxes)
    top = max(above(boxes, min(lanes), spacing), 24)
    height = top + max(spacing * max(lanes), 0) + 26
    paths: dict[str, list[str]] = {}
    for box in boxes.values():
        y = round(top + box.lane * spacing - box.height / 2)
        paths.setdefault(group_of(box.layer.operation.kind), []).append(f"M{4 * box.column} {y}h3v{box.height}h-3z")
    width = 4 * (1 + max(box.column for box in boxes.values()))
    drawn = "".join(f'<path class="{group}" d="{"".join(parts)}"/>' for group, parts in paths.items())
    return Markup(f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>')


def spacing_of(boxes: dict[str, Box]) -> int:
    return 6 + max((box.height for box in boxes.values() if box.lane), default=20)


def above(boxes: dict[str, Box], lowest: int, spacing: int) -> int:
    return max(max(box.height for box in boxes.values()) // 2, spacing * -lowest + spacing // 2)


def _svg(spec: Architecture, boxes: dict[str, Box], pitch: int) -> Iterator[str]:
    lanes = [box.lane for box in boxes.values()]
    spacing = spacing_of(boxes)
    ruler = 26
    middle = ruler + 14 + above(boxes, min(lanes), spacing)
    tallest = max(box.height for box in boxes.values() if box.lane == max(lanes))
    bottom = middle + spacing * max(lanes) + max(tallest // 2, 26 if max(lanes) == 0 else 0)
    named = pitch >= 22
    longest = max(len(name) for name in boxes) if named else 0
    width = pitch * (2 + max(box.column for box in boxes.values())) + (30 if named else 0)
    height = bottom + 12 + round(4.6 * longest)
    yield (
        f'<svg class="drawing" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{len(boxes)} layers from left to right, as high as their maps and as wide as their channels">'
    )
    yield from _ruler(spec, boxes, pitch, ruler, middle, bottom)
    yield f'<path class="wire" d="{"".join(wires(boxes, pitch, middle, spacing))}"/>'
    for box in boxes.values():
        left = pitch * (box.column + 0.5 - box.width / 2)
        y = middle + box.lane * spacing - box.height / 2
        kind = group_of(box.layer.operation.kind)
        yield f'<path class="l {kind}" d="M{left:.4g} {y:.4g}h{pitch * box.width:.3g}v{box.height}H{left:.4g}z"/>'
    if named:
        for box in boxes.values():
            x = pitch * (box.column + 0.5)
            yield f'<text class="name" transform="translate({x:.4g} {bottom + 10})rotate(48)">{box.layer.name}</text>'
    yield "</svg>"


def _ruler(
    spec: Architecture, boxes: dict[str, Box], pitch: int, ruler: int, middle: int, bottom: int
) -> Iterator[str]:
    """The sizes of the maps along the trunk."""
    trunk = sorted((box for box in boxes.values() if box.lane == 0), key=lambda box: box.column)
    for size, group in groupby(trunk, key=lambda box: spec.shapes[box.layer.name][1:]):
        run = list(group)
        left, right = pitch * run[0].column + 2, pitch * (run[-1].column + 1) - 2
        label = "×".join(map(str, size)) or "vector"
        if right - left < 6.2 * len(label):
            label = str(size[0]) if size and right - left >= 6.2 * len(str(size[0])) else ""
        yield f'<path class="rule" d="M{left} {ruler}v-5H{right}v5"/>'
        if label:
            yield f'<text class="size" x="{(left + right) / 2:.4g}" y="{ruler - 10}">{label}</text>'


def wires(boxes: dict[str, Box], pitch: int, middle: int, spacing: int) -> Iterator[str]:
    """A line from every layer to its readers. A line that passes other layers of its lane is an arc."""
    for box in boxes.values():
        for name in box.layer.inputs:
            if name not in boxes:
                yield f"M0 {middle}H{pitch * (box.column + 0.5):.4g}"
                continue
            start = boxes[name]
            x, end = pitch * (start.column + 0.5), pitch * (box.column + 0.5)
            y, other = middle + start.lane * spacing, middle + box.lane * spacing
            if start.lane == box.lane and box.column - start.column > 1:
                peak = y - 1.3 * (max(start.height, box.height) / 2 + min(16, 2 * (box.column - start.column)))
                yield f"M{x:.4g} {y}C{x:.4g} {peak:.4g} {end:.4g} {peak:.4g} {end:.4g} {y}"
            elif y == other:
                yield f"M{x:.4g} {y}H{end:.4g}"
            elif abs(other - middle) > abs(y - middle):  # away from the trunk, at once
                yield f"M{x:.4g} {y}{_bend(x, y, x + pitch, other)}H{end:.4g}"
            else:
                yield f"M{x:.4g} {y}H{end - pitch:.4g}{_bend(end - pitch, y, end, other)}"


def _bend(x: float, y: float, end: float, other: float) -> str:
    half = (x + end) / 2
    return f"C{half:.4g} {y} {half:.4g} {other} {end:.4g} {other}"
