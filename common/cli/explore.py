"""`triptych explore`: the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import app, progress
from common.cli.terminal import say, standard_output
from common.specs import CATALOGUE


@app.command()
def explore(
    out: Annotated[Path, typer.Option(help="The folder to write the pages into.")] = Path("explorer"),
    report: Annotated[
        Path | None,
        typer.Option(help="What `triptych parity --report` or `--json` wrote, to show beside the networks."),
    ] = None,
) -> None:
    """Write the pages that show every network in three columns of source; open index.html in a browser."""
    from common.explorer.results import read_report
    from common.explorer.site import write_site

    results = read_report(report) if report else None
    with progress(len(CATALOGUE), standard_output()) as advance:
        index = write_site(out, report=results, on_page=advance)
    say(standard_output(), f"{index}: {len(CATALOGUE)} networks")
