"""The result of a parity run as files: one HTML page that needs no other file, JSON, and JUnit's XML for CI."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from common.errors import TriptychError
from common.explorer import results
from common.explorer.results import BackendView, Json, views
from common.explorer.site import environment
from common.files import os_error_sentence, written_atomically
from common.specs import get_spec


def write_report(folder: Path, report: Json, command: str) -> Path:
    """Write `index.html`, `report.json` and `junit.xml` into a folder, which is made if it is not there.

    Args:
        folder: where to.
        report: the report of `triptych parity --json`.
        command: the command that was run.

    Returns:
        The path of the page.

    Raises:
        TriptychError: the folder cannot be written.
    """
    prepare(folder)
    texts = {
        "report.json": json.dumps({**report, "command": command}, indent=2, ensure_ascii=False) + "\n",
        "junit.xml": junit(report),
        "index.html": page(report, command),
    }
    for name, text in texts.items():
        with written_atomically(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "index.html"


def prepare(folder: Path) -> None:
    """Make the folder first, before minutes of computing.

    Raises:
        TriptychError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TriptychError(f"cannot write the report into {folder}: {os_error_sentence(error)}") from None


def page(report: Json, command: str) -> str:
    """The report as one file of HTML."""
    names = list(dict.fromkeys(run["architecture"] for run in report["runs"]))
    rows = {name: views(report, name) for name in names}
    backends = list(dict.fromkeys(view.backend for row in rows.values() for view in row))
    return (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            command=command,
            names=names,
            specs={name: get_spec(name) for name in names},
            rows=rows,
            backends=backends,
            matrix={name: {view.backend: (worst_outcome(view), view) for view in row} for name, row in rows.items()},
            bounded={name: _bounded(report, name) for name in names},
            probes=list(dict.fromkeys(map(results.label, report["runs"]))),
        )
    )


ORDER = ("diverged", "crashed", "incomplete", "certified", "identical", "skipped")


def worst_outcome(view: BackendView) -> str:
    """The worst outcome over all probes."""
    return min(view.outcomes.values(), key=ORDER.index)


def _bounded(report: Json, architecture: str) -> dict[str, list[str]]:
    """The layers that cannot be exact, and how they are handled."""
    handled: dict[str, list[str]] = {}
    for run in report["runs"]:
        for layer, how in run.get("bounded", {}).items() if run["architecture"] == architecture else ():
            handled.setdefault(how, []).append(layer)
    return handled


def junit(report: Json, command: str = "triptych parity") -> str:
    """JUnit's XML: a suite for each network, a case for each probe and backend."""
    root = ElementTree.Element("testsuites", name=command)
    for name in dict.fromkeys(run["architecture"] for run in report["runs"]):
        runs = [run for run in report["runs"] if run["architecture"] == name]
        cases = [(run, row) for run in runs for row in run["backends"]]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=name,
            tests=str(len(cases)),
            failures=str(sum(row["status"] == "diverged" for _, row in cases)),
            errors=str(sum(row["status"] == "crashed" for _, row in cases)),
            skipped=str(sum(row["status"] == "skipped" for _, row in cases)),
            time=f"{sum(row.get('seconds') or 0.0 for _, row in cases):.3f}",
        )
        properties = ElementTree.SubElement(suite, "properties")
        for package, version in report["environment"]["versions"].items():
            ElementTree.SubElement(properties, "property", name=package, value=version)
        for run, row in cases:
            _case(suite, run, row)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


KINDS = {"diverged": "failure", "crashed": "error", "skipped": "skipped"}


def _case(suite: ElementTree.Element, run: Json, row: Json) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"{run['architecture']}.{results.label(run)}",
        name=results.label_of(row),
        time=f"{row.get('seconds') or 0.0:.3f}",
    )
    if row["status"] in KINDS:
        message = results.problem(run, row) or row["status"]
        # XML has no room for most control characters, which a crash's message may hold.
        clean = "".join(letter if letter.isprintable() else " " for letter in message)
        ElementTree.SubElement(case, KINDS[row["status"]], message=clean)
