"""Specifications against figures that come from outside this code."""

import subprocess
import sys

import pytest

from common import TriptychError, get_spec, list_architectures
from common.operations import Conv, Dense, MaxPool, ReLU
from common.operations.names import canonical_from_torch, keras_layer, tf1_layer, torch_layer
from common.specs.architecture import chain

PUBLISHED_PARAMETERS = {
    "lenet5": 156 + 12 + 2_416 + 32 + 48_120 + 10_164 + 850,  # layer by layer in LeCun et al. 1998; output dense
    "lenet5_sparse": 156 + 12 + 1_516 + 32 + 48_120 + 10_164 + 850,
    "lenet_caffe": 520 + 25_050 + 1_600_500 + 5_010,
    "lenet_bvlc": 520 + 25_050 + 400_500 + 5_010,  # 431,080, as in many write-ups of Caffe's example
    "caffenet": 60_965_224,  # as BVLC's AlexNet: only the order of pools and normalisations is another
    "alexnet_bvlc": 60_965_224,  # the size of bvlc_alexnet.npy's float32 data, 243,860,896 bytes, over 4
    "vgg11": 132_863_336,  # torchvision's documentation, here and for vgg13
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,  # the paper says 138 million; keras.applications, here and for vgg19
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,  # torchvision's documentation, as the next three
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "vgg16_gap": 14_714_688 + 512 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000,  # VGG16 without its top, …
    "vgg19_gap": 20_024_384 + 512 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000,
    "googlenet": 6_998_552 + 3_188_840 + 3_190_888,  # keras and Caffe ports agree on the first; see test_googlenet.py
    "googlenet_tutorial": 13_354_200,  # counted in the tutorial's own model, with both heads
    "googlenet_bn": 13_004_888,  # torchvision's with both heads; 6,624,904 in its documentation, without
    "alexnet_paper": 60_965_224,  # as BVLC's: the same towers
    "alexnet_tf_tutorial": 60_965_224,  # BVLC's, which it loads
    "alexnet_single_tower": 62_378_344,  # as counted in many write-ups
    "alexnet_four_conv": 62_378_344 - 1_327_488,  # less 384 filters of 384·3·3 weights and a bias
    "alexnet_mnist": 11_712 + 614_656 + 885_120 + 1_327_488 + 884_992 + 4_198_400 + 16_781_312 + 40_970,  # by hand
    "alexnet_d2l": 11_712 + 614_656 + 885_120 + 1_327_488 + 884_992 + 26_218_496 + 16_781_312 + 40_970,  # by hand
    "alexnet_owt": 61_100_840,  # torchvision's documentation
    "resnet18": 11_689_512,  # torchvision's documentation, as the next four
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet50_v1_5": 25_557_032,  # the stride has no weights
    "resnet101_v1_5": 44_549_160,
    "resnet152_v1_5": 60_192_808,
    "resnet18_tutorial": 11_689_512 + 4_800,  # a bias for each filter: half of what BN has
    "resnet34_tutorial": 21_797_672 + 8_512,
    "resnet50_tutorial": 25_636_712 - 53_120,  # keras.applications' total less its stored statistics, as the next two
    "resnet101_tutorial": 44_707_176 - 105_344,
    "resnet152_tutorial": 60_419_944 - 151_424,
    "densenet121": 7_978_856,  # torchvision's documentation, as the next three
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
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
        "import sys; from common.cli.commands import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'keras', 'tensorflow', 'jax', 'onnx', 'onnxruntime', 'numpy._core', 'pydantic'}\n"
        "found = heavy & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
