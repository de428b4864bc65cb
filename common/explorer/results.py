"""The report of `triptych parity --json` as the pages show it: strips of colour, histograms, verdicts."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil, log10
from pathlib import Path
from typing import Any

from common.errors import TriptychError
from common.files import os_error_sentence
from common.parity.backends import row_label
from common.parity.results import labelled
from common.specs import CATALOGUE, get_spec

Json = Mapping[str, Any]

SCALE = ("#eceae4", "#cfe8d5", "#a3d9c4", "#6cc3bf", "#3fa4bd", "#2b7fb3", "#275ba0", "#2b3480", "#c4185c")
"""Colours of error ÷ bound: none, up to 1e-6, 1e-5, … 1e-1, 1, and beyond the bound."""

STEPS = ("0", "≤ 10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "≤ 1", "> 1")


def read_report(path: Path) -> dict[str, Any]:
    """Read the report that `triptych parity --json` or `--report` wrote: its file, or the folder of the latter.

    Raises:
        TriptychError: there is no such file, or it is not such a report.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        for run in report["runs"]:
            if run["architecture"] not in CATALOGUE:
                raise TriptychError(f"{path} is about {run['architecture']}, which is not in this version's catalogue")
            _ = run["probe"], run["verdict"]
            for row in run["backends"]:
                _ = row["backend"], row["status"], row["verdict"], row["reason"]
                _ = [
                    (layer["name"], layer["verdict"], layer["bound_ratio"], layer["max_ulp"]) for layer in row["layers"]
                ]
        _ = report["verdict"], report["environment"]["versions"]
    except OSError as error:
        raise TriptychError(f"cannot read the report {path}: {os_error_sentence(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, TriptychError):
            raise
        raise TriptychError(f"{path} is not a report; give a file that `triptych parity --json` wrote") from None
    result: dict[str, Any] = report
    return result


@dataclass(frozen=True)
class BackendView:
    """One backend on one network, over all probes."""

    backend: str
    """And its path, if it was held to one."""
    outcomes: Mapping[str, str]
    """By `label`: `identical`, `certified`, `diverged`, `crashed` or `skipped`."""
    ratio: float | None
    """The largest error ÷ bound; None if there is none, or it is not finite."""
    worst: str | None
    """The layer that has it."""
    precision: str
    seconds: float
    strip: str
    """A picture of error ÷ bound over the layers, as a data URI."""
    histogram: Sequence[int]
    """Elements by their distance from the correctly rounded result, in ULP: 0, 1, 2–3, 4–7, …"""
    counted: str
    """What the histogram counts: elements, or layers by their largest distance."""
    problems: Sequence[str]
    machines: Sequence[str] = ()
    """Of a cluster, those that it ran on."""


def views(report: Json, architecture: str) -> list[BackendView]:
    """A row for each backend that the report has of a network."""
    runs = [run for run in report["runs"] if run["architecture"] == architecture]
    backends = dict.fromkeys(label_of(row) for run in runs for row in run["backends"])
    return [_view(architecture, backend, runs) for backend in backends]


def _view(architecture: str, backend: str, runs: Sequence[Json]) -> BackendView:
    rows = [(run, row) for run in runs for row in run["backends"] if label_of(row) == backend]
    layers = [layer for _, row in rows for layer in row["layers"]]
    finite = [layer for layer in layers if layer["bound_ratio"] is not None]
    worst = max(finite, key=lambda layer: layer["bound_ratio"], default=None)
    histogram, counted = _histogram(layers)
    problems = [found for run, row in rows if (found := problem(run, row))]
    return BackendView(
        backend,
        {label(run): outcome(row) for run, row in rows},
        worst["bound_ratio"] if worst and len(finite) == len(layers) else None,
        worst["name"] if worst and worst["bound_ratio"] else None,
        " ".join(sorted({layer["precision"] for layer in layers})),
        sum(row.get("seconds") or 0.0 for _, row in rows),
        strip(architecture, layers),
        histogram,
        counted,
        list(dict.fromkeys(problems)),
        list(dict.fromkeys(row["machine"] for _, row in rows if row.get("machine"))),
    )


def label(run: Json) -> str:
    """The label of a run: its probe and, in a backward pass, its mode."""
    return labelled(Path(run["probe"]).name, run.get("gradients"))


def label_of(row: Json) -> str:
    """What a row is called among those of its run: its backend and, if it was held to one, its path."""
    return row_label(row["backend"], row.get("path"))


def outcome(row: Json) -> str:
    """A backend's verdict, or the reason why there is none."""
    status: str = row["status"]
    return status if status in ("crashed", "skipped") else str(row["verdict"])


def problem(run: Json, row: Json) -> str | None:
    """The problem of a backend in one run, if there is one."""
    if row["status"] == "diverged":
        mode = run.get("gradients")
        where = labelled(f"{Path(run['probe']).name} probe", mode)
        first = "the first layer from the loss backwards" if mode else "the first layer"
        cause = f"; {row['likely_cause']}" if row.get("likely_cause") else ""
        return f"{where}: {row.get('first_divergence')} is {first} that differs{cause}"
    return row["reason"]


def step(ratio: float | None, verdict: str) -> int:
    """The index into `SCALE`."""
    if verdict == "diverged" or ratio is None or ratio > 1:
        return len(SCALE) - 1
    return min(max(7 + ceil(log10(ratio)), 1), 7) if ratio else 0


def strip(architecture: str, layers: Sequence[Json]) -> str:
    """The worst of each layer over all probes as a row of pixels, in the order of the specification."""
    from PIL import Image

    steps: dict[str, int] = {}
    for layer in layers:
        steps[layer["name"]] = max(steps.get(layer["name"], 0), step(layer["bound_ratio"], layer["verdict"]))
    names = [layer.name for layer in get_spec(architecture).layers]
    nothing = len(SCALE)
    picture = Image.new("P", (len(names), 1), nothing)
    picture.putpalette([int(colour[i : i + 2], 16) for colour in (*SCALE, "#000000") for i in (1, 3, 5)])
    picture.putdata([steps.get(name, nothing) for name in names])
    stream = BytesIO()
    picture.save(stream, "PNG", optimize=True, transparency=nothing)
    return f"data:image/png;base64,{b64encode(stream.getvalue()).decode()}"


def _histogram(layers: Sequence[Json]) -> tuple[list[int], str]:
    """Elements by distance where the report counts them, else layers by their largest distance."""
    counted = [layer["ulp_histogram"] for layer in layers if layer.get("ulp_histogram")]
    if counted:
        width = max(map(len, counted))
        return [sum(bins[place] for bins in counted if place < len(bins)) for place in range(width)], "elements"
    places = [int(layer["max_ulp"]).bit_length() for layer in layers if layer["max_ulp"] is not None]
    return [places.count(place) for place in range(max(places, default=-1) + 1)], "layers"


def ulp_label(place: int) -> str:
    """The label of bin `place` of a histogram: 0, 1, 2–3, 4–7, …"""
    low, high = 2 ** (place - 1), 2**place - 1
    return str(place) if place < 2 else f"{low}–{high}" if place < 11 else f"2^{place - 1} …"
