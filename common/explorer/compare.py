"""One layer, as the three implementations write it, side by side in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.cli.terminal import say
from common.errors import TriptychError
from common.explorer.anatomy import LayerFacts, dimensions, layer_facts
from common.explorer.sources import FRAMEWORKS, Framework, read_module, read_network
from common.specs import nearest
from common.specs.architecture import Architecture

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SIDE_BY_SIDE = 100
"""Columns of a terminal from which on there is room for three."""


@dataclass(frozen=True)
class Excerpt:
    """Lines of a file that write a layer."""

    file: str
    line: int
    code: str


@dataclass(frozen=True)
class Written:
    """How one framework writes a layer."""

    framework: Framework
    name: str
    """The layer's name there."""
    weights: str
    """Its parameters there, `kernel 5×5×48×256, bias 256`; empty if it has none."""
    excerpts: list[Excerpt]
    """From the network inwards, such as the loop over blocks and then the line inside the block."""


def compare(spec: Architecture, layer: str) -> tuple[LayerFacts, list[Written]]:
    """Find a layer, by the name that any of the frameworks has for it, in the three sources.

    Raises:
        TriptychError: the network has no such layer.
    """
    facts = {fact.name: fact for fact in layer_facts(spec)}
    spellings = {name: fact for fact in facts.values() for name in (fact.keras, fact.torch, fact.name)}
    if layer not in spellings:
        raise TriptychError(f"{spec.name} has no layer {layer!r}; {nearest(layer, facts)}")
    fact = spellings[layer]
    names = {"keras": fact.keras, "torch": fact.torch, "tf1": fact.name}
    return fact, [
        Written(framework, names[framework.name], fact.weights[framework.name], _excerpts(framework, spec, fact.name))
        for framework in FRAMEWORKS
    ]


def _excerpts(framework: Framework, spec: Architecture, layer: str) -> list[Excerpt]:
    reading = read_network(framework, spec)
    assert reading is not None
    spans = [span for span in reading.lines_of(layer) if reading.written[span] != frozenset(spec.shapes) - {"image"}]
    excerpts = []
    for span in spans:
        lines = read_module(framework.package, span.file.rpartition("/")[2].removesuffix(".py")).lines
        excerpts.append(Excerpt(span.file, span.first, _dedented(lines[span.first - 1 : span.last])))
    return excerpts


def _dedented(lines: list[str]) -> str:
    from textwrap import dedent

    return dedent("\n".join(lines))


def as_json(spec: Architecture, fact: LayerFacts, ways: list[Written]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "architecture": spec.name,
        "layer": fact.name,
        "operation": fact.kind,
        "output": fact.output,
        "parameters": fact.parameters,
        "multiply_adds": fact.multiply_adds,
        "receptive_field": fact.receptive_field,
        "frameworks": {
            way.framework.name: {
                "name": way.name,
                "weights": way.weights,
                "source": [{"file": e.file, "line": e.line, "code": e.code} for e in way.excerpts],
            }
            for way in ways
        },
    }


def print_comparison(console: Console, spec: Architecture, fact: LayerFacts, ways: list[Written]) -> None:
    """Three columns, or one below the other where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    costs = [f"{fact.parameters:,} parameters"] if fact.parameters else []
    costs += [f"{fact.multiply_adds:,} multiply-adds"] if fact.multiply_adds else []
    costs += [f"sees {dimensions(fact.receptive_field)} pixels"]
    say(console, (f"{spec.name} {fact.name}", "bold"), f": {fact.kind}, {dimensions(fact.output)}, {', '.join(costs)}")
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
