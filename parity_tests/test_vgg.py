"""VGG against the paper's Table 1 and against keras.applications."""

import re
from math import prod

import numpy as np
import pytest
from conftest import daily, load_implementation, without_weights

from common import TriptychError, get_spec, layouts, list_architectures
from common.probes import sparse_probe

NAMES = list_architectures("vgg*")

AFTER_EACH_BLOCK = {
    "pool1": (64, 112, 112),
    "pool2": (128, 56, 56),
    "pool3": (256, 28, 28),
    "pool4": (512, 14, 14),
    "pool5": (512, 7, 7),
}

CONVOLUTIONS = {"vgg11": 8, "vgg13": 10, "vgg16": 13, "vgg19": 16}
"""The weight layers of configurations A, B, D and E less the three dense ones."""

WITHOUT_TOP = {"vgg16": 14_714_688, "vgg16_gap": 14_714_688, "vgg19": 20_024_384, "vgg19_gap": 20_024_384}
"""Parameters of keras.applications' VGG16 and VGG19 with include_top=False."""


@pytest.mark.parametrize("name", NAMES)
def test_table_1(name):
    spec = get_spec(name)
    assert {layer: spec.shapes[layer] for layer in AFTER_EACH_BLOCK} == AFTER_EACH_BLOCK
    convolutions = [layer for layer in spec.layers if layer.operation.kind == "Conv"]
    assert len(convolutions) == CONVOLUTIONS[re.sub("_(gap|bn)", "", name)]
    assert {(layer.operation.kernel, layer.operation.padding) for layer in convolutions} == {(3, 1)}
    normalised = [layer.inputs[0] for layer in spec.layers if layer.operation.kind == "BatchNorm"]
    assert normalised == ([layer.name for layer in convolutions] if name.endswith("_bn") else [])


@pytest.mark.parametrize("name", WITHOUT_TOP)
def test_parameters_without_top(name):
    shapes = get_spec(name).parameter_shapes
    assert sum(prod(shape) for parameter, shape in shapes.items() if parameter.startswith("conv")) == WITHOUT_TOP[name]


def test_image_sizes():
    with pytest.raises(TriptychError, match=r"layer flatten: .* is 512×8×7, but .* 512×7×7"):
        get_spec("vgg16", image_size=(256, 224))
    spec = get_spec("vgg16_gap", image_size=(64, 96))
    assert (spec.shapes["pool5"], spec.shapes["flatten"]) == ((512, 2, 3), (512,))
    with pytest.raises(TriptychError, match="pool5: a 2×2 window does not fit"):
        get_spec("vgg16_gap", image_size=(31, 96))


@pytest.mark.parametrize("name", daily("vgg16_gap", of=NAMES))
def test_keras_sequential_is_the_functional_model(name):
    load_implementation("keras_impl")
    from keras_impl import vgg

    functional, sequential = getattr(vgg, name), getattr(vgg, f"{name}_sequential")
    with without_weights("keras_impl"):
        configurations = [
            [layer.get_config() for layer in build(num_classes=7, image_size=(32, 32)).layers]
            for build in (functional, sequential)
        ]
    assert configurations[0][1:] == configurations[1]  # the functional model lists its input as a layer


@pytest.mark.parametrize(
    ("theirs", "options", "ours", "image_size", "last"),
    [
        pytest.param(*("VGG16", {"classifier_activation": None}, "vgg16", (224, 224), "fc8"), marks=pytest.mark.slow),
        ("VGG19", {"include_top": False, "input_shape": (64, 96, 3)}, "vgg19_gap", (64, 96), "pool5"),
    ],
)
def test_keras_applications_is_the_same_function(theirs, options, ours, image_size, last):
    """The same integer weights and images in, the same bits out, through a network that nobody here has written."""
    load_implementation("keras_impl")
    import keras

    probe = sparse_probe(get_spec(ours, image_size=image_size), batch=1)
    model = getattr(keras.applications, theirs)(weights=None, **options)
    for layer in model.layers:
        if layer.weights:
            name = canonical_name(layer.name)
            weight, bias = probe.weights[f"{name}/weight"], probe.weights[f"{name}/bias"]
            flattened = (7, 7, 512) if name == "fc6" else None
            kernel = layouts.conv_to_hwio(weight) if weight.ndim == 4 else layouts.dense_to_io(weight, flattened)
            layer.set_weights([kernel, bias])
    output = keras.ops.convert_to_numpy(model(layouts.to_channels_last(probe.image)))
    assert np.array_equal(layouts.to_channels_first(output), probe.expected[last])
    assert len(np.unique(output)) > 500


def canonical_name(theirs):
    dense = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}
    return dense.get(theirs) or re.sub(r"block(\d)_conv(\d)", r"conv\1_\2", theirs)
