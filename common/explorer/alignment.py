"""Columns of source, padded with blank lines so that the same layer stands on the same line in all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import dedent

from common.explorer.modules import Definition, Span
from common.explorer.sources import Reading

MARKER = re.compile(r"\s*# (Blocks? \d+(?: to (?:block )?\d+)?|Classifier)")
"""A comment that says which part of the network begins; the same in all three implementations."""

Key = tuple[str, frozenset[str]]


@dataclass(frozen=True)
class Line:
    """A line of a file, without the indentation of its whole definition."""

    file: str
    number: int
    text: str
    layers: frozenset[str]
    """The layers that the line writes, directly or by a call; empty for most lines."""
    used: frozenset[str]
    """Layers that it only mentions."""
    key: Key | None
    """Lines with the same key belong on the same line of the page."""
    heading: str | None
    """The part of the network that begins here."""


Row = tuple[Line | None, ...]
"""One line of every column; None where the column is padded."""


@dataclass(frozen=True)
class Block:
    """A part of the network, such as "Block 1" or a residual block, in all columns."""

    title: str
    rows: tuple[Row, ...]


def align(readings: Sequence[Reading]) -> list[Block]:
    """The sources of one network side by side, in blocks."""
    return _blocks(align_columns([column(reading) for reading in readings]))


def column(reading: Reading) -> list[Line]:
    """A network's source, one definition after the other in the order of reading."""
    lines: list[Line] = []
    for definition in reading.definitions:
        above = Span(definition.module.file, definition.span.first - 1, definition.span.first - 1)
        if lines and not definition.module.lines[above.first - 1]:  # one of the blank lines between definitions
            lines.append(Line(above.file, above.first, "", frozenset(), frozenset(), None, None))
        lines += _lines(definition, reading)
    return lines


def _lines(definition: Definition, reading: Reading) -> list[Line]:
    whole = definition.span
    text = dedent("\n".join(definition.module.lines[whole.first - 1 : whole.last])).splitlines()
    lines = []
    for number, content in enumerate(text, start=whole.first):
        here = Span(whole.file, number, number)
        written = _standing_on(here, reading.written)
        begins = frozenset().union(*(layers for span, layers in reading.written.items() if _begins(span, here)))
        marker = MARKER.match(content)
        inside = _inside(whole, reading) if number == whole.first else begins
        kind = "definition" if number == whole.first else "marker" if marker else "layers"
        heading = definition.node.name if number == whole.first else marker[1] if marker else None
        key = (kind + (marker[1] if marker else ""), inside) if inside or marker else None
        lines.append(
            Line(whole.file, number, content, written, _standing_on(here, reading.used) - written, key, heading)
        )
    return lines


def _standing_on(here: Span, spans: Mapping[Span, frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*(layers for span, layers in spans.items() if here in span))


def _begins(span: Span, here: Span) -> bool:
    return span.file == here.file and span.first == here.first


def _inside(whole: Span, reading: Reading) -> frozenset[str]:
    return frozenset().union(*(layers for span, layers in reading.written.items() if span in whole))


def align_columns(columns: Sequence[Sequence[Line]]) -> list[Row]:
    """Rows in which lines with the same key are side by side, in the order of every column.

    Each column is merged into the rows of those before it, along a longest common subsequence of keys. Between two such
    lines, lines of the same text are matched. The remaining lines are put side by side from the top.
    """
    rows: list[Row] = [(line,) for line in columns[0]]
    for lines in columns[1:]:
        rows = _merge(rows, lines, (_key, _text))
    return rows


def _key(line: Line) -> Hashable:
    return line.key


def _text(line: Line) -> Hashable:
    return line.text.strip() or None


def _merge(rows: list[Row], lines: Sequence[Line], kinds: Sequence[Callable[[Line], Hashable]]) -> list[Row]:
    width = len(rows[0]) if rows else 0
    if not rows or not lines or not kinds:
        padded = [rows[n] if n < len(rows) else (None,) * width for n in range(max(len(rows), len(lines)))]
        return [(*row, lines[n] if n < len(lines) else None) for n, row in enumerate(padded)]
    kind, *finer = kinds
    keys = [next((key for line in reversed(row) if line and (key := kind(line))), None) for row in rows]
    merged: list[Row] = []
    above = left = 0
    for row, line in (*_common(keys, [kind(line) for line in lines]), (len(rows), len(lines))):
        if row > above or line > left:
            gap = rows[above:row] or [(None,) * width]
            merged += _merge(gap, lines[left:line], finer)
        if row < len(rows):
            merged.append((*rows[row], lines[line]))
        above, left = row + 1, line + 1
    return merged


def _common(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The positions of a longest common subsequence. None matches nothing."""
    left_places = [i for i, key in enumerate(left) if key is not None]
    right_places = [j for j, key in enumerate(right) if key is not None]
    lengths = [[0] * (len(right_places) + 1) for _ in range(len(left_places) + 1)]
    for a, i in reversed(list(enumerate(left_places))):
        for b, j in reversed(list(enumerate(right_places))):
            lengths[a][b] = (
                1 + lengths[a + 1][b + 1] if left[i] == right[j] else max(lengths[a + 1][b], lengths[a][b + 1])
            )
    pairs, a, b = [], 0, 0
    while a < len(left_places) and b < len(right_places):
        i, j = left_places[a], right_places[b]
        if left[i] == right[j]:
            pairs.append((i, j))
            a, b = a + 1, b + 1
        elif lengths[a + 1][b] >= lengths[a][b + 1]:
            a += 1
        else:
            b += 1
    return pairs


def _blocks(rows: Sequence[Row]) -> list[Block]:
    """Cut the rows into blocks where a part of the network begins in most columns."""
    cuts = [
        number for number, row in enumerate(rows) if sum(bool(line and line.heading) for line in row) * 2 > len(row)
    ]
    blocks = []
    for start, end in zip([0, *cuts[1:]], [*cuts[1:], len(rows)], strict=True):
        # Keras' Sequential form, if it has a column of its own, is the first of four.
        headings = dict.fromkeys(line.heading for line in rows[start][-3:] if line and line.heading)
        blocks.append(Block(" · ".join(headings), tuple(rows[start:end])))
    return blocks
