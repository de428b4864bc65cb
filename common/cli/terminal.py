"""Everything that is printed on the terminal goes through here, so that text is never read as markup.

Rich reads `[…]` in a string as markup, `:name:` as an emoji, and colours what looks like a number. It would report a
file called `x[bold].onnx` as `x.onnx`. The consoles and progress bars of this module print every string as it is. A
style is given beside the string: `("conv2", "bold red")`. No other module makes a console or a bar.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

WIDTH = 120
"""Columns, where it is not a terminal that says how many there are."""


def standard_output(width: int = WIDTH) -> Console:
    """Where answers go; `width` columns where it is not a terminal."""
    return _console(stderr=False, width=width)


def standard_error(*, quiet: bool = False) -> Console:
    """Where everything else goes; a quiet one prints nothing."""
    return _console(stderr=True, width=WIDTH, quiet=quiet)


def _console(*, stderr: bool, width: int, quiet: bool = False) -> Console:
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr, quiet=quiet, width=None if terminal else width, markup=False, emoji=False, highlight=False
    )


def say(console: Console, *parts: str | tuple[str, str], style: str = "") -> None:
    """Print a line, which the terminal wraps, not we: of strings, and of strings with the style of each."""
    from rich.text import Text

    console.print(Text.assemble(*parts, style=style), soft_wrap=True)


def plain_table(*headings: str, show_header: bool = True) -> Table:
    """A table without lines. What is too long for its column goes on below: nothing is cut off."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=show_header)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def progress_bar(console: Console, *, remaining: bool = False) -> Progress:
    """A bar, how far it is, the time taken or `remaining`, and what is being done; only on a terminal."""
    from rich import progress as rich

    time = rich.TimeRemainingColumn() if remaining else rich.TimeElapsedColumn()
    what = rich.TextColumn("{task.description}", markup=False)
    columns = (rich.BarColumn(), rich.MofNCompleteColumn(), time, what)
    return rich.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
