"""`triptych compare`: one layer, three ways."""

from __future__ import annotations

from typing import Annotated

import typer

from common.cli.app import Json, Name, app, print_json
from common.cli.terminal import standard_output
from common.specs import get_spec


@app.command()
def compare(
    architecture: Name,
    layer: Annotated[str, typer.Argument(help="A layer, by the name that any of the frameworks has for it.")],
    json: Json = False,
) -> None:
    """Print the three ways of writing one layer, side by side."""
    from common.explorer import compare as comparison

    spec = get_spec(architecture)
    fact, ways = comparison.compare(spec, layer)
    if json:
        print_json(comparison.as_json(spec, fact, ways))
    else:
        comparison.print_comparison(standard_output(width=160), spec, fact, ways)
