"""One model's weights as the checkpoint of another, written by other people in another framework."""

import json
import sys
import textwrap

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from test_prove import Builder  # noqa: E402
from test_prove_pairs import LAST, changed, folded, in_many_nodes, in_this_process, small, unfolded  # noqa: E402, F401

from common import TriptychError  # noqa: E402
from common.cli import main  # noqa: E402
from common.prove.into import port_into  # noqa: E402
from common.prove.models import parse  # noqa: E402


@pytest.fixture
def ported(tmp_path):
    """Ports from one small file into another; returns what is told, and the file."""

    def port(first, second, out="out.onnx", shapes=((2, 3, 9, 8), (2, 3, 9, 8)), **options):
        names = []
        for number, (build, shape) in enumerate(zip((first, second), shapes, strict=True)):
            onnx.save(build(Builder(*shape)), tmp_path / f"{number}.onnx")
            names.append(parse(str(tmp_path / f"{number}.onnx")))
        return port_into(tuple(names), tmp_path / out, **options), tmp_path / out

    return port


def outputs(file, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_the_file_is_the_second_network_with_the_first_ones_weights(ported, tmp_path):
    told, file = ported(unfolded, unfolded)
    assert told.verdict == "certified"
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)
    assert not np.array_equal(outputs(tmp_path / "0.onnx", x), outputs(tmp_path / "1.onnx", x))
    np.testing.assert_array_equal(outputs(file, x), outputs(tmp_path / "0.onnx", x))
    assert {move.to for move in told.moved.moves} == {
        "conv.1",
        *(f"norm.{n}" for n in (1, 2, 3, 4)),
        "last.1",
        "last.2",
    }
    assert all(move.change == "as it is" for move in told.moved.moves)
    assert not told.moved.kept


def test_a_network_in_another_layout_has_its_own_file(ported, tmp_path):
    told, file = ported(small, in_many_nodes, shapes=((2, 3, 9, 8), LAST))
    assert told.verdict == "certified"
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)
    found, wanted = outputs(file, x.transpose(0, 2, 3, 1)), outputs(tmp_path / "0.onnx", x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)  # the bound is the proof's; this reads the file
    assert json.loads(json.dumps(told.as_json()))["tensors"][0]["target"]


def test_what_differs_is_judged_and_the_file_is_there(ported):
    told, file = ported(small, changed("BatchNormalization", epsilon=1e-3))
    assert told.verdict == "diverged"
    assert file.exists()


def longer(add):
    """`folded` with a convolution between."""
    conv = add("Relu", "relu", add("Conv", "conv", "x", *random(4, 3, 3, 3)))
    more = add("Conv", "more", conv, *random(4, 4, 1, 1))
    return add.model(add("Conv", "last", more, *random(2, 4, 1, 1)))


def random(*shape):
    rng = np.random.default_rng(5)
    return rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape[0]).astype(np.float32)


def wider(add):
    conv = add("Relu", "relu", add("Conv", "conv", "x", *random(6, 3, 3, 3)))
    return add.model(add("Conv", "last", conv, *random(2, 6, 1, 1)))


REFUSED = {
    "a layer more in the first": (longer, folded, "out.onnx", "has nothing for more.1, the weight of more .Conv. of "),
    "a layer more in the second": (folded, longer, "out.onnx", "has nothing for more.1, in more .Conv., of "),
    "other shapes": (folded, wider, "out.onnx", "nothing"),
    "the file of another framework": (
        folded,
        folded,
        "out.pth",
        "out.pth is no name of a checkpoint of .*1.onnx.*must end in .onnx",
    ),
    "no checkpoint at all": (folded, folded, "out.zip", "out.zip is no name of a checkpoint of a model"),
    "a folder that is not there": (folded, folded, "none/out.onnx", "cannot write"),
}


@pytest.mark.parametrize(("first", "second", "out", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_take_the_weights_is_told_and_nothing_is_written(ported, tmp_path, first, second, out, told):
    with pytest.raises(TriptychError, match=told):
        ported(first, second, out)
    assert {file.name for file in tmp_path.iterdir()} == {"0.onnx", "1.onnx"}


def test_what_fits_is_written_by_force(ported):
    told, file = ported(longer, folded, force=True)
    assert file.exists()
    assert [sentence.partition(",")[0] for sentence in told.moved.without_place] == ["more.1", "more.2"]
    assert told.verdict == "diverged"


@pytest.mark.parametrize("options", [[], ["--to", "torch", "--into", "x.onnx"]])
def test_one_of_the_two_targets_is_asked_for(capsys, monkeypatch, options):
    monkeypatch.setattr(sys, "argv", ["triptych", "port", "some.onnx", "--out", "out.onnx", *options])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "give either --to FORMAT or --into MODEL" in capsys.readouterr().err


MINE = textwrap.dedent("""
    def torch_net():
        import torch
        from torch import nn
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(3, 4, (3, 5), bias=False), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(),
            nn.Flatten(), nn.Linear(4 * 7 * 4, 5),
        )
        model[1].running_var.uniform_(0.5, 1.5)
        model[1].running_mean.uniform_(-1, 1)
        return model

    def keras_net():
        import keras
        from keras import layers
        return keras.Sequential([
            keras.Input((9, 8, 3)), layers.Conv2D(4, (3, 5), use_bias=False),
            layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(5),
        ])
""")
FRAMEWORKS = [
    pytest.param("torch_net", "keras_net", "out.weights.h5", "1x3x9x8", marks=pytest.mark.slow),
    pytest.param("torch_net", "keras_net", "out.keras", "1x3x9x8", marks=pytest.mark.slow),
    pytest.param("keras_net", "torch_net", "out.safetensors", "1x9x8x3", marks=pytest.mark.slow),
    pytest.param("keras_net", "torch_net", "out.pth", "1x9x8x3", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("first", "second", "out", "shape"), FRAMEWORKS)
def test_from_one_framework_into_the_other(tmp_path, monkeypatch, first, second, out, shape):
    for name in ("torch", "keras", "onnxscript"):
        pytest.importorskip(name)
    monkeypatch.undo()  # each model in a process of its own
    (tmp_path / "mine.py").write_text(MINE)
    names = [parse(f"{tmp_path / 'mine.py'}:{name}") for name in (first, second)]
    told = port_into(tuple(names), tmp_path / out, shape=[int(size) for size in shape.split("x")])
    assert told.verdict == "certified"
    assert len(told.moved.moves) == 7
    assert not told.moved.kept
    assert {file.name for file in tmp_path.iterdir()} - {"__pycache__"} == {"mine.py", out}
