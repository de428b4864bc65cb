"""`triptych list`: the networks."""

from __future__ import annotations

from typing import Annotated

import typer

from common.cli.app import Json, app, complete, print_json
from common.cli.show import summary
from common.cli.terminal import plain_table, standard_output
from common.specs import get_spec, matching
from common.specs.architecture import shape_text


@app.command("list")
def list_command(
    pattern: Annotated[
        str, typer.Argument(help="A shell-style pattern, such as 'alexnet*'.", autocompletion=complete)
    ] = "*",
    json: Json = False,
) -> None:
    """List the architectures: family, input, parameters, paper."""
    names = matching([pattern])
    specs = [get_spec(name) for name in names]
    if json:
        print_json([summary(spec) for spec in specs])
        return
    table = plain_table("architecture", "family", "input")
    table.add_column("parameters", justify="right")
    table.add_column("paper")
    for spec in specs:
        table.add_row(spec.name, spec.family, shape_text(spec.input_shape), f"{spec.parameter_count:,}", spec.paper)
    standard_output().print(table)
