"""The variants of AlexNet against figures from their sources."""

import importlib

import numpy as np
import pytest
from conftest import daily, load_implementation, without_weights

from common import TriptychError, get_spec, random_weights
from common.operations import LRN, Conv

MAPS = {  # the side of the map after each convolution and pooling
    # Krizhevsky et al. 2012, figure 2: 55, 27, 13, 13, 13
    "alexnet_paper": {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv3": 13, "conv5": 13, "pool5": 6},
    "alexnet_tf_tutorial": {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv3": 13, "conv5": 13, "pool5": 6},
    "alexnet_single_tower": {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv5": 13, "pool5": 6},
    "alexnet_four_conv": {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv4": 13, "pool4": 6},
    # by hand: (28 − 3) // 2 + 1 = 13, (13 − 3) // 2 + 1 = 6, (6 − 3) // 2 + 1 = 2
    "alexnet_mnist": {"conv1": 28, "pool1": 13, "conv2": 13, "pool2": 6, "conv3": 6, "conv5": 6, "pool5": 2},
    # as the book prints them: 54, 26, 26, 12, 12, 12, 12, 5
    "alexnet_d2l": {"conv1": 54, "pool1": 26, "conv2": 26, "pool2": 12, "conv3": 12, "conv5": 12, "pool5": 5},
    # torchvision at 224×224: 55, 27, 27, 13, 13, 13, 13, 6
    "alexnet_owt": {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv3": 13, "conv5": 13, "pool5": 6},
}

FLATTENED = {"alexnet_mnist": 1024, "alexnet_d2l": 6400}
"""The others have the paper's 9216."""

FILTERS = {
    "alexnet_paper": [96, 256, 384, 384, 256],  # twice 48, 128, 192, 192, 128
    "alexnet_tf_tutorial": [96, 256, 384, 384, 256],
    "alexnet_single_tower": [96, 256, 384, 384, 256],
    "alexnet_four_conv": [96, 256, 384, 256],
    "alexnet_mnist": [96, 256, 384, 384, 256],
    "alexnet_d2l": [96, 256, 384, 384, 256],
    "alexnet_owt": [64, 192, 384, 256, 256],
}

TORCHVISION_SHAPES = {  # of alexnet-owt-7be5be79.pth: features.0, .3, .6, .8, .10 and classifier.1, .4, .6
    "conv1": (64, 3, 11, 11),
    "conv2": (192, 64, 5, 5),
    "conv3": (384, 192, 3, 3),
    "conv4": (256, 384, 3, 3),
    "conv5": (256, 256, 3, 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
    "fc8": (1000, 4096),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_the_sources(name):
    shapes = get_spec(name).shapes
    assert {layer: shapes[layer][1:] for layer in MAPS[name]} == {
        layer: (side, side) for layer, side in MAPS[name].items()
    }
    assert shapes["flatten"] == (FLATTENED.get(name, 9216),)


@pytest.mark.parametrize("name", MAPS)
def test_filters_are_the_sources(name):
    spec = get_spec(name)
    convolutions = [layer.operation for layer in spec.layers if isinstance(layer.operation, Conv)]
    assert [operation.filters for operation in convolutions] == FILTERS[name]
    assert [operation.groups for operation in convolutions] == (
        [1, 2, 1, 2, 2] if name in ("alexnet_paper", "alexnet_tf_tutorial") else [1] * len(convolutions)
    )
    assert (spec.shapes["fc6"], spec.shapes["fc7"]) == ((4096,), (4096,))


def test_the_papers_normalisation():
    """Section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75, and (k + alpha · Σ x²), nothing divided by n."""
    spec = get_spec("alexnet_paper")
    for layer in ("norm1", "norm2"):
        (operation,) = (found.operation for found in spec.layers if found.name == layer)
        assert operation == LRN(size=5, alpha=pytest.approx(5 * 1e-4), beta=0.75, k=2.0)


@pytest.mark.parametrize("name", ["alexnet_paper", "alexnet_tf_tutorial"])
def test_it_differs_from_bvlcs_in_its_normalisation_only(name):
    layers, bvlc = get_spec(name).layers, get_spec("alexnet_bvlc").layers
    differing = [ours.name for ours, theirs in zip(layers, bvlc, strict=True) if ours != theirs]
    assert differing == ["norm1", "norm2"]


DROPPING = {
    "alexnet_single_tower": 0,
    "alexnet_four_conv": 2,
    "alexnet_d2l": 2,
    "vgg16": 2,
    "vgg16_gap": 0,
    "vgg19_gap": 0,
}
"""How many dropouts the source of each has."""


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_is_where_the_source_has_it(name):
    rates = [layer.operation.rate for layer in get_spec(name).layers if layer.operation.kind == "Dropout"]
    assert rates == [0.5] * DROPPING[name]


def test_torchvisions_parameters_and_dropout():
    spec = get_spec("alexnet_owt")
    weights = {name: shape for name, shape in spec.parameter_shapes.items() if name.endswith("/weight")}
    assert weights == {f"{layer}/weight": shape for layer, shape in TORCHVISION_SHAPES.items()}
    classifier = [layer.operation.kind for layer in spec.layers[-8:]]
    assert classifier == ["Flatten", "Dropout", "Dense", "ReLU", "Dropout", "Dense", "ReLU", "Dense"]


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("alexnet_paper", (224, 224), "256×5×5.*256×6×6"),
        ("alexnet_d2l", (224, 300), "256×5×8.*256×5×5"),
        ("alexnet_mnist", (32, 32), "256×3×3.*256×2×2"),
        ("alexnet_owt", (256, 224), "256×7×6.*256×6×6"),
    ],
)
def test_the_flatten_fixes_the_image_size(name, size, words):
    with pytest.raises(TriptychError, match=words):
        get_spec(name, image_size=size)


def both_forms(name):
    """A network in Keras, functional and sequential."""
    load_implementation("keras_impl")
    catalogue = importlib.import_module("keras_impl.catalogue")
    module = importlib.import_module(catalogue.BUILDERS[name].__module__)
    return getattr(module, name)(), getattr(module, f"{name}_sequential")()


@pytest.mark.parametrize("name", daily("alexnet_paper", of=MAPS))
def test_keras_sequential_is_the_functional_model(name):
    load_implementation("keras_impl")
    with without_weights("keras_impl"):
        functional, sequential = both_forms(name)
    assert functional.name == sequential.name == name
    assert [layer.get_config() for layer in sequential.layers] == [
        layer.get_config() for layer in functional.layers[1:]
    ]


def test_keras_sequential_computes_what_the_functional_model_does():
    image = np.random.default_rng(0).standard_normal((3, 1, 28, 28), dtype=np.float32)
    outputs = []
    for model in both_forms("alexnet_mnist"):  # the small one
        importlib.import_module("keras_impl").load_weights(model, random_weights("alexnet_mnist"))
        outputs.append(importlib.import_module("keras_impl.backend").record(model, image))
    assert all(outputs[0][layer].tobytes() == outputs[1][layer].tobytes() for layer in outputs[0])
