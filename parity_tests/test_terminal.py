"""Text is not markup: what users, files and libraries call things is printed as it is, by every command."""

import io
import re
import sys
from pathlib import Path

import pytest
from conftest import load_implementation
from PIL import Image

from common import get_spec, random_weights, write_weights_file
from common.cli import terminal, trajectories
from common.cli.app import progress
from common.cli.verdicts import print_network, print_verdict
from common.explorer import compare, site
from common.onnx import adapters
from common.parity import backends, kernels
from common.parity.results import BackendResult, Run
from common.specs import CATALOGUE
from common.trajectories.umpire import Trajectory, TrajectoryRun
from parity_tests.commands import run

ROOT = Path(__file__).parents[1]
NAME = "x[bold]y[red]z[-red] '.[tf1]' :warning: [link=a]b 1e-4"
"""What Rich would read as styles, a link, an emoji, a number, and drop or colour. No slash: files can be called so."""
MESSAGE = f"{NAME} [/red] [/] \\[bold]"
"""What no file can be called: a closing tag with none open would end in a traceback."""


@pytest.fixture
def said(monkeypatch, capsys):
    """What a command prints, without the spaces, line breaks and lines of boxes and tables."""

    def run_and_read(*arguments):
        run(monkeypatch, *arguments)
        return squeezed("".join(capsys.readouterr()))

    return run_and_read


def squeezed(text):
    return re.sub(r"[│╭╮╰╯─┃\s]+", "", str(text))


@pytest.fixture
def weights(tmp_path):
    """LeNet's, in a file that has an unlucky name and says unlucky things of itself."""
    path = tmp_path / f"{NAME}.safetensors"
    prepared = get_spec("lenet_caffe").preprocessing.as_json()
    metadata = {NAME: MESSAGE, "preprocessing": prepared}
    write_weights_file(path, random_weights("lenet_caffe", seed=1), metadata=metadata)
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / f"{NAME}.png"
    Image.linear_gradient("L").resize((32, 28)).save(path)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", MESSAGE),
        ("show", MESSAGE),
        ("show", f"{MESSAGE}.onnx"),
        ("compare", MESSAGE, "conv1"),
        ("compare", "lenet_caffe", MESSAGE),
        ("explore", "--report", MESSAGE),
        ("parity", MESSAGE),
        ("parity", "lenet_caffe", "--backend", MESSAGE),
        ("parity", "lenet_caffe", "--probe", MESSAGE),
        ("parity", "lenet_caffe", "--weights", MESSAGE),
        ("parity", "lenet_caffe", "--device", MESSAGE),
        ("parity", "lenet_caffe", "--precision", MESSAGE),
        ("export", MESSAGE, "--framework", "torch", "--out", "a.onnx"),
        ("export", "lenet_caffe", "--framework", "torch", "--out", "a.onnx", "--weights", MESSAGE),
        ("export", "lenet_caffe", "--framework", "torch", "--out", "a.onnx", "--output", MESSAGE),
        ("port", MESSAGE, "--to", "torch", "--out", "a.pth"),
        ("classify", "a.png", "--weights", MESSAGE),
        ("classify", "a.png", "--weights", "a", "--backend", MESSAGE),
        ("train", MESSAGE, "--framework", "torch"),
        ("train", "lenet_caffe", "--framework", "torch", "--data", MESSAGE),
        ("train", "lenet_caffe", "--framework", "torch", "--image-size", MESSAGE),
        # What typer itself refuses, in a box.
        (MESSAGE,),
        ("list", "a", MESSAGE),
        ("doctor", MESSAGE),
        ("show", "lenet_caffe", "--framework", MESSAGE),
        ("port", "a", "--to", MESSAGE, "--out", "a"),
    ],
    ids=lambda arguments: " ".join(arguments).replace(MESSAGE, "…"),
)
def test_refusals(arguments, said):
    assert squeezed(MESSAGE) in said(*arguments).replace("\\\\", "\\").replace("\\'", "'")


def test_files(weights, tmp_path, said):
    """Titles, tables and remarks: of weights, of a graph; where they went."""
    load_implementation("torch_impl")
    shown = said("show", weights)
    assert squeezed(f"{weights}: safetensors") in shown
    assert squeezed(f"{NAME}: {MESSAGE}") in shown
    graph, ported = tmp_path / f"{NAME}.onnx", tmp_path / f"{NAME}.pth"
    assert squeezed(f"{graph}: lenet_caffe from torch") in said(
        "export", weights, "--framework", "torch", "--out", graph
    )
    assert squeezed(f"{graph}: image N×1×32×32") in said("show", graph)
    report = said("port", graph, "--to", "torch", "--out", ported, "--no-verify")
    assert squeezed(f"{graph}: ONNX") in report
    assert squeezed(f"{ported}: ") in report


def test_names_in_a_graph(tmp_path, said):
    """Of its layers, in a table; nothing is cut off, however long."""
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in (NAME, MESSAGE)]
    node = helper.make_node("Relu", [NAME], [MESSAGE], name=NAME + 300 * "a")
    graph = helper.make_graph([node], "a", value[:1], value[1:])
    save(helper.make_model(graph), tmp_path / "a.onnx")
    shown = said("show", tmp_path / "a.onnx")
    assert shown.count("[link=a]") == 3
    assert "…" not in shown
    assert squeezed(f"{NAME} 1×2, {MESSAGE} 1×2") in shown


def test_pages(tmp_path, monkeypatch, said):
    monkeypatch.setattr(site, "write_site", lambda out, **_: out / "index.html")
    assert squeezed(tmp_path / NAME / f"index.html: {len(CATALOGUE)} networks") in said(
        "explore", "--out", tmp_path / NAME
    )


def test_code_is_printed_as_it_is_written(monkeypatch, said):
    """Side by side: the column's headings, and brackets in the code."""
    written = compare.Written(compare.PANELS[0], MESSAGE, NAME, [compare.Excerpt(NAME, 3, MESSAGE)])
    facts, _ = compare.compare(get_spec("lenet_caffe"), "conv1")
    monkeypatch.setattr(compare, "compare", lambda *_: (facts, [written]))
    for width in (60, 160):
        monkeypatch.setattr(
            "common.cli.compare.standard_output", lambda *, width=width: terminal.standard_output(width)
        )
        shown = said("compare", "lenet_caffe", "conv1")
        assert squeezed(f"{NAME}:3") in shown
        assert shown.count(squeezed(MESSAGE)) == 2


def test_a_proof(image, tmp_path, said):
    """The name of the photograph heads a column; the report lies in a folder of the same name."""
    load_implementation("torch_impl")
    shown = said("parity", "lenet_caffe", "--backend", "torch", "--probe", image, "--report", tmp_path / NAME)
    assert squeezed(image.name) in shown
    assert squeezed(f"Report: {tmp_path / NAME}") in shown


@pytest.mark.parametrize("gradients", [None, "training"])
def test_what_a_proof_finds(gradients, capsys):
    """Reasons, layers, causes, and why a layer is not exact."""
    wide = terminal.standard_output(1000)
    found = [
        BackendResult(f"{MESSAGE}1", "crashed", "incomplete", f"{MESSAGE}2"),
        BackendResult(f"{MESSAGE}3", "skipped", "incomplete", f"{MESSAGE}4"),
        BackendResult(
            f"{MESSAGE}5", "diverged", "diverged", first_divergence=f"{MESSAGE}6", likely_cause=f"{MESSAGE}7"
        ),
    ]
    run = Run(f"{MESSAGE}8", f"{MESSAGE}9", {f"{MESSAGE}a": f"{MESSAGE}b"}, found, gradients=gradients)
    another = Run(f"{MESSAGE}c", f"{MESSAGE}9", {}, found, gradients=gradients)
    print_network(wide, [run])
    print_verdict(wide, [run, another])
    shown = squeezed(capsys.readouterr().out)
    assert not [end for end in "123456789abc" if squeezed(MESSAGE + end) not in shown]


def test_trajectories(monkeypatch, said):
    """Why a training stopped."""
    one = [Trajectory(f"{MESSAGE}1", dtype, "crashed", f"{MESSAGE}2") for dtype in ("float64", "float32")]
    monkeypatch.setattr(
        trajectories, "run_trajectories", lambda *_, **__: TrajectoryRun(f"{MESSAGE}3", (28, 28), 1, one, [])
    )
    shown = said("parity", "lenet_caffe", "--steps", 1)
    assert not [end for end in "123" if squeezed(MESSAGE + end) not in shown]


def test_photographs(weights, image, tmp_path, said):
    labels = tmp_path / "labels"
    labels.write_text("\n".join(f"{number} {MESSAGE}" for number in range(10)))
    shown = said("classify", image, "--weights", weights, "--labels", labels)
    assert squeezed(f"{image}: lenet_caffe in torch") in shown
    assert shown.count(squeezed(MESSAGE)) == 5


def test_training(tmp_path, said):
    """The folder of the pictures and that of the run; a picture that cannot be read."""
    load_implementation("torch_impl")
    for kind in ("train", "test"):
        for number, label in enumerate(("a", "b")):
            folder = tmp_path / NAME / kind / label
            folder.mkdir(parents=True)
            Image.new("L", (28, 28), 40 * number).save(folder / "good.png")
            (folder / f"{NAME}.png").write_bytes(b"bad")
    shown = said(
        "train", "lenet_caffe", "--framework", "torch", "--data", tmp_path / NAME, "--bad-files", "skip",
        "--epochs", 1, "--out", tmp_path / f"{NAME} run",
    )  # fmt: skip
    assert squeezed(f"skipped: {tmp_path / NAME / 'train' / 'a' / NAME}.png") in shown
    assert squeezed(f"in {tmp_path / NAME} run") in shown
    assert squeezed(f"{tmp_path / NAME} run/weights.safetensors") in shown


def test_the_doctor(monkeypatch, said):
    """The command that installs what is missing can be copied."""
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.setattr(adapters, "find_adapters", adapters.Found)  # with this variable none is found, for all tests
    monkeypatch.setenv("OMP_NUM_THREADS", MESSAGE)
    shown = said("doctor")
    for extra in ("torch", "keras", "jax", "tf1", "torch,onnx"):
        assert squeezed(f"pip install -c constraints.txt -e '.[{extra}]'") in shown
    assert squeezed(MESSAGE) in shown


def test_the_doctor_has_libraries_tell_what_they_run(monkeypatch, said):
    """Those of one framework; of all, it takes a dozen seconds."""
    pytest.importorskip("torch")
    monkeypatch.setattr(kernels, "_ONE_OF_EACH", ["torch"])
    shown = said("doctor")
    assert "kernelstorchATen" in shown


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_bars_on_a_terminal(stream, monkeypatch):
    """A bar says what was done last, and the lines above it what has been found; neither is coloured by itself."""

    class Terminal(io.StringIO):
        isatty = lambda self: True  # noqa: E731

    screen = Terminal()
    monkeypatch.setattr(sys, stream, screen)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "xterm-256color")
    console = terminal.standard_output() if stream == "stdout" else terminal.standard_error()
    with progress(2, console) as advance:
        advance(MESSAGE)
        terminal.say(console, "above: ", (MESSAGE, "bold"), " 1e-4")
    shown = screen.getvalue()
    assert f"{MESSAGE} done" in shown
    assert f"above: \x1b[1m{MESSAGE}\x1b[0m 1e-4" in shown


def test_one_place_decides():
    """Rich's own doors to markup are opened in no other module."""
    doors = re.compile(r"\bConsole\(|\bTextColumn\(|\bProgress\(|from_markup|markup=|from rich import print")
    folders = ("common", "keras_impl", "torch_impl", "tf1_style_impl", "benchmarks")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [path for path in sources if doors.search(path.read_text(encoding="utf-8"))] == [
        ROOT / "common" / "cli" / "terminal.py"
    ]
