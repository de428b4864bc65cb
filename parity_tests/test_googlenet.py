"""GoogLeNet against the paper's Table 1 and published parameter counts; its auxiliary heads by name."""

from math import prod

import numpy as np
import pytest
from conftest import daily, load_implementation

from common import TriptychError, get_spec, layouts, list_architectures, random_weights
from common.operations import AdaptiveAveragePool

NAMES = list_architectures("googlenet*")

TABLE_1 = {
    "conv1": (64, 112, 112),
    "pool1": (64, 56, 56),
    "conv2": (192, 56, 56),
    "pool2": (192, 28, 28),
    "inception_3a/output": (256, 28, 28),
    "inception_3b/output": (480, 28, 28),
    "pool3": (480, 14, 14),
    "inception_4a/output": (512, 14, 14),
    "inception_4b/output": (512, 14, 14),
    "inception_4c/output": (512, 14, 14),
    "inception_4d/output": (528, 14, 14),
    "inception_4e/output": (832, 14, 14),
    "pool4": (832, 7, 7),
    "inception_5a/output": (832, 7, 7),
    "inception_5b/output": (1024, 7, 7),
    "pool5": (1024, 1, 1),
    "fc": (1000,),
    # Section 5: 4×4×512 and 4×4×528 after the averages of the heads.
    "aux1/pool": (512, 4, 4),
    "aux2/pool": (528, 4, 4),
}

MILLIONS_OF_MULTIPLY_ADDS = {
    "conv2": 360,
    "inception_3a": 128,
    "inception_3b": 304,
    "inception_4a": 73,
    "inception_4b": 88,
    "inception_4c": 100,
    "inception_4d": 119,
    "inception_4e": 170,
    "inception_5b": 71,
    "fc": 1,
}
"""The `ops` of Table 1. Two rows contradict the others' columns and are left out: conv1, whose 2.7K parameters are not
7·7·3·64, and 5a, whose filters make 51M, not 54M."""


TUTORIAL = {
    "inception_4d/output": (512, 14, 14),
    "aux2/pool": (512, 4, 4),
    "pool5": (1024, 4, 4),
    "avg_pool": (1024, 1, 1),
}
"""Where the maps of the tutorial are not the paper's."""


@pytest.mark.parametrize("name", NAMES)
def test_table_1(name):
    expected = TABLE_1 | TUTORIAL if name == "googlenet_tutorial" else TABLE_1
    assert {layer: get_spec(name).shapes[layer] for layer in expected} == expected


def test_multiply_adds_are_those_of_table_1():
    spec = get_spec("googlenet")
    found = dict.fromkeys(MILLIONS_OF_MULTIPLY_ADDS, 0.0)
    for layer in spec.layers:
        module = layer.name.split("/")[0].removesuffix("_reduce")
        if module in found:
            found[module] += layer.operation.multiply_adds(*spec.input_shapes(layer)) / 1e6
    # The paper sometimes rounds and sometimes cuts.
    assert {name: value for name, value in MILLIONS_OF_MULTIPLY_ADDS.items() if abs(found[name] - value) >= 1} == {}


def parameters(name, prefixes):
    return sum(
        prod(shape)
        for parameter, shape in get_spec(name).parameter_shapes.items()
        if parameter.startswith(prefixes) and not parameter.endswith(("/mean", "/variance"))
    )


MAIN_PATH = ("conv", "bn", "inception", "fc")


def test_parameters():
    assert parameters("googlenet", MAIN_PATH) == 6_998_552
    assert parameters("googlenet_bn", MAIN_PATH) == 6_624_904  # torchvision's documentation
    assert parameters("googlenet", ("aux1",)) == (512 + 1) * 128 + (2048 + 1) * 1024 + (1024 + 1) * 1000
    assert parameters("googlenet", ("aux2",)) == (528 + 1) * 128 + (2048 + 1) * 1024 + (1024 + 1) * 1000
    # The tutorial has 48 filters of 5×5 in 4d, not 64, which a head and four branches read.
    assert parameters("googlenet_tutorial", MAIN_PATH) == 6_998_552 - 16 * (32 * 25 + 1) - 16 * (256 + 160 + 32 + 128)
    assert parameters("googlenet_tutorial", ("aux1",)) == parameters("googlenet", ("aux1",))
    assert parameters("googlenet_tutorial", ("aux2",)) == parameters("googlenet", ("aux1",))


def test_image_sizes():
    spec = get_spec("googlenet", image_size=(256, 224))
    assert (spec.shapes["pool4"], spec.shapes["aux1/flatten"]) == ((832, 8, 7), (2048,))
    for size in ((208, 224), (224, 272)):
        with pytest.raises(TriptychError, match=r"layer aux1/flatten: .*128×4×4"):
            get_spec("googlenet", image_size=size)


def test_torchvision_averages_its_heads_over_other_windows():
    """Four adaptive windows of 14 pixels are 4 wide, where the paper's are 5."""
    load_implementation("torch_impl")
    import torch
    from torch.nn import functional

    row = torch.arange(14.0).reshape(1, 1, 1, 14)
    assert functional.avg_pool2d(row, (1, 5), stride=3).flatten().tolist() == [2, 5, 8, 11]
    means = functional.adaptive_avg_pool2d(row, (1, 4)).flatten().tolist()
    assert means == [sum(range(*window)) / 4 for window in AdaptiveAveragePool(4).windows(14)]
    with pytest.raises(TriptychError, match="15 pixels give 4 adaptive windows of different sizes"):
        AdaptiveAveragePool(4).output_shape((3, 14, 15))


@pytest.fixture(scope="module", params=daily("googlenet", of=NAMES))
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def weights(architecture):
    return random_weights(architecture, seed=5, num_classes=7)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(5).standard_normal((2, 3, 224, 224), dtype=np.float32)


def outputs_of(architecture, recorded):
    """The recorded layers that give the specified outputs."""
    return {name: recorded[layer] for name, layer in get_spec(architecture).outputs.items()}


def assert_same(heads, recorded):
    assert heads.keys() == recorded.keys() == {"logits", "aux1", "aux2"}
    for name, array in heads.items():
        assert array.shape == (2, 7)
        assert np.array_equal(array, recorded[name]), name


def test_heads_by_name_in_torch(architecture, weights, image):
    """Only logits in evaluation mode; by name with `auxiliary`, and while training."""
    torch_impl = load_implementation("torch_impl")
    import torch

    from torch_impl.backend import record

    model = torch_impl.build(architecture, num_classes=7)
    torch_impl.load_weights(model, weights)
    recorded = outputs_of(architecture, record(model, image))
    assert not model.auxiliary
    with torch.no_grad():
        logits = model(torch.from_numpy(image))
        model.auxiliary = True
        heads = model(torch.from_numpy(image))
        model.auxiliary = False
        trained = model.train()(torch.from_numpy(image))
    assert np.array_equal(logits.numpy(), recorded["logits"])
    assert_same({name: head.numpy() for name, head in heads.items()}, recorded)
    assert list(trained) == ["logits", "aux1", "aux2"]


def test_heads_by_name_in_keras(architecture, weights, image):
    """Always, as a dict; a model that ends in logits shares the layers."""
    keras_impl = load_implementation("keras_impl")
    import keras

    from keras_impl.backend import record

    model = keras_impl.build(architecture, num_classes=7)
    keras_impl.load_weights(model, weights)
    recorded = outputs_of(architecture, record(model, image))
    pixels = layouts.to_channels_last(image)
    assert_same({name: keras.ops.convert_to_numpy(head) for name, head in model(pixels).items()}, recorded)
    alone = keras.Model(model.input, model.output["logits"])
    assert np.array_equal(keras.ops.convert_to_numpy(alone(pixels)), recorded["logits"])
    assert not [layer.name for layer in alone.layers if layer.name.startswith("aux")]


def test_heads_by_name_in_tf1(architecture, weights, image):
    """`logits:0` and the heads' last layers; only what is fetched is computed."""
    tf1_style_impl = load_implementation("tf1_style_impl")
    from tf1_style_impl.backend import record
    from tf1_style_impl.graph import heads_of

    with tf1_style_impl.build(architecture, num_classes=7) as session:
        tf1_style_impl.load_weights(session, weights)
        recorded = outputs_of(architecture, record(session, image))
        heads = heads_of(session.graph)
        assert {name: tensor.name for name, tensor in heads.items()} == {
            "logits": "logits:0",
            "aux1": "aux1/classifier:0",
            "aux2": "aux2/classifier:0",
        }
        assert_same(session.run(heads, {"images:0": layouts.to_channels_last(image)}), recorded)


def test_tf1_heads_drop_what_the_paper_drops():
    """One placeholder for two rates: fed the 0.6 that the classifier keeps, the heads keep 0.3."""
    tf1_style_impl = load_implementation("tf1_style_impl")
    with tf1_style_impl.build("googlenet", num_classes=7) as session:
        ones = {"flatten:0": np.ones((64, 1024)), "aux1/relu_fc:0": np.ones((64, 1024))}
        kept = session.run(["drop:0", "aux1/drop:0"], {"keep_prob:0": 0.6, **ones})
    # Of 65,536 values, the share that is kept has a standard deviation of 0.002.
    assert np.mean(kept[0] != 0) == pytest.approx(0.6, abs=0.01)
    assert np.mean(kept[1] != 0) == pytest.approx(0.3, abs=0.01)
