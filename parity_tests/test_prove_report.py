"""The page of a proof: its graph with every node, coloured, and all that is said of each, reached by links alone."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from foreign_models import foreign  # noqa: E402
from test_prove import Builder, constant, feeds_of, recorded, run  # noqa: E402
from test_prove_mutants import with_fault  # noqa: E402

from common.explorer.inside.pictures import LIMIT  # noqa: E402
from common.explorer.proof import colour, page  # noqa: E402
from common.graphs import read_graph  # noqa: E402
from common.prove.judging import Expected, NodeVerdict  # noqa: E402
from common.prove.models import parse  # noqa: E402
from common.prove.proof import Request, prove  # noqa: E402
from common.prove.results import ProofRun, as_json, judged  # noqa: E402
from common.prove.runtimes import Recorded, Runtime  # noqa: E402


class Page(HTMLParser):
    """What a page has: names, links, and the class of the path in each link of the drawing."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.colours, self.tags, self.link = [], [], {}, set(), None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        if tag == "a":
            self.link = found["href"]
            self.links.append(self.link)
        if tag == "path" and found.get("class", "").startswith("l "):
            self.colours[self.link] = found["class"].split()[1]


def proof_of(model, running, **options):
    """A proof in one runtime, which runs another graph."""
    feeds = feeds_of(model)
    graph, values = read_graph("<mine>.onnx", model), recorded(running, feeds)
    row = judged(Runtime("some", optimise=False), graph, feeds, Recorded(values, **options), Expected())
    shapes = {name: array.shape for name, array in values.items()}
    return graph, [ProofRun("<mine>.onnx", "random", [row], len(graph.nodes), graph=graph, shapes=shapes)]


@pytest.mark.parametrize("family", ["inception", "vit"])
def test_every_node_is_drawn_and_every_link_leads_somewhere(family):
    model = foreign(family)
    graph, runs = proof_of(model, model)
    text = page(runs, as_json(runs), "triptych prove '<mine>.onnx'")
    found = Page(text)
    assert list(found.colours) == [f"#m0-{number}" for number in range(len(graph.nodes))]
    assert set(found.colours.values()) <= {f"s{step}" for step in range(8)}
    assert len(set(found.colours.values())) > 1
    assert len(set(found.ids)) == len(found.ids)
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert "script" not in found.tags
    assert not re.search(r"(src|href)=\"?(https?:)?//", text)
    for node in graph.nodes:
        assert f"<code>{node.name}</code> {node.kind}" in text
    assert "<mine>" not in text
    assert "γ" in text  # the bound, as the oracle derives it


def test_a_fault_is_seen_on_the_page():
    model = foreign("inception")
    graph, runs = proof_of(model, with_fault(model, "tall", constant(1, lambda w: w[:, :, ::-1])))
    text = page(runs, as_json(runs), "")
    place = [node.name for node in graph.nodes].index("tall")
    assert [link for link, shade in Page(text).colours.items() if shade == "s8"] == [f"#m0-{place}"]
    assert "the kernel is upside down" in text
    assert '<b class="v diverged">' in text


def test_a_graph_with_loose_ends_is_drawn():
    """A node of constants alone, several inputs and outputs, one that nobody reads, one that is unproved or unseen."""
    add = Builder(1, 4)
    add("Neg", "alone", np.array([1, 2, 3, 4], np.float32))
    shrunk = add("Shrink", "odd", "x", lambd=0.2)
    model = add.model(add("Relu", "one", shrunk), add("Add", "two", "x", "alone_out"))
    _, runs = proof_of(model, model)
    assert Page(page(runs, as_json(runs), "")).colours == {
        "#m0-0": "s0",
        "#m0-1": "unproved",
        "#m0-2": "s0",
        "#m0-3": "s0",
    }
    assert colour([]) == "unseen"
    assert colour([NodeVerdict("a", "certified", 0.5), NodeVerdict("a", "certified", 1e-5)]) == "s7"


def test_the_command_writes_it(tmp_path):
    path, folder = tmp_path / "mine.onnx", tmp_path / "report"
    onnx.save(foreign("mobilenet"), path)
    process = run(path, "--report", folder, "--sensitivity")
    assert process.returncode == 0, process.stderr
    assert f"Report: {folder / 'index.html'}" in process.stdout.replace("\n", "")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "certified"
    assert report["command"].startswith("triptych prove ")
    suite = ElementTree.parse(folder / "junit.xml").getroot()
    assert (suite.get("name"), len(suite.findall("*/testcase"))) == ("triptych prove", 4)
    assert "unseen" in (folder / "index.html").read_text(encoding="utf-8")
    (tmp_path / "file").write_text("")
    process = run(path, "--report", tmp_path / "file" / "report")
    assert process.returncode == 2
    assert "cannot write the report into" in process.stderr


def test_what_was_recorded_is_drawn_beside_what_is_said_of_each_node():
    model = foreign("inception")
    graph, (run_,) = proof_of(model, model)
    values = recorded(model, feeds_of(model))
    made = {node.output for node in graph.nodes}
    first = {name: array[0] for name, array in values.items() if name in made and array.ndim in (2, 4)}
    nudged = {name: np.nextafter(array, np.float32(np.inf)) for name, array in first.items()}
    runs = [replace(run_, recorded={"one": first, "other": nudged})]
    text = page(runs, as_json(runs), "triptych prove '<mine>.onnx'")
    assert text.count("What it made of random numbers: up to 1 ULP apart") == len(first)
    images = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<img ([^>]*)>", text)]
    assert all(each["src"].startswith("data:image/webp") and each["alt"] and each["width"] for each in images)
    assert sum(len(each["src"]) for each in images) < LIMIT
    kernel = next(graph.constants[node.parameters["weight"]] for node in graph.nodes if node.kind == "Conv")
    stem = next(node.name for node in graph.nodes if node.kind == "Conv")
    filters = [each["alt"] for each in images if each["alt"].startswith(f"{stem} filter ")]
    assert len(filters) == len(kernel) * (2 if kernel.shape[1] == 3 else 1)
    assert "<dialog" in text
    assert "<dialog" not in page([run_], as_json([run_]), "")


def test_what_was_recorded_is_kept_for_a_report_alone(tmp_path, monkeypatch):
    onnx.save(foreign("inception"), tmp_path / "mine.onnx")
    for keep in (False, True):
        (random,) = prove([parse(str(tmp_path / "mine.onnx"))], Request(("random",), keep=keep))
        assert set(random.recorded) == {"onnxruntime", "onnxruntime-optimised"}
        assert all(bool(values) == keep for values in random.recorded.values())
