"""`triptych probe`: the exact probe of a network, for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import Framework, Json, Name, TakesFormerNames, app, print_json
from common.cli.terminal import say, standard_output
from common.specs import get_spec


@app.command(cls=TakesFormerNames)
def probe(
    architecture: Name,
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    framework: Annotated[
        Framework | None,
        typer.Option(help="Implementation whose model is exported. By default the first that is installed."),
    ] = None,
    json: Json = False,
) -> None:
    """Write the exact probe of a network for another runtime: ONNX file, inputs, right answers, hashes."""
    spec = get_spec(architecture)
    from common.porting.portable import write_probe

    written = write_probe(spec, out, framework.value if framework else None)
    if json:
        print_json(written)
        return
    text = "{out}: {layers} layers of {architecture} from {source}, {bytes:,} bytes, ".format(**written)
    compared = {True: "as published", False: "not as published", None: "which is not published"}[written["published"]]
    say(standard_output(), f"{text}{compared}")
