"""What the benchmarks share: timing in turn, and tables."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence


def in_turn(ways: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The median seconds of each way to do something, with the same rest of the machine for all.

    In every round each way is run once, in another order. The first round is not counted.
    """
    order, times = random.Random(0), {name: list[float]() for name in ways}
    for _ in range(runs + 1):
        for name in order.sample(list(ways), len(ways)):
            started = time.perf_counter()
            ways[name]()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, aligned for whoever reads it as text: the first column to the left, numbers to the right.

    A row that is too short says why there is nothing to say.
    """
    filled = [[*row, *["–"] * (len(headings) - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *filled, strict=True)]
    ruler = [width * "-" if place == 0 else (width - 1) * "-" + ":" for place, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    return "\n".join(map(line, [headings, ruler, *filled]))
