"""`triptych compare`: one layer, three ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from common.cli.app import Json, Name, app, print_json
from common.cli.terminal import say, standard_output
from common.specs import get_spec
from common.specs.architecture import shape_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from common.explorer.anatomy import LayerFacts
    from common.explorer.compare import Written
    from common.specs.architecture import Architecture

SIDE_BY_SIDE = 100
"""Columns of a terminal from which on there is room for three."""


@app.command()
def compare(
    architecture: Name,
    layer: Annotated[str, typer.Argument(help="A layer, by its name in any of the frameworks.")],
    json: Json = False,
) -> None:
    """Print how the three frameworks write one layer, side by side."""
    from common.explorer import compare as comparison

    spec = get_spec(architecture)
    fact, ways = comparison.compare(spec, layer)
    if json:
        print_json(comparison.as_json(spec, fact, ways))
    else:
        _print(standard_output(width=160), spec, fact, ways)


def _print(console: Console, spec: Architecture, fact: LayerFacts, ways: list[Written]) -> None:
    """Three columns, or one below the other where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    costs = [f"{fact.parameters:,} parameters"] if fact.parameters else []
    costs += [f"{fact.multiply_adds:,} multiply-adds"] if fact.multiply_adds else []
    costs += [f"sees {shape_text(fact.receptive_field)} pixels"]
    say(console, (f"{spec.name} {fact.name}", "bold"), f": {fact.kind}, {shape_text(fact.output)}, {', '.join(costs)}")
    if console.width < SIDE_BY_SIDE:
        for way in ways:
            say(console, (f"\n{way.framework.title} ", "bold"), (way.name, "dim"))
            console.print(_column(way))
        return
    table = Table(expand=True, show_lines=False)
    for way in ways:
        table.add_column(Text.assemble(f"{way.framework.title} ", (way.name, "dim")), ratio=1, overflow="fold")
    table.add_row(*map(_column, ways))
    console.print(table)


def _column(way: Written) -> RenderableType:
    from rich.console import Group
    from rich.syntax import Syntax
    from rich.text import Text

    parts: list[RenderableType] = []
    for excerpt in way.excerpts:
        parts.append(Text(f"{excerpt.file}:{excerpt.line}", style="dim"))
        parts.append(Syntax(excerpt.code, "python", theme="ansi_dark", word_wrap=True, background_color="default"))
    if way.weights:
        parts.append(Text(way.weights, style="italic"))
    return Group(*parts)
