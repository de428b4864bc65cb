"""The explorer: sources read rightly, aligned, drawn; traps that hold; a site and a report that are whole."""

import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
import traceback
from html.parser import HTMLParser
from math import prod
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
from conftest import daily, load_implementation

from common import TriptychError, get_spec, list_architectures
from common.explorer import results, traps
from common.explorer.alignment import align, column
from common.explorer.anatomy import layer_facts, receptive_fields, weights_of
from common.explorer.compare import compare
from common.explorer.drawing import draw, miniature, place
from common.explorer.modules import Span
from common.explorer.report import junit
from common.explorer.runnable import runnable
from common.explorer.sources import PANELS, builder, read_network
from common.parity.processes import Workers
from parity_tests.commands import ROOT, finish, run_here, triptych

BY_NAME = {framework.name: framework for framework in PANELS}
LIMIT = 400_000
"""Bytes of a page."""


def readings(architecture):
    """The columns of a page."""
    spec = get_spec(architecture)
    forms = [("keras", "sequential"), ("keras", ""), ("torch", ""), ("tf1", "")]
    found = [read_network(BY_NAME[name], spec, form) for name, form in forms]
    return [reading for reading in found if reading]


# Reading


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_layer_is_found_in_every_source(architecture):
    for reading in readings(architecture):
        found = frozenset().union(*reading.written.values())
        assert found == {layer.name for layer in get_spec(architecture).layers}


@pytest.mark.parametrize("architecture", list_architectures())
def test_a_layer_stands_on_the_same_line_in_every_column(architecture):
    """The line that is most about a layer: the one that stands for the fewest."""
    rows = [row for block in align(readings(architecture)) for row in block.rows]
    for layer in get_spec(architecture).layers:
        places = set()
        for number in range(len(rows[0])):
            lines = [(len(row[number].layers), place) for place, row in enumerate(rows) if row[number] is not None]
            places.add(min((size, at) for size, at in lines if layer.name in rows[at][number].layers)[1])
        assert len(places) == 1, layer.name


@pytest.mark.parametrize("architecture", list_architectures())
def test_columns_are_the_files_own_lines_all_of_them_in_order(architecture):
    found = readings(architecture)
    rows = [row for block in align(found) for row in block.rows]
    for number, reading in enumerate(found):
        lines = [row[number] for row in rows if row[number] is not None]
        assert lines == column(reading)
        files = {file: (ROOT / file).read_text().splitlines() for file in {line.file for line in lines}}
        for line in lines:
            assert line.text == files[line.file][line.number - 1]
        for definition in reading.definitions:
            whole = range(definition.span.first, definition.span.last + 1)
            shown = [line.number for line in lines if line.file == definition.span.file and line.number in whole]
            assert shown == list(whole)


EXECUTED = ["lenet5_sparse", "alexnet_mnist", "googlenet_bn", "resnet18_tutorial", "densenet121"]


@pytest.mark.parametrize("architecture", daily("resnet18_tutorial", "alexnet_mnist", of=EXECUTED))
@pytest.mark.parametrize("name", ["keras", "torch", "tf1"])
def test_what_was_read_is_what_is_executed(architecture, name, monkeypatch):
    """The interpreter's own record: the lines that were running when each layer was made."""
    load_implementation(BY_NAME[name].package)
    spec = get_spec(architecture)
    executed = {"keras": lines_in_keras, "torch": lines_in_torch, "tf1": lines_in_tf1}[name](spec, monkeypatch)
    reading = read_network(BY_NAME[name], spec)
    assert set(executed) >= {layer.name for layer in spec.layers}
    for layer in spec.layers:
        read = {number for span in reading.lines_of(layer.name) for number in lines_of(span)}
        assert executed[layer.name], layer.name
        assert executed[layer.name] <= read, layer.name


def lines_of(span: Span):
    return {(span.file, number) for number in range(span.first, span.last + 1)}


def model_lines(frames):
    """Those of a stack that are in model files, without the classes' own `__init__`, which makes many layers."""
    found = set()
    for frame in frames:
        path = Path(frame.filename)
        if path.parent.name.endswith("_impl") and path.name not in ("layers.py", "backend.py"):
            found.add((f"{path.parent.name}/{path.name}", frame.lineno))
    return found


def lines_in_keras(spec, monkeypatch):
    import keras

    from common.operations.names import keras_layer

    made = {}
    original = keras.layers.Layer.__init__

    def record(self, *args, name=None, **kwargs):
        made[name] = model_lines(traceback.extract_stack(limit=14))
        original(self, *args, name=name, **kwargs)

    monkeypatch.setattr(keras.layers.Layer, "__init__", record)
    importlib.import_module("keras_impl").build(spec.name)
    keras.backend.clear_session()
    return {layer.name: made[keras_layer(layer.name)] for layer in spec.layers}


def lines_in_torch(spec, monkeypatch):
    import torch

    made = {}
    original = torch.nn.Module.__init__

    def record(self, *args, **kwargs):
        made.setdefault(id(self), model_lines(traceback.extract_stack(limit=14)))
        original(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__init__", record)
    with torch.device("meta"):
        model = importlib.import_module("torch_impl").build(spec.name)
    return {path.replace(".", "/"): made[id(module)] for path, module in model.named_modules()}


def lines_in_tf1(spec, monkeypatch):
    import tensorflow.compat.v1 as tf

    catalogue = importlib.import_module("tf1_style_impl.catalogue")
    channels, height, width = spec.input_shape
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [None, height, width, channels])
        catalogue.BUILDERS[spec.name](images, tf.placeholder_with_default(1.0, []))
    return {layer.name: model_lines(graph.get_operation_by_name(layer.name).traceback) for layer in spec.layers}


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_network_can_be_copied_in_every_form(architecture):
    spec = get_spec(architecture)
    for framework in PANELS:
        for form in ("", "sequential"):
            definition = builder(framework, architecture, form)
            if definition:
                code = runnable(framework, spec, definition)
                compile(code, architecture, "exec")
                assert f"{definition.node.name}(" in "".join(code.splitlines()[-2:])


COPIED = ["lenet5_sparse", "lenet_caffe", "googlenet_bn", "resnet18_tutorial"]


@pytest.mark.parametrize("architecture", daily("resnet18_tutorial", "lenet_caffe", of=COPIED))
@pytest.mark.parametrize(("name", "form"), [("keras", ""), ("keras", "sequential"), ("torch", ""), ("tf1", "")])
def test_copied_code_runs_and_is_the_network(architecture, name, form):
    load_implementation(BY_NAME[name].package)
    spec = get_spec(architecture)
    definition = builder(BY_NAME[name], architecture, form)
    if definition is None:
        pytest.skip(f"{architecture} has no {form} form")
    namespace = {}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(runnable(BY_NAME[name], spec, definition), architecture, "exec"), namespace)
    assert output.getvalue()
    if name == "keras":
        assert namespace["model"].count_params() == sum(map(prod, spec.parameter_shapes.values()))
    elif name == "torch":
        parameters = sum(parameter.numel() for parameter in namespace["model"].parameters())
        assert parameters == spec.parameter_count
    else:
        variables = namespace["images"].graph.get_collection("variables")
        assert {v.op.name: v.shape.num_elements() for v in variables} == {
            parameter: prod(shape) for parameter, shape in spec.parameter_shapes.items()
        }


def test_a_layer_is_found_by_any_of_its_names():
    spec = get_spec("resnet50")
    for name in ("conv4_block6/conv2", "conv4_block6.conv2", "conv4_block6_conv2"):
        fact, ways = compare(spec, name)
        assert fact.name == "conv4_block6/conv2"
        assert [way.name for way in ways] == ["conv4_block6_conv2", "conv4_block6.conv2", "conv4_block6/conv2"]
        for way in ways:
            assert len(way.excerpts) == 2  # the loop over blocks, the line in the block
            for excerpt in way.excerpts:
                assert excerpt.code.strip() in (ROOT / excerpt.file).read_text()
    with pytest.raises(TriptychError, match="did you mean conv1"):
        compare(spec, "conv11")


# Anatomy and drawing


@pytest.mark.parametrize(
    ("architecture", "layer", "pixels"),
    [
        # Araujo, Norris, Sim 2019, Computing Receptive Fields of Convolutional Neural Networks, table of networks.
        ("alexnet_bvlc", "pool5", 195),
        ("vgg16", "pool5", 212),
        ("resnet50", "conv5_block3/add", 483),
        ("resnet101", "conv5_block3/add", 1027),
        ("resnet152", "conv5_block3/add", 1507),
    ],
)
def test_receptive_fields_are_the_published_ones(architecture, layer, pixels):
    assert receptive_fields(get_spec(architecture))[layer] == (pixels, pixels)


def test_weights_have_each_frameworks_own_names_and_shapes():
    load_implementation("torch_impl")
    from common.operations.names import keras_layer, torch_layer

    for architecture in ("lenet5", "resnet18", "googlenet_bn"):
        spec = get_spec(architecture)
        torch_model = importlib.import_module("torch_impl").build(architecture)
        keras_model = load_implementation("keras_impl").build(architecture)
        state = {name: tuple(tensor.shape) for name, tensor in torch_model.state_dict().items()}
        variables = {variable.path: tuple(variable.shape) for variable in keras_model.variables}
        for layer in spec.layers:
            weights = weights_of(spec, layer)
            for name, shape in listed(weights["torch"]):
                assert state[f"{torch_layer(layer.name)}.{name}"] == shape
            for name, shape in listed(weights["keras"]):
                assert variables[f"{keras_layer(layer.name)}/{name}"] == shape
            for name, _ in listed(weights["tf1"]):
                assert f"{layer.name}/{name}" in spec.parameter_shapes


def listed(weights):
    """`gamma beta 64, …` → (gamma, (64,)), (beta, (64,)) …"""
    for part in filter(None, weights.split(", ")):
        *names, shape = part.split(" ")
        for name in names:
            yield name, tuple(map(int, shape.split("×")))


@pytest.mark.parametrize("architecture", list_architectures())
def test_the_table_adds_up(architecture):
    spec = get_spec(architecture)
    facts = layer_facts(spec)
    assert sum(fact.parameters for fact in facts) == spec.parameter_count
    assert sum(fact.multiply_adds for fact in facts) == spec.multiply_adds


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_layer_is_drawn_in_a_place_of_its_own_behind_what_it_reads(architecture):
    spec = get_spec(architecture)
    boxes = place(spec)
    assert len({(box.column, box.lane) for box in boxes.values()}) == len(spec.layers)
    for box in boxes.values():
        assert all(boxes[name].column < box.column for name in box.layer.inputs if name in boxes)
    drawing = ElementTree.fromstring(str(draw(spec)))
    assert len([path for path in drawing.iter() if path.get("class", "").startswith("l ")]) == len(spec.layers)
    left, top, width, height = map(float, drawing.get("viewBox").split())
    for path in drawing.iter("path"):
        if path.get("class", "").startswith("l "):
            x, y, bottom = re.fullmatch(r"M(\S+) (\S+)h\S+?v(\d+)H\S+z", path.get("d")).groups()
            assert left <= float(x) <= width
            assert top <= float(y) <= float(y) + float(bottom) <= height
    ElementTree.fromstring(str(miniature(spec)))


# Traps


@pytest.fixture(scope="module")
def run_again():
    pytest.importorskip("torch")
    pytest.importorskip("tensorflow")
    return traps.run_all()


@pytest.mark.slow  # the traps are run in all frameworks
@pytest.mark.parametrize("trap", traps.read_traps(), ids=lambda trap: trap.id)
def test_a_trap_prints_what_the_pages_say_and_holds(trap, run_again):
    assert run_again[trap.id] == traps.printed()[trap.id]
    assert traps.holds(trap, run_again[trap.id])
    nothing = {framework: ["0"] * len(lines) for framework, lines in run_again[trap.id].items()}
    assert not traps.holds(trap, nothing)


def test_every_trap_is_on_a_page_and_not_on_all_without_need():
    pages = {name: {trap.id for trap in traps.traps_of(get_spec(name))} for name in list_architectures()}
    assert set().union(*pages.values()) == {trap.id for trap in traps.read_traps()} == set(traps.printed())
    assert {"lrn-alpha", "groups", "same-conv1", "dropout-rate", "flatten-order", "bgr"} <= pages["alexnet_bvlc"]
    assert not {"bn-eps", "v1-v1.5", "ceil"} & pages["alexnet_bvlc"]
    assert {"bn-eps", "v1-v1.5", "same-padding", "pool-padding"} <= pages["resnet50"]
    assert not {"lrn-alpha", "groups", "dropout-rate", "flatten-order"} & pages["resnet50"]
    assert {"ceil", "lrn-order"} <= pages["googlenet"]
    assert "ceil" not in pages["googlenet_tutorial"]
    assert "v1-v1.5" not in pages["resnet18"]


# The site


class Links(HTMLParser):
    """What a page refers to, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.references, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [value for name, value in attrs if name in ("href", "src")]
        self.anchors |= {attributes["id"]} if "id" in attributes else set()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The site as the command makes it, and the frameworks that this imported."""
    folder = tmp_path_factory.mktemp("explorer")
    code = (
        "import sys; from pathlib import Path; from common.explorer.site import write_site;"
        f"write_site(Path({str(folder)!r}));"
        "print(*{'torch', 'tensorflow', 'keras', 'onnx', 'jax'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    return folder, process.stdout.split()


@pytest.fixture(scope="module")
def site(made):
    return made[0]


def test_the_site_is_made_without_a_framework(made):
    assert made[1] == []


def test_every_network_has_a_page_below_the_limit(site):
    for name in list_architectures():
        assert 10_000 < (site / f"{name}.html").stat().st_size < LIMIT
    assert all(path.stat().st_size < LIMIT for path in site.rglob("*.*"))


def test_all_links_lead_somewhere_and_none_to_the_network(site):
    pages = {path.resolve(): Links(path.read_text()) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for reference in page.references:
            parts = urlsplit(reference)
            if parts.scheme == "data":
                continue
            assert not parts.scheme
            assert not parts.netloc
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), reference
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, reference
    for name in ("style.css", "explorer.js"):
        assert "://" not in (site / name).read_text().replace("http://www.w3.org/2000/svg", "")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run_here("explore", "--out", tmp_path / "file")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("triptych: cannot write into")


# Results


CRASH = "out of\x00memory"


def a_report():
    """A report of one network, as `triptych parity --json` prints it, with one backend that diverged."""
    layers = [
        {"name": layer.name, "verdict": "certified", "bound_ratio": 0.01, "precision": "fp32", "max_ulp": 5}
        for layer in get_spec("lenet5").layers
    ]
    broken = [
        {**layer, **({"verdict": "diverged", "bound_ratio": None} if layer["name"] == "c3" else {})} for layer in layers
    ]
    row = {"reason": None, "seconds": 1.5, "first_divergence": None, "likely_cause": None, "layers": layers}
    difference = {"first_divergence": "c3", "likely_cause": "a <b> & c", "layers": broken}
    rows = [
        row | {"backend": "torch", "status": "ok", "verdict": "certified"},
        row | {"backend": "tf1", "status": "diverged", "verdict": "diverged"} | difference,
        row | {"backend": "onnx-tf1", "status": "crashed", "verdict": "incomplete", "reason": CRASH, "layers": []},
        row | {"backend": "onnx-torch", "status": "skipped", "verdict": "skipped", "reason": "not here", "layers": []},
    ]
    run = {"architecture": "lenet5", "probe": "random", "device": "cpu", "precision": "fp32", "verdict": "diverged"}
    run |= {"bounded": {}, "backends": rows}
    return {"environment": {"versions": {"python": "3"}}, "verdict": "diverged", "runs": [run]}


def test_junit_counts_failures_errors_and_what_was_skipped():
    suite = ElementTree.fromstring(junit(a_report())).find("testsuite")
    assert {name: suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "lenet5",
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases["torch"]) == []
    assert cases["tf1"].find("failure").get("message") == "random probe: c3 is the first layer that differs; a <b> & c"
    assert "out of memory" in cases["onnx-tf1"].find("error").get("message")
    assert cases["onnx-torch"].find("skipped") is not None


def test_views_say_what_happened():
    torch, tf1, crashed, skipped = results.views(a_report(), "lenet5")
    assert (torch.ratio, torch.precision, torch.outcomes) == (0.01, "fp32", {"random": "certified"})
    assert (torch.histogram, torch.counted) == ([0, 0, 0, 12], "layers")
    assert tf1.ratio is None
    assert tf1.outcomes == {"random": "diverged"}
    assert crashed.problems == [CRASH]
    assert skipped.histogram == []
    report = a_report()
    for layer in report["runs"][0]["backends"][0]["layers"]:
        layer["ulp_histogram"] = [10, 2, 0, 1]
    torch, *_ = results.views(report, "lenet5")
    assert (torch.histogram, torch.counted) == ([120, 24, 0, 12], "elements")


def test_the_strip_has_a_pixel_for_each_layer():
    from base64 import b64decode

    from PIL import Image

    _, tf1, crashed, _ = results.views(a_report(), "lenet5")
    picture = Image.open(io.BytesIO(b64decode(tf1.strip.partition(",")[2]))).convert("RGBA")
    names = [layer.name for layer in get_spec("lenet5").layers]
    colours = ["#{:02x}{:02x}{:02x}".format(*picture.getpixel((x, 0))[:3]) for x in range(picture.width)]
    assert len(colours) == len(names)
    assert {name for name, colour in zip(names, colours, strict=True) if colour == results.SCALE[-1]} == {"c3"}
    empty = Image.open(io.BytesIO(b64decode(crashed.strip.partition(",")[2]))).convert("RGBA")
    assert all(empty.getpixel((x, 0))[3] == 0 for x in range(empty.width))


def test_the_scale_is_logarithmic_and_keeps_its_ends():
    steps = [results.step(ratio, "certified") for ratio in (0.0, 1e-9, 1e-6, 2e-6, 1e-5, 3e-4, 0.02, 0.1, 0.5, 1.0)]
    assert steps == [0, 1, 1, 2, 2, 4, 6, 6, 7, 7]
    assert results.step(1.0001, "certified") == results.step(None, "diverged") == len(results.SCALE) - 1


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"runs": [{}]}', '{"runs": 3}', '{"runs": [{"architecture": "x"}]}']
)
def test_what_is_no_report_is_one_sentence(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(TriptychError, match=r"report\.json is"):
        results.read_report(path)
    with pytest.raises(TriptychError, match="cannot read the report"):
        results.read_report(tmp_path / "other.json")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A real run with its report."""
    folder = tmp_path_factory.mktemp("reports") / "new" / "results"
    code, out, err = run_here(
        "parity", "lenet5", "--backend", "torch", "--probe", "random", "--report", folder, "--json"
    )
    assert code == 0, err
    return folder, json.loads(out)


def test_a_run_leaves_a_page_json_and_junit(reported):
    folder, printed = reported
    saved = json.loads((folder / "report.json").read_text())
    command = saved.pop("command")
    assert saved == printed
    assert command.startswith("triptych parity lenet5 --backend torch --probe random --report ")
    page = (folder / "index.html").read_text()
    assert command in page.replace("&#39;", "'")
    assert "Certified" in page
    assert not [r for r in Links(page).references if not r.startswith(("#", "data:"))]
    suites = ElementTree.parse(folder / "junit.xml").getroot()
    assert [case.get("name") for case in suites.iter("testcase")] == ["torch"]


def test_results_are_shown_beside_their_network(reported, tmp_path):
    folder, _ = reported
    code, _, err = run_here("explore", "--out", tmp_path / "site", "--report", folder)
    assert code == 0, err
    with_results = (tmp_path / "site" / "lenet5.html").read_text()
    assert "data:image/png" in with_results
    assert "No results were given" not in with_results
    assert "No results were given" in (tmp_path / "site" / "lenet_caffe.html").read_text()


def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.delattr(Workers, "take")
    (tmp_path / "file").write_text("")
    code, _, err = run_here("parity", "lenet5", "--report", tmp_path / "file")
    assert code == 2
    assert err.startswith("triptych: cannot write the report")


# The terminal


def test_compare_prints_three_columns():
    code, out, _ = run_here("compare", "alexnet_bvlc", "conv2")
    assert code == 0
    for text in ("layers.Conv2D(256, 5", "conv2=nn.Conv2d(96, 256", "conv(x, 5, 256", "307,456 parameters"):
        assert text in out
    (line,) = [line for line in out.splitlines() if "layers.Conv2D(256" in line]
    assert "nn.Conv2d(96" in line
    assert "conv(x, 5" in line
    answer = json.loads(run_here("compare", "alexnet_bvlc", "conv2", "--json")[1])
    assert list(answer["frameworks"]) == ["keras", "torch", "tf1"]
    assert answer["frameworks"]["torch"]["source"][0]["file"] == "torch_impl/alexnet.py"


SUMMARIES = {
    "keras": ["Total params: 1,631,080", "(None, 16, 16, 50)"],
    "torch": ["(conv1): Conv2d(1, 20", "padding=(2, 2) → 50×16×16)", "(relu3): ReLU(→ 500)"],
    "tf1": ["conv1/weight (5x5x1x20", "conv2:0    BiasAdd    ?×16×16×50\n", "fc2:0      BiasAdd    ?×10\n"],
}


@pytest.mark.parametrize(
    "framework",
    daily("torch", of=["keras", "torch", "tf1"]),
)
def test_show_prints_the_frameworks_own_summary(framework):
    code, out, err = finish(triptych("show", "lenet_caffe", "--framework", framework))
    assert (code, err) == (0, "")
    assert [words for words in SUMMARIES[framework] if words not in out] == []
