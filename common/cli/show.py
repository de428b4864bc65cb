"""`triptych show`: a network, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import Framework, Json, Verbose, app, complete, print_json
from common.cli.terminal import standard_output
from common.errors import TriptychError
from common.specs import CATALOGUE, get_spec


@app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ARCH|FILE",
            help="A name that `triptych list` prints, or a file of weights or ONNX.",
            autocompletion=complete,
        ),
    ],
    framework: Annotated[
        Framework | None, typer.Option(help="Build it and print this framework's own summary instead.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show a network's layers: name, operation, output shape, parameters, multiply-adds."""
    from common import show as descriptions

    if framework:
        found = descriptions.of_framework(get_spec(what), framework.value)
    elif what not in CATALOGUE and any(Path(name).exists() for name in (what, f"{what}.index")):
        found = descriptions.of_file(Path(what))
    elif what.endswith(".onnx"):
        raise TriptychError(f"there is no file {what}")
    else:
        found = descriptions.of_architecture(get_spec(what))
    if json:
        print_json(found.content)
    else:
        found.print(standard_output())
