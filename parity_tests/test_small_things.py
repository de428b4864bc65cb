"""What a user sees: pictures the right way up and as bright as they are, tables that fit, sentences that are true."""

import io
import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
from rich.console import Console

from common import TriptychError, get_spec
from common.cli.verdicts import print_network, print_verdict
from common.operations import Conv
from common.parity.gradients import GradientVerdict, by_layer
from common.parity.judge import judge
from common.parity.results import BackendResult, Run
from common.parity.verdicts import DIVERGED, IDENTICAL, LayerVerdict
from common.probes import Probe
from common.process.sparing import SPARED
from common.specs.architecture import IMAGE, Architecture, Layer
from common.specs.photographs import read_photograph

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (5, 7)).astype(np.uint8)


def saved(tmp_path, picture, name="a.png", **options):
    picture.save(tmp_path / name, **options)
    return np.asarray(read_photograph(tmp_path / name))


@pytest.fixture
def image():
    return pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_as_bright_as_eight(tmp_path, image, name):
    pixels = saved(tmp_path, image.fromarray(GREY.astype(np.uint16) * 257), name)
    assert (pixels == GREY[..., None]).all()
    between = saved(tmp_path, image.fromarray(np.uint16([[0, 128, 129, 65535]])), name)
    assert between[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(("dtype", "what"), [(np.int32, "integers of 32 bits"), (np.float32, "floating-point numbers")])
def test_pixels_of_unknown_range_are_refused(tmp_path, image, dtype, what):
    with pytest.raises(TriptychError, match=f"a.tif are {what}, of which white is unknown; save it with 8 or 16 bits"):
        saved(tmp_path, image.fromarray(GREY.astype(dtype)), "a.tif")


def test_what_is_transparent_lies_on_white(tmp_path, image):
    alpha = np.uint8([[0, 255]])
    rgba = np.dstack([np.uint8([[[10, 20, 30], [10, 20, 30]]]), alpha])
    expected = [[[255, 255, 255], [10, 20, 30]]]
    assert saved(tmp_path, image.fromarray(rgba)).tolist() == expected
    la = image.merge("LA", [image.fromarray(np.uint8([[10, 10]])), image.fromarray(alpha)])
    assert saved(tmp_path, la)[0, :, 0].tolist() == [255, 10]
    palette = image.fromarray(np.uint8([[0, 1]]), "P")
    palette.putpalette([10, 20, 30, 10, 20, 30])
    assert saved(tmp_path, palette, transparency=0).tolist() == expected


def test_other_modes_are_read_as_their_colours(tmp_path, image):
    assert saved(tmp_path, image.fromarray(GREY))[..., 1].tolist() == GREY.tolist()
    assert saved(tmp_path, image.fromarray(GREY > 127))[..., 2].tolist() == np.where(GREY > 127, 255, 0).tolist()
    assert saved(tmp_path, image.new("CMYK", (1, 1), (0, 255, 255, 0)), "a.tif").tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_seen_the_way_up_that_exif_says(tmp_path, image, orientation):
    """EXIF's table: where the first row and the first column of what is stored lie in what is seen."""
    seen = np.stack([GREY] * 3, axis=2)
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.transpose(1, 0, 2),
        6: seen.transpose(1, 0, 2)[::-1],
        7: seen.transpose(1, 0, 2)[::-1, ::-1],
        8: seen.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = image.Exif()
    exif[0x0112] = orientation
    found = saved(tmp_path, image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert found.tolist() == seen.tolist()


def printed(print_it, runs, width):
    console = Console(file=io.StringIO(), width=width)
    print_it(console, runs)
    return console.file.getvalue()


def test_sixteen_probes_are_told_in_full():
    names = [f"photograph-{number}.jpg" for number in range(16)]
    rows = [
        BackendResult(backend, "ok", "certified", layers=[LayerVerdict("c1", "certified")])
        for backend in ("torch", "tf1")
    ]
    runs = [Run("lenet5", name, {}, rows) for name in names] + [Run("lenet_caffe", name, {}, rows) for name in names]
    for print_it, some in ((print_network, runs[:16]), (print_verdict, runs)):
        for width in (80, 120, 400):
            text = printed(print_it, some, width)
            assert "…" not in text
            assert all(text.count(name) == 1 for name in names)
            assert text.count("certified") >= 32
            assert max(map(len, text.splitlines())) <= width
    assert printed(print_network, runs[:16], 400).count("backend") == 1


def test_what_is_stored_is_not_called_a_gradient():
    group = [
        GradientVerdict("bn1", DIVERGED, what="bn1/gamma"),
        GradientVerdict("bn1", DIVERGED, what="bn1/mean"),
        GradientVerdict("bn1", IDENTICAL, what="bn1/variance"),
        GradientVerdict("bn2", DIVERGED, what="bn2/variance"),
    ]
    assert [verdict.cause for verdict in by_layer(group)] == [
        "the gradient with respect to bn1/gamma; what is stored as bn1/mean",
        "what is stored as bn2/variance",
    ]


@pytest.mark.parametrize(("filters", "wrong", "told"), [(6, 1, True), (6, 2, False), (16, 2, True), (2, 1, False)])
def test_a_few_wrong_channels_are_counted_in_small_layers_too(filters, wrong, told):
    operation = Conv(3, filters=filters)
    x = GENERATOR.standard_normal((1, 2, 8, 9)).astype(np.float32)
    weights = {
        "c/weight": GENERATOR.standard_normal((filters, 2, 3, 3)).astype(np.float32),
        "c/bias": GENERATOR.standard_normal(filters).astype(np.float32),
    }
    spec = Architecture("tiny", "tiny", "", 2025, "", (2, 8, 9), (Layer("c", operation, (IMAGE,)),), {"logits": "c"})
    from common.operations import evaluate
    from common.operations.names import parameters_of

    output = evaluate(operation, [x], parameters_of("c", weights)).value.astype(np.float32)
    output[:, :wrong] += GENERATOR.standard_normal(output[:, :wrong].shape).astype(np.float32)
    (verdict,) = judge(spec, Probe("random", weights, x), {"c": output})
    assert (f"only {wrong} of {filters} channels differ" in str(verdict.cause)) == told


def test_another_dtype_is_called_that():
    spec = get_spec("lenet5")
    recorded = {layer.name: np.zeros((1, *spec.shapes[layer.name]), np.float16) for layer in spec.layers}
    first = judge(spec, Probe("random", {}, np.zeros((1, 1, 32, 32), np.float32)), recorded)[0]
    assert (first.name, first.cause) == ("c1", "c1 is float16, expected float32")


def test_a_framework_is_spared_a_library_and_nobody_else_is(monkeypatch):
    monkeypatch.setitem(SPARED, "keras.src.wrappers.*", "colorsys")
    for importer in ("keras.src.layers", "mine"):
        monkeypatch.delitem(sys.modules, "colorsys", raising=False)
        exec("import colorsys", {"__name__": importer})
    monkeypatch.delitem(sys.modules, "colorsys")
    with pytest.raises(ModuleNotFoundError, match=r"keras.src.wrappers.fixes is spared colorsys in this process"):
        exec("import colorsys", {"__name__": "keras.src.wrappers.fixes"})


def test_where_a_users_model_is_loaded_keras_itself_is_spared_a_library_and_tensorflow_is_not():
    code = """
        import sys
        from common.process.sparing import KERAS, spare_imports
        spare_imports(KERAS)
        import keras, tensorflow
        assert tensorflow.keras.layers.Dense is keras.layers.Dense
        print({"sklearn", "matplotlib"} & set(sys.modules))
    """
    assert subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True).stdout == "set()\n"
