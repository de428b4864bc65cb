"""The input of the random probe from a file: an array, or an image."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from common import TriptychError  # noqa: E402
from common.cli import main  # noqa: E402
from common.prove.input_files import as_input, read_picture  # noqa: E402
from common.prove.models import parse  # noqa: E402
from common.prove.proof import Request, preprocessing_of, prove  # noqa: E402
from common.specs.photographs import photograph, preprocess  # noqa: E402
from parity_tests.test_prove import Builder, normal, vision  # noqa: E402

IMAGES = normal(2, 3, 13, 15)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model of images, and files."""
    monkeypatch.chdir(tmp_path)
    onnx.save(vision(), "mine.onnx")
    np.save("images.npy", IMAGES)
    np.save("last.npy", IMAGES.transpose(0, 2, 3, 1))
    np.save("small.npy", IMAGES[:, :, 1:])
    np.save("long.npy", IMAGES.astype(np.float64))
    np.savez("several.npz", one=IMAGES)
    (tmp_path / "several.npz").rename("several.npy")
    photograph(0).save("cat.png")
    add = Builder(2, 5)
    onnx.save(add.model(add("Softmax", "s", "x")), "numbers.onnx")
    graph = add.model(add("Add", "a", "x", "y"))
    graph.graph.input.append(onnx.helper.make_tensor_value_info("y", 1, [2, 5]))
    onnx.save(graph, "two.onnx")
    return tmp_path


@pytest.mark.parametrize(("file", "value"), [("images.npy", IMAGES), ("last.npy", IMAGES), ("cat.png", None)])
def test_what_a_file_holds_is_what_the_model_is_run_on(folder, file, value):
    (run,) = prove([parse("mine.onnx")], Request(("random",), picture=read_picture(file), keep=True))
    assert run.verdict == "certified"
    if value is None:
        value = as_input(photograph(0), IMAGES.shape, "mine.onnx")
        assert value.min() >= -1
        assert value.max() <= 1
        assert np.array_equal(value[0], value[1])
    session = onnxruntime.InferenceSession("mine.onnx")
    assert np.allclose(run.recorded["onnxruntime"]["fc_out"], session.run(None, {"x": value})[0][0], rtol=1e-4)


def test_an_image_is_prepared_as_the_model_of_the_catalogue_wants_it():
    from common.specs import get_spec

    spec = get_spec("alexnet_bvlc")
    recipe = preprocessing_of(parse("keras_impl:alexnet_bvlc"))
    prepared = as_input(photograph(1), (1, *spec.input_shape[1:], 3), "alexnet_bvlc", recipe)
    assert np.array_equal(prepared[0].transpose(2, 0, 1), preprocess(photograph(1), spec))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mine.onnx", "--probe", "none.npy"], "or a file with the input of the random probe"),
        (["mine.onnx", "--probe", "small.npy"], "takes x of shape 2×3×13×15, not 2×3×12×15"),
        (["mine.onnx", "--probe", "long.npy"], "long.npy holds float64, expected float32"),
        (["mine.onnx", "--probe", "several.npy"], "several.npy holds several arrays"),
        (["mine.onnx", "--probe", "mine.onnx"], "mine.onnx is not an image"),
        (["mine.onnx", "--probe", "images.npy", "--probe", "cat.png"], "both give the random probe's input"),
        (["mine.onnx", "--probe", "images.npy", "--input", "x=images.npy"], "leave it out, or leave out --input"),
        (["numbers.onnx", "--probe", "cat.png"], "numbers.onnx takes 2×5, which is no image; give a .npy file"),
        (["two.onnx", "--probe", "images.npy"], "takes x, y; give each with --input NAME=FILE.npy"),
    ],
)
def test_a_file_that_does_not_fit_is_told_in_a_sentence(folder, monkeypatch, capsys, arguments, told):
    monkeypatch.setattr("sys.argv", ["triptych", "prove", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_an_array_of_more_inputs_than_one_is_refused():
    with pytest.raises(TriptychError, match="--probe FILE holds one number, but mine takes 2×5"):
        as_input(np.zeros((), np.float32), (2, 5), "mine")


@pytest.mark.slow
def test_a_network_of_the_catalogue_in_tensorflow_1_style_is_its_export(folder):
    pytest.importorskip("tensorflow")
    (run,) = prove([parse("tf1_style_impl:lenet5")], Request(("random",), picture=read_picture("cat.png")))
    assert run.verdict == "certified"
    assert [row.backend for row in run.backends][:2] == ["onnxruntime", "onnxruntime-optimised"]


def test_the_mask_of_a_dropout_is_not_asked_for(tmp_path):
    """Files of old exporters name it, and ONNX Runtime does not fill it in."""
    add = Builder(2, 5, opset=9)
    model = add.model(add("Relu", "r", add("Dropout", "d", "x")))
    model.ir_version = 3
    model.graph.node[0].output.append("mask")
    onnx.save(model, tmp_path / "mine.onnx")
    (run,) = prove([parse(str(tmp_path / "mine.onnx"))], Request(("random",)))
    assert run.verdict == "identical"
