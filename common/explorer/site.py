"""The static site: an index of the catalogue, a page for each network, and the sources that they show."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from common.errors import TriptychError
from common.explorer import results
from common.explorer.alignment import Block, Line, align
from common.explorer.anatomy import layer_facts
from common.explorer.drawing import LEGEND, draw, group_of, miniature
from common.explorer.highlighting import highlighted
from common.explorer.inside.page import Inside
from common.explorer.inside.pictures import PICTURES, ULP_LABELS, Album
from common.explorer.modules import read_module
from common.explorer.runnable import runnable
from common.explorer.sources import PANELS, builder, read_network
from common.explorer.traps import preludes, printed, traps_of
from common.files import os_error_sentence, written_atomically
from common.specs import CATALOGUE, get_spec
from common.specs.architecture import Architecture, shape_text

FAMILIES = {
    "lenet": "LeNet",
    "alexnet": "AlexNet",
    "vgg": "VGG",
    "googlenet": "GoogLeNet",
    "resnet": "ResNet",
    "densenet": "DenseNet",
}


@cache
def environment() -> Environment:
    """The templates, and the functions that they call."""
    made = Environment(
        loader=PackageLoader("common.explorer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"shape": shape_text, "si": si, "prose": prose, "highlighted": highlighted, "bits": int.bit_length}
    made.globals |= {
        "scale": list(zip(results.SCALE, results.STEPS, strict=True)),
        "ulp_label": results.ulp_label,
        "ulp_scale": list(zip(results.SCALE, ULP_LABELS, strict=True)),
        "asset": asset,
        "families": FAMILIES,
    }
    return made


def asset(name: str) -> Markup:
    """The text of a file beside the templates, for pages that need no other file."""
    source, _, _ = environment().loader.get_source(environment(), name)  # type: ignore[union-attr]
    return Markup(source)


def si(number: int) -> str:
    """`724 M`."""
    for limit, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= limit:
            return f"{number / limit:.3g}{letter}" if number < 999.5 * limit else f"{number / limit:.0f}{letter}"
    return str(number)


def prose(text: str) -> Markup:
    """Paragraphs, with `code` in backticks and *emphasis*, as HTML."""
    html = str(escape(inspect.cleandoc(text)))
    html = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", re.sub(r"`([^`]+)`", r"<code>\1</code>", html))
    return Markup("".join(f"<p>{paragraph}</p>" for paragraph in re.split(r"\n\s*\n", html)))


def write_site(
    out: Path,
    *,
    report: results.Json | None = None,
    live: bool = False,
    inside: Inside | None = None,
    on_page: Callable[[str], None] = lambda name: None,
) -> Path:
    """Write all pages into a folder, which is made if it is not there, and return the path of its index.

    Args:
        out: the folder.
        report: what `triptych parity --json` gives, to be shown beside the networks that it has.
        live: with a panel that runs the network in the browser, which needs `common.explorer.live` to serve the pages.
        inside: what there is to see of the user's own weights, for the page of their network.
        on_page: called with the name of each network whose page is finished.

    Raises:
        TriptychError: the folder cannot be written.
    """
    specs = [get_spec(name) for name in CATALOGUE]
    prepare_folder(out)
    album = inside.album if inside else Album()
    with album.written(out / PICTURES):
        _write_pages(out, specs, report, inside, live, on_page)
    return out / "index.html"


def prepare_folder(out: Path) -> None:
    """Make the folders of the site first, before minutes of computing.

    Raises:
        TriptychError: they cannot be made.
    """
    try:
        for folder in (out, *(out / "source" / framework.package for framework in PANELS)):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TriptychError(f"cannot write into {out}: {os_error_sentence(error)}") from None


def _write_pages(
    out: Path,
    specs: Sequence[Architecture],
    report: results.Json | None,
    inside: Inside | None,
    live: bool,
    on_page: Callable[[str], None],
) -> None:
    for name in ("style.css", "explorer.js", *(("inside.css", "inside.js") if inside else ())):
        _write(out / name, asset(name))
    files: dict[str, None] = {}
    for spec in specs:
        looked = inside if inside and inside.architecture == spec.name else None
        page, shown = network_page(spec, report, looked, live=live)
        _write(out / f"{spec.name}.html", page)
        files |= dict.fromkeys(shown)
        on_page(spec.name)
    for file in sorted(files):
        _write(out / "source" / Path(file).with_suffix(".html"), source_page(file))
    _write(out / "index.html", index_page(specs, report))


def _write(path: Path, text: str) -> None:
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def index_page(specs: Sequence[Architecture], report: results.Json | None) -> str:
    """The catalogue by family and year."""
    return (
        environment()
        .get_template("index.html")
        .render(
            root="",
            groups=[(family, list(members)) for family, members in groupby(specs, key=lambda spec: spec.family)],
            miniatures={spec.name: miniature(spec) for spec in specs},
            verdicts={spec.name: _verdict(report, spec.name) for spec in specs},
        )
    )


def _verdict(report: results.Json | None, architecture: str) -> str | None:
    from common.parity.results import worst

    found = [run["verdict"] for run in (report or {"runs": ()})["runs"] if run["architecture"] == architecture]
    return worst(found) if found else None


def network_page(
    spec: Architecture, report: results.Json | None = None, inside: Inside | None = None, *, live: bool = False
) -> tuple[str, list[str]]:
    """The page of one network, and the files whose lines it shows."""
    forms = [("keras", "sequential"), ("keras", ""), ("torch", ""), ("tf1", "")]
    by_name = {framework.name: framework for framework in PANELS}
    columns = []
    for name, form in forms:
        framework = by_name[name]
        reading = read_network(framework, spec, form)
        made_by = builder(framework, spec.name, form)
        if reading and made_by:
            columns.append((framework, form, reading, runnable(framework, spec, made_by)))
    blocks = align([reading for _, _, reading, _ in columns])
    places = {layer.name: number for number, layer in enumerate(spec.layers)}
    groups: dict[tuple[frozenset[str], frozenset[str]], int] = {}
    page = (
        environment()
        .get_template("network.html")
        .render(
            root="",
            live=live,
            spec=spec,
            about=_about(spec.name),
            columns=[
                (framework, form, reading.definitions[0].span, code) for framework, form, reading, code in columns
            ],
            both_forms=len(columns) > len(PANELS),
            blocks=[(block.title, [_row(row, groups, len(columns)) for row in block.rows]) for block in blocks],
            groups=[[_ranges(places[name] for name in names) for names in group] for group in groups],
            layers=layer_facts(spec),
            group_of=group_of,
            legend=LEGEND,
            drawing=draw(spec),
            traps=traps_of(spec),
            printed=printed(),
            preludes=preludes(),
            views=results.views(report, spec.name) if report else [],
            verdict=_verdict(report, spec.name),
            inside=inside,
            siblings=[name for name in CATALOGUE if get_spec(name).family == spec.family],
        )
    )
    return page, [line.file for line in _shown(blocks)]


def _about(architecture: str) -> str:
    """The docstring of the specification, or of the function that it is a `functools.partial` of."""
    specification = CATALOGUE[architecture]
    return getattr(specification, "func", specification).__doc__ or ""


def _shown(blocks: Sequence[Block]) -> Iterable[Line]:
    return (line for block in blocks for row in block.rows for line in row if line)


def _row(row: Sequence[Line | None], groups: dict[Any, int], columns: int) -> tuple[str, list[Markup]]:
    """The class of a table row, and its cells."""
    # With two Keras columns, of which one is hidden, a row that only the hidden one fills is hidden too.
    text = [bool(line and line.text.strip()) for line in row]
    alone = columns > len(PANELS) and not any(text[2:]) and text[0] != text[1]
    return ("sequential" if text[0] else "functional") if alone else "", [_cell(line, groups) for line in row]


def _cell(line: Line | None, groups: dict[Any, int]) -> Markup:
    if line is None or not line.text.strip():
        return Markup("<td>")
    lit = ""
    if line.layers or line.used:
        number = groups.setdefault((line.layers, line.used), len(groups))
        lit = f" data-g={number}"
    package, _, file = line.file.partition("/")
    code = highlighted(read_module(package, file.removesuffix(".py")).text)[line.number - 1]
    indentation = len(line.text) - len(line.text.lstrip())
    link = f'<a href="source/{package}/{file.removesuffix(".py")}.html#L{line.number}">{line.number}</a>'
    return Markup(f"<td{lit}>{link}<code class=i{indentation}>{code}</code>")


def _ranges(numbers: Iterable[int]) -> str:
    """`3-5,8` for 3, 4, 5, 8."""
    ordered = sorted(numbers)
    runs = [list(run) for _, run in groupby(enumerate(ordered), key=lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0][1]) if len(run) == 1 else f"{run[0][1]}-{run[-1][1]}" for run in runs)


def source_page(file: str) -> str:
    """One file of an implementation, every line with an anchor."""
    package, _, name = file.partition("/")
    module = read_module(package, name.removesuffix(".py"))
    return environment().get_template("source.html").render(root="../../", file=file, lines=highlighted(module.text))
