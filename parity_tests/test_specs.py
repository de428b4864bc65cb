"""Specifications against figures that come from outside this code."""

import subprocess
import sys

import pytest

from common import TriptychError, get_spec, list_architectures
from common.names import canonical_from_torch, keras_layer, tf1_layer, torch_layer
from common.specs.architecture import Conv, Dense, MaxPool, ReLU, chain

PUBLISHED_PARAMETERS = {
    "alexnet_bvlc": 60_965_224,  # the size of bvlc_alexnet.npy's float32 data, 243,860,896 bytes, over 4
}

ALEXNET_SHAPES = {
    "conv1": (96, 55, 55),
    "pool1": (96, 27, 27),
    "conv2": (256, 27, 27),
    "pool2": (256, 13, 13),
    "conv5": (256, 13, 13),
    "pool5": (256, 6, 6),
    "flatten": (9216,),
    "fc6": (4096,),
    "fc8": (1000,),
}

BVLC_NPY_SHAPES = {  # the file's own layout: convolutions H, W, in, out; dense in, out
    "conv1": (11, 11, 3, 96),
    "conv2": (5, 5, 48, 256),
    "conv3": (3, 3, 256, 384),
    "conv4": (3, 3, 192, 384),
    "conv5": (3, 3, 192, 256),
    "fc6": (9216, 4096),
    "fc7": (4096, 4096),
    "fc8": (4096, 1000),
}


@pytest.mark.parametrize("name", list_architectures())
def test_parameter_count_is_the_published_one(name):
    assert get_spec(name).parameter_count == PUBLISHED_PARAMETERS[name]


def test_alexnet_shapes():
    shapes = get_spec("alexnet_bvlc").shapes
    assert {name: shapes[name] for name in ALEXNET_SHAPES} == ALEXNET_SHAPES


def test_alexnet_parameters_are_those_of_bvlc_alexnet_npy():
    shapes = get_spec("alexnet_bvlc").parameter_shapes
    assert [name for name in shapes if name.endswith("/weight")] == [f"{layer}/weight" for layer in BVLC_NPY_SHAPES]
    for layer, shape in BVLC_NPY_SHAPES.items():
        canonical = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        assert shapes[f"{layer}/weight"] == canonical
        assert shapes[f"{layer}/bias"] == (shape[-1],)


def test_options_reach_the_layers():
    spec = get_spec("alexnet_bvlc", num_classes=7, image_size=(227, 251))
    assert spec.shapes["fc8"] == (7,)
    assert spec.shapes["conv1"] == (96, 55, 61)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (["alexnet_bvcl"], {}, "did you mean alexnet_bvlc"),
        (["alexnet_bvlc"], {"image_size": (224, 224)}, "256×5×5.*256×6×6"),
        (["alexnet_bvlc"], {"image_size": (10, 300)}, "conv1: a 11×11 window does not fit"),
        (["alexnet_bvlc"], {"image_size": (0, 5)}, "positive"),
        (["alexnet_bvlc"], {"num_classes": 0}, "at least one class"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(arguments, options, words):
    with pytest.raises(TriptychError, match=words) as caught:
        get_spec(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rule", [torch_layer, keras_layer, tf1_layer])
@pytest.mark.parametrize("name", list_architectures())
def test_naming_rules_are_injective(name, rule):
    layers = [layer.name for layer in get_spec(name).layers]
    assert len({rule(layer) for layer in layers}) == len(layers)


@pytest.mark.parametrize("name", list_architectures())
def test_canonical_names_are_identifiers_and_come_back_from_torch(name):
    for layer in get_spec(name).layers:
        assert all(part.isidentifier() for part in layer.name.split("/"))
        assert canonical_from_torch(torch_layer(layer.name)) == layer.name


def test_window_arithmetic():
    assert Conv(3, stride=(2, 1), padding=((0, 1), (1, 1)), filters=5, groups=2).output_shape((4, 6, 7)) == (5, 3, 7)
    assert Conv((3, 2), filters=6, groups=2).parameter_shapes((4, 6, 7)) == {"weight": (6, 2, 3, 2), "bias": (6,)}
    assert Conv(3, filters=6, groups=2).multiply_adds((4, 6, 7)) == 6 * 2 * 9 * 4 * 5
    assert MaxPool(3, stride=2).output_shape((4, 13, 9)) == (4, 6, 4)
    assert Dense(10).multiply_adds((84,)) == 840


def test_chain_links_each_layer_to_the_one_before():
    first, second = chain(("a", ReLU()), ("b", ReLU()), after="pool1")
    assert (first.inputs, second.inputs) == (("pool1",), ("a",))


@pytest.mark.parametrize("arguments", [["list"], ["show", "alexnet_bvlc"], ["--help"]])
def test_listing_imports_no_framework(arguments):
    code = (
        "import sys; from common.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "found = {'torch', 'keras', 'tensorflow', 'jax', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
