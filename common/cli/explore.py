"""`triptych explore`: the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import app, progress
from common.cli.terminal import say, standard_output
from common.errors import TriptychError, argument
from common.specs import CATALOGUE


@app.command()
def explore(
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write the pages into: 'explorer', or with --serve one that is removed."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="What `triptych parity --report` or `--json` wrote, to show beside the networks."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the pages to a browser on this machine, which can run the networks.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With --serve: 8000 if not given; 0 for any that is free.")
    ] = None,
) -> None:
    """Write the pages that show every network in three columns of source; open index.html in a browser."""
    from common.explorer.results import read_report
    from common.explorer.site import write_site

    if port is not None and not serve:
        raise TriptychError(f"{argument('port')} is for {argument('serve')}; give both, or neither")
    results = read_report(report) if report else None
    console = standard_output()

    def write(folder: Path) -> Path:
        with progress(len(CATALOGUE), console) as advance:
            return write_site(folder, report=results, live=serve, on_page=advance)

    if not serve:
        say(console, f"{write(out or Path('explorer'))}: {len(CATALOGUE)} networks")
        return
    from common.explorer.live.serving import serve as serve_pages

    serve_pages(
        8000 if port is None else port,
        write,
        lambda address: say(console, f"{address}: {len(CATALOGUE)} networks; Ctrl-C ends it"),
        pages=out,
    )
