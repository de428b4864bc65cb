"""`triptych explore`: the pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import Arch, Entry, Force, Ignore, Labels, Prefix, Preparation, Rename, Verbose, app, progress
from common.cli.terminal import say, standard_output
from common.errors import TriptychError, argument
from common.specs import CATALOGUE


@app.command()
def explore(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the pages. By default explorer; with --serve a temporary one."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Results to show beside the networks: what `triptych parity --report` or `--json` wrote."),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Serve the pages to a browser on this machine. They can then run the networks in the browser.",
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="With --serve: port of the server, 0 for any free one. By default 8000."),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Weights to show, in any format that `triptych port` reads. Give two files to compare them."),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Photograph to run through the weights; may be repeated.")
    ] = None,
    labels: Labels = None,
    arch: Arch = None,
    entry: Entry = None,
    prefix: Prefix = None,
    rename: Rename = None,
    ignore: Ignore = None,
    force: Force = False,
    preprocessing: Preparation = None,
    verbose: Verbose = False,
) -> None:
    """Write pages that show every network in three columns of source. Open index.html in a browser."""
    from common.explorer.inside.filters import LOOKING
    from common.explorer.inside.page import inside, read_subject
    from common.explorer.results import read_report
    from common.explorer.site import prepare_folder, write_site

    if port is not None and not serve:
        raise TriptychError(f"{argument('port')} is for {argument('serve')}; give both, or neither")
    results = read_report(report) if report else None
    if (image or labels) and not weights:
        raise TriptychError(f"{argument('image' if image else 'labels')} needs {argument('weights', 'FILE')}")
    reading = replace(LOOKING, entry=entry, prefix=prefix, force=force, preprocessing=preprocessing)
    reading = replace(reading, rename=tuple(rename or ()), ignore=tuple(ignore or ()))
    subject = read_subject(weights, image or (), arch, reading, labels) if weights else None
    console = standard_output()

    def write(folder: Path) -> Path:
        prepare_folder(folder)
        with progress(len(CATALOGUE) + (subject.steps if subject else 0), console) as advance:
            found = inside(subject, advance) if subject else None
            index = write_site(folder, report=results, inside=found, live=serve, on_page=advance)
        if found:
            say(console, f"{found.architecture}: {found.told}")
        return index

    if not serve:
        say(console, f"{write(out or Path('explorer'))}: {len(CATALOGUE)} networks")
        return
    from common.explorer.live.serving import serve as serve_pages

    serve_pages(
        8000 if port is None else port,
        write,
        lambda address: say(console, f"{address}: {len(CATALOGUE)} networks; Ctrl-C ends it"),
        pages=out,
        network=subject.networks[0] if subject else None,
        labels=subject.labels if subject else None,
    )
