"""`triptych show FILE --filters`: what a file's first convolution looks like, whatever the file is."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from common import random_weights, write_weights_file
from common.cli.filters import filters_of_file, print_filters
from common.errors import TriptychError
from common.explorer.inside.census import census
from common.explorer.inside.filters import NOT_A_NUMBER, Filters, colours, filters_in, not_finite
from parity_tests.commands import run

RED, GREEN, BLUE, GREY = (255, 128, 128), (128, 255, 128), (128, 128, 255), (128, 128, 128)


def written(path, architecture, change=lambda kernel: None, **metadata):
    """Weights in canonical safetensors, the first convolution's changed."""
    weights = random_weights(architecture, seed=1)
    first = next(name for name, array in weights.items() if array.ndim == 4)
    change(weights[first])
    write_weights_file(path, weights, metadata={"architecture": architecture, **metadata})
    return path


def in_colour(path, width=120):
    """What a terminal with all colours is given: for each line, the (upper, lower) pixels of its cells."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=width)
    _, filters, counted = filters_of_file(path)
    print_filters(console, path, filters, counted)
    cells = re.compile(r"38;2;(\d+);(\d+);(\d+)(?:;48;2;(\d+);(\d+);(\d+))?m▀")
    lines = [cells.findall(line) for line in stream.getvalue().splitlines()]
    return [[(tuple(map(int, cell[:3])), tuple(map(int, filter(None, cell[3:])))) for cell in line] for line in lines]


def only(colour):
    """Change a kernel so that its filter 2 looks at one channel alone."""

    def change(kernel):
        kernel[2] = 0
        kernel[2, colour] = 1

    return change


@pytest.mark.parametrize(("order", "channel"), [("BGR", 2), ("RGB", 0)])
def test_a_filter_for_red_is_red_in_whatever_order_the_file_has_its_channels(order, channel, tmp_path):
    recipe = json.dumps({"channels": order, "mean": [0, 0, 0], "scale": [1, 1, 1]})
    path = written(tmp_path / "a.safetensors", "googlenet", only(channel), preprocessing=recipe)
    lines = [line for line in in_colour(path) if line]
    assert set(lines[0][14:21]) == {(RED, RED)}
    assert len(lines[0]) == 7 * (120 // 8)
    assert set(lines[3][14:21]) == {(RED, ())}, "seven rows are three and a half characters"


def test_without_colour_a_filter_is_shaded_and_what_is_nan_is_marked(tmp_path, monkeypatch, capsys):
    def change(kernel):
        kernel[0] = -1
        kernel[1] = 1
        kernel[1, 0, 2, 3] = np.nan

    path = written(tmp_path / "a.safetensors", "lenet_caffe", change)
    assert run(monkeypatch, "show", path, "--filters") == 0
    out, err = capsys.readouterr()
    assert "conv1, 20×1×5×5, channels L" in out
    assert "conv1 filter 1 is NaN in channel 0 at row 2, column 3" in out
    drawn = out[out.index("row by row") :].splitlines()[1:6]
    assert [line[12:22] for line in drawn] == ["██████████"] * 2 + ["██████××██"] + ["██████████"] * 2
    assert all(line.startswith(" " * 12) for line in drawn)
    assert err == ""


def test_json_has_what_is_drawn(tmp_path, monkeypatch, capsys):
    def change(kernel):
        kernel[4] = 0
        kernel[7] = kernel[3]

    path = written(tmp_path / "a.safetensors", "lenet_caffe", change)
    assert run(monkeypatch, "show", path, "--filters", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    kernel = random_weights("lenet_caffe", seed=1)["conv1/weight"]
    change(kernel)
    assert content["shape"] == list(kernel.shape)
    assert (content["dead"], content["duplicates"]) == ([4], [[7, 3]])
    assert content["filters"][5] == {"filter": 5, "min": float(kernel[5].min()), "max": float(kernel[5].max())}


def test_a_network_that_nobody_here_knows_is_drawn_too(tmp_path):
    generator = np.random.default_rng(0)
    wide, stem = (generator.normal(size=shape).astype(np.float32) for shape in ((8, 16, 1, 1), (16, 3, 5, 7)))
    path = tmp_path / "mine.safetensors"
    write_weights_file(path, {"a.proj.weight": wide, "b.stem.weight": stem, "c.head.bias": wide[:, 0, 0, 0]})
    found = filters_in(path)
    assert (found.layer, found.channels) == ("b.stem.weight", None)
    assert np.array_equal(found.kernel, stem)
    assert "is not recognised as a network of the catalogue" in found.notes[0]
    np.savez(tmp_path / "mine.npz", **{"first/weights": stem.transpose(2, 3, 1, 0), "second/weights": wide})
    assert np.array_equal(filters_in(tmp_path / "mine.npz").kernel, stem)


def test_an_onnx_model_of_ones_own_is_drawn(tmp_path):
    onnx = pytest.importorskip("onnx")
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 5)).astype(np.float32)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Conv", ["a", "w"], ["y"], name="stem")]
    values = [helper.make_tensor_value_info(name, kind, ["N", 3, "H", "W"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [onnx.numpy_helper.from_array(kernel, "w")])
    onnx.save(helper.make_model(graph), tmp_path / "mine.onnx")
    found = filters_in(tmp_path / "mine.onnx")
    assert found.layer == "stem"
    assert np.array_equal(found.kernel, kernel)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet5"], "without weights"),
        (["nothing.npy"], "there is no file nothing.npy"),
        (["text.npy"], "format"),
        (["dense.safetensors"], "no tensor in it is clearly a first convolution"),
        (["dense.safetensors", "--framework", "torch"], "leave out --framework"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("no weights")
    write_weights_file("dense.safetensors", {"head.weight": np.ones((3, 4), np.float32)})
    assert run(monkeypatch, "show", *arguments, "--filters") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_file_with_nan_is_refused_where_its_numbers_count(tmp_path):
    from common.porting.classify import understand_weights

    path = written(tmp_path / "a.safetensors", "lenet5", lambda kernel: kernel.__setitem__((0, 0), np.inf))
    with pytest.raises(TriptychError, match="25 values that are NaN or infinite"):
        understand_weights(path)


def test_colours_are_those_of_the_channels_and_zero_is_grey():
    kernel = np.zeros((4, 3, 2, 2), np.float32)
    kernel[0, 1] = 0.5
    kernel[1, 2] = 0.25
    kernel[2, 0, 0, 1] = -np.inf
    kernel[2, 0, 1, 1] = -3
    found = colours(kernel)
    assert (found[0] == GREEN).all()
    assert (found[1] == BLUE).all()
    assert found[2].tolist() == [[list(GREY), list(NOT_A_NUMBER)], [list(GREY), [0, 128, 128]]]
    assert (found[3] == GREY).all()
    assert list(not_finite(Filters("stem", kernel, "BGR"))) == [
        "stem filter 2 is infinite in channel B at row 0, column 1"
    ]


def test_a_census_counts_what_is_dead_double_and_far_out():
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(12, 4, 3, 3)).astype(np.float32)
    kernel[3], kernel[5] = 0, 1e-9
    kernel[9] = kernel[2]
    kernel[7, 1, 2, 0] = 1e3
    kernel[8, 0, 1, 2] = np.nan
    found = census("conv2", kernel, groups=3)
    assert found.dead == (3, 5)
    assert found.duplicates == ((9, 2),)
    assert (found.outliers, found.not_finite, found.first_not_finite) == (1, 1, (8, 0, 1, 2))
    assert [sum(histogram) for histogram in found.histograms] == [144, 144, 143]
    assert (found.low, found.high) == (np.nanmin(kernel), 1000)
    assert census("constant", np.ones((2, 3), np.float32)).histograms == ((6,),)
    assert census("nothing", np.full((2, 3), np.nan, np.float32)).not_finite == 6
