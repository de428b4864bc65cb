"""One layer, as the three implementations write it, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.errors import TriptychError, nearest
from common.explorer.anatomy import LayerFacts, layer_facts
from common.explorer.modules import read_module
from common.explorer.sources import PANELS, Panel, read_network
from common.specs.architecture import Architecture


@dataclass(frozen=True)
class Excerpt:
    """Lines of a file that write a layer."""

    file: str
    line: int
    code: str


@dataclass(frozen=True)
class Written:
    """How one framework writes a layer."""

    framework: Panel
    name: str
    """The layer's name in this framework."""
    weights: str
    """Its parameters in this framework, `kernel 5×5×48×256, bias 256`; empty if it has none."""
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
        for framework in PANELS
    ]


def _excerpts(framework: Panel, spec: Architecture, layer: str) -> list[Excerpt]:
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
