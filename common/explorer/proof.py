"""The result of `triptych prove` as a page: the model's graph, coloured by error ÷ bound, and the facts about each
node.

The page needs no script: each node of the drawing is a link to its facts.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from common.explorer.drawing import Box, above, placed, spacing_of, wires
from common.explorer.inside.models import ModelInside, look_at
from common.explorer.report import junit
from common.explorer.results import Json, step
from common.explorer.site import environment
from common.files import written_atomically
from common.graphs import Graph, Node
from common.operations import Operation, Shape
from common.prove.judging import UNPROVED, NodeVerdict
from common.prove.results import ProofRun, as_json, explanations
from common.specs.architecture import IMAGE, Layer


@dataclass(frozen=True)
class NodeView:
    """The facts about a node on the page."""

    node: Node
    place: str
    """The anchor of its part of the page: `m0-12`."""
    colour: str
    """Its class in the drawing: `s0` to `s8`, as in `results.SCALE`; `unproved`, or `unseen` by every runtime."""
    reads: Sequence[tuple[str, str, str]]
    """Each value that it reads: name, shape, and the place of the node that makes it, or ""."""
    readers: Sequence[tuple[str, str]]
    """The nodes that read its value: name and place."""
    shape: str
    formula: str
    rows: Sequence[tuple[str, NodeVerdict]]
    """Each runtime on each probe, and its verdict."""


@dataclass(frozen=True)
class ModelView:
    """A model on all probes."""

    title: str
    runs: Sequence[ProofRun]
    nodes: Sequence[NodeView]
    drawing: Markup
    problems: Sequence[str]
    inside: ModelInside | None
    """The pictures, if the recorded values were kept."""


def write_proof(folder: Path, text: str, report: Json, command: str) -> Path:
    """Write `index.html`, `report.json` and `junit.xml` into a folder that is there.

    Args:
        folder: where to.
        text: the page.
        report: what was found, for programs.
        command: the command that was run.

    Returns:
        The path of the page.
    """
    texts = {
        "report.json": json.dumps({**report, "command": command}, indent=2, ensure_ascii=False) + "\n",
        "junit.xml": junit(report, "triptych prove"),
        "index.html": text,
    }
    for name, content in texts.items():
        with written_atomically(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return folder / "index.html"


def draw_page(runs: Sequence[ProofRun], command: str) -> str:
    """The page of what has just been found on this machine."""
    return page(runs, as_json(runs), command)


def write_page_of(folder: Path, title: str, text: str) -> str:
    """Write the page of one of many models, and return what the file is called."""
    name = re.sub(r"[^\w.-]+", "-", title) + ".html"
    with written_atomically(folder / name) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return name


def overview(models: Sequence[tuple[str, Sequence[ProofRun]]], report: Json, command: str) -> str:
    """The page that leads to those of many models.

    Args:
        models: the file of each, and the runs of the proof.
        report: the same for programs.
        command: what was run.
    """
    rows = [
        (
            runs[0].title,
            file,
            runs,
            list(dict.fromkeys(said for run in runs for row in run.backends for said in explanations(row))),
            list(dict.fromkeys(row.machine.name for run in runs for row in run.backends if row.machine)),
        )
        for file, runs in models
    ]
    probes = list(dict.fromkeys(run.probe for _, runs in models for run in runs))
    return environment().get_template("proofs.html").render(models=rows, probes=probes, report=report, command=command)


def page(runs: Sequence[ProofRun], report: Json, command: str) -> str:
    """The report as one file of HTML, which needs nothing else."""
    titles = dict.fromkeys(run.title for run in runs)
    models = [
        _view(f"m{n}", [run for run in runs if run.title == title], len(titles)) for n, title in enumerate(titles)
    ]
    return environment().get_template("proof.html").render(models=models, report=report, command=command)


def _view(prefix: str, runs: Sequence[ProofRun], models: int) -> ModelView:
    problems = [
        f"{result.backend} on the {run.probe} probe: {sentence}"
        for run in runs
        for result in run.backends
        for sentence in explanations(result)
    ]
    graph = runs[0].graph
    nodes = _nodes(prefix, graph, runs[0].shapes, runs) if graph else []
    drawing = draw(graph, runs[0].shapes, nodes) if graph else Markup()
    recorded = next((run.recorded for run in runs if any(run.recorded.values())), None)
    inside = look_at(runs[0].title, graph, recorded, models) if graph and recorded else None
    return ModelView(runs[0].title, runs, nodes, drawing, problems, inside)


def _nodes(prefix: str, graph: Graph, shapes: Mapping[str, Shape], runs: Sequence[ProofRun]) -> list[NodeView]:
    places = {node.output: f"{prefix}-{number}" for number, node in enumerate(graph.nodes)}
    known = {name: array.shape for name, array in graph.constants.items()} | dict(shapes)
    found: dict[str, list[tuple[str, NodeVerdict]]] = {}
    readers: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for result in run.backends:
            for verdict in result.layers:
                found.setdefault(verdict.name, []).append((f"{result.backend}, {run.probe}", verdict))
    for node in graph.nodes:
        for name in dict.fromkeys(node.reads):
            readers.setdefault(name, []).append((node.name, places[node.output]))
    return [
        NodeView(
            node,
            places[node.output],
            colour([verdict for _, verdict in found.get(node.name, ())]),
            [(name, _shape(known.get(name)), places.get(name, "")) for name in node.reads],
            readers.get(node.output, ()),
            _shape(known.get(node.output)),
            _formula(node),
            found.get(node.name, ()),
        )
        for node in graph.nodes
    ]


def colour(verdicts: Sequence[NodeVerdict]) -> str:
    """The class of a node in the drawing: the worst of its verdicts."""
    judged = [step(verdict.bound_ratio, verdict.verdict) for verdict in verdicts if verdict.verdict != UNPROVED]
    if len(judged) < len(verdicts):
        return "unproved"
    return f"s{max(judged)}" if judged else "unseen"


def _shape(shape: Shape | None) -> str:
    return "?" if shape is None else "×".join(map(str, shape)) or "a scalar"


def _formula(node: Node) -> str:
    """The docstrings of the operation: its value and its bound."""
    if node.operation is None:
        return node.why or f"No bound has been derived for {node.kind}."
    told = (type(node.operation).__doc__, type(node.operation).reference.__doc__)
    return "\n\n".join(inspect.cleandoc(text) for text in told if text)


def draw(graph: Graph, shapes: Mapping[str, Shape], nodes: Sequence[NodeView]) -> Markup:
    """The graph as SVG, in columns; each node is a link."""
    places = {view.node.output: view.place for view in nodes}
    layers = [
        Layer(
            view.place,
            view.node.operation or Operation(),
            tuple(dict.fromkeys(places[name] for name in view.node.reads if name in places)) or (IMAGE,),
        )
        for view in nodes
    ]
    last = next((places[name] for name in graph.outputs if name in places), nodes[-1].place)
    boxes = placed(layers, last, {view.place: shapes.get(view.node.output, ())[1:] or (1,) for view in nodes})
    pitch = max(14, min(54, 1300 // (2 + max(box.column for box in boxes.values()))))
    return Markup("".join(_svg(boxes, pitch, nodes)))


def _svg(boxes: dict[str, Box], pitch: int, nodes: Sequence[NodeView]) -> Iterator[str]:
    lanes = [box.lane for box in boxes.values()]
    spacing = spacing_of(boxes)
    middle = 14 + above(boxes, min(lanes), spacing)
    height = middle + spacing * max(lanes) + max(box.height for box in boxes.values()) // 2 + 14
    width = pitch * (2 + max(box.column for box in boxes.values()))
    yield (
        f'<svg class="drawing" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="group" '
        f'aria-label="{len(boxes)} nodes from left to right, coloured by error divided by bound">'
    )
    yield f'<path class="wire" d="{"".join(wires(boxes, pitch, middle, spacing))}"/>'
    for view, box in zip(nodes, boxes.values(), strict=True):
        left = pitch * (box.column + 0.5 - box.width / 2)
        y = middle + box.lane * spacing - box.height / 2
        told = escape(f"{view.node.name} ({view.node.kind})")
        yield (
            f'<a href="#{view.place}" aria-label="{told}"><title>{told}</title>'
            f'<path class="l {view.colour}" d="M{left:.5g} {y:.4g}h{pitch * box.width:.3g}v{box.height}H{left:.5g}z"/>'
            "</a>"
        )
    yield "</svg>"
