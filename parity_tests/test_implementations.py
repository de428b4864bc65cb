"""The three implementations: the same names, the same shapes, the same weights, the same numbers."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import IMPLEMENTATIONS, load_implementation

from common import TriptychError, get_spec, layouts, list_architectures, random_weights
from common.layouts import conv_from_hwio, conv_to_hwio, to_channels_first, to_channels_last
from common.parity.judge import judge
from common.parity.verdicts import CERTIFIED, DIVERGED, overall
from common.probes import Probe, exact_probe
from common.specs.seeded import initial_weights
from parity_tests.injection import imported_with, specification, unchanged

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=["lenet_caffe", pytest.param("alexnet_bvlc", marks=pytest.mark.slow)])
def architecture(request):
    """A small chain and the showpiece, whole; test_catalogue.py has the others."""
    return request.param


@pytest.fixture(scope="module")
def model(implementation, architecture):
    return implementation.build(architecture)


@pytest.fixture(scope="module")
def weights(architecture):
    return random_weights(architecture, seed=3)


def recorder(implementation):
    return importlib.import_module(f"{implementation.__name__}.backend").record


def test_what_goes_in_comes_out_bit_for_bit(implementation, model, weights, architecture):
    implementation.load_weights(model, weights)
    found = implementation.read_weights(model)
    assert found.keys() == get_spec(architecture).parameter_shapes.keys()
    for name, array in weights.items():
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


def test_what_is_written_into_the_arrays_later_does_not_reach_the_model(implementation):
    """Also where they lie as TensorFlow wants them, and it takes them as they are."""
    model, given = implementation.build("lenet5"), random_weights("lenet5", seed=4)
    mine = {name: layouts.apart_from(array, array) for name, array in given.items()}
    assert {array.ctypes.data % 64 for array in mine.values()} == {0}
    implementation.load_weights(model, mine)
    for array in mine.values():
        array += 1
    found = implementation.read_weights(model)
    assert {name for name, array in found.items() if array.tobytes() != given[name].tobytes()} == set()


def test_bad_weights_change_nothing(implementation, model, weights):
    implementation.load_weights(model, weights)
    last = list(weights)[-1]
    for bad in (
        {**weights, last: weights[last][..., :-1]},
        {**weights, last: weights[last] * np.nan},
        {name: -array for name, array in weights.items() if name != last},
    ):
        with pytest.raises(TriptychError, match=last):
            implementation.load_weights(model, bad)
    assert implementation.read_weights(model)[last].tobytes() == weights[last].tobytes()


def test_skipped_layers_keep_what_they_hold(implementation):
    model = implementation.build("lenet_caffe", num_classes=7)
    before = implementation.read_weights(model)
    weights = random_weights("lenet_caffe", seed=5)  # fc2 for 10 classes, which this model has not
    implementation.load_weights(model, weights, skip=["fc2"])
    after = implementation.read_weights(model)
    assert (after["fc2/weight"] == before["fc2/weight"]).all()
    assert (after["fc1/weight"] == weights["fc1/weight"]).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_every_layer_is_the_specified_one(implementation, model, weights, architecture, batch):
    """On small random numbers, so that neither shapes nor values can be right by symmetry."""
    implementation.load_weights(model, weights)
    spec = get_spec(architecture)
    image = np.random.default_rng(batch).standard_normal((batch, *spec.input_shape), dtype=np.float32) * 30
    recorded = recorder(implementation)(model, image)
    assert {name: array.shape[1:] for name, array in recorded.items()} == {
        layer.name: spec.shapes[layer.name] for layer in spec.layers
    }
    probe = Probe("random", weights, image)
    verdicts = judge(spec, probe, recorded)
    assert len(verdicts) == len(spec.layers)
    assert overall(verdicts, probe) == CERTIFIED


def test_a_non_square_image(implementation):
    spec = specification("alexnet_bvlc", image_size=(227, 251))
    probe = exact_probe(spec, batch=1)
    with imported_with(unchanged(implementation.__name__, "alexnet_bvlc")) as backend:
        model = backend.build("alexnet_bvlc", image_size=(227, 251))
        backend.load_weights(model, probe.weights)
        recorded = backend.record(model, probe.image, probe.injected)
    assert not [verdict for verdict in judge(spec, probe, recorded) if verdict.verdict == DIVERGED]


def test_keras_sequential_is_the_functional_model():
    load_implementation("keras_impl")
    weights = initial_weights(specification("alexnet_bvlc"), seed=0)
    image = np.random.default_rng(0).standard_normal((1, 3, 227, 227), dtype=np.float32)
    with imported_with(unchanged("keras_impl", "alexnet_bvlc")) as backend:
        alexnet = importlib.import_module("keras_impl.alexnet")
        functional, sequential = alexnet.alexnet_bvlc(), alexnet.alexnet_bvlc_sequential()
        assert [type(layer) for layer in sequential.layers] == [type(layer) for layer in functional.layers[1:]]
        outputs = []
        for model in (functional, sequential):
            backend.load_weights(model, weights)
            outputs.append(backend.record(model, image)["fc8"])
    assert outputs[0].tobytes() == outputs[1].tobytes()


def test_keras_lrn_is_serialisable():
    load_implementation("keras_impl")
    import keras

    from keras_impl.layers import LocalResponseNormalization

    layer = LocalResponseNormalization(size=3, alpha=2e-3, beta=0.5, k=2.0, name="norm")
    model = keras.Sequential([keras.layers.Input((2, 3, 5)), layer])
    again = keras.Sequential.from_config(model.get_config())
    assert again.layers[0].get_config() == layer.get_config()
    with pytest.raises(ValueError, match="odd"):
        LocalResponseNormalization(size=4)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_tf1_grouped_convolution_is_that_of_torch(groups):
    load_implementation("tf1_style_impl")
    import tensorflow.compat.v1 as tf
    import torch

    from tf1_style_impl.layers import conv

    generator = np.random.default_rng(groups)
    image = generator.integers(-9, 10, (3, 8, 7, 9)).astype(np.float32)
    weight = generator.integers(-9, 10, (12, 8 // groups, 3, 3)).astype(np.float32)
    drive = generator.integers(-3, 4, (3, 12, 4, 5)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.constant(to_channels_last(image))
        y = conv(x, 3, 12, stride=2, padding=1, groups=groups, name="conv")
        kernel, bias = tf.trainable_variables()
        gradients = tf.gradients(y, [x, kernel, bias], tf.constant(to_channels_last(drive)))
        session.run(tf.global_variables_initializer())
        session.run(kernel.initializer, {kernel.initializer.inputs[1]: conv_to_hwio(weight)})
        output, by_image, by_kernel, by_bias = session.run([y, *gradients])
    sources = [torch.from_numpy(array).requires_grad_() for array in (image, weight, np.zeros(12, np.float32))]
    expected = torch.nn.functional.conv2d(*sources, stride=2, padding=1, groups=groups)
    expected.backward(torch.from_numpy(drive))
    found = (to_channels_first(output), to_channels_first(by_image), conv_from_hwio(by_kernel), by_bias)
    for array, tensor in zip(found, (expected, *(source.grad for source in sources)), strict=True):
        assert array.any()
        np.testing.assert_array_equal(array, tensor.detach().numpy())


def model_files(package, family):
    """The files of a family's networks; AlexNet's two towers on two devices are PyTorch's alone."""
    return sorted(path for path in (ROOT / package).glob(f"{family}*.py") if path.stem != "alexnet_towers")


def definitions(package, family):
    """The functions and classes in the model files of a family, in order, each with the lines of its source."""
    for path in model_files(package, family):
        lines = path.read_text().splitlines()
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name, lines[node.lineno - 1 : node.end_lineno]


def builder_names(package, family):
    """The networks that a family's files define, in order, spelt alike: `AlexNetBVLC` and `alexnet_bvlc` are one."""
    networks = {name.replace("_", "") for name in list_architectures()}
    names = [name.replace("_", "").lower() for name, _ in definitions(package, family) if not name.startswith("_")]
    return [name for name in names if name in networks]


def block_markers(package, family):
    """The block markers of each definition that has any, in order.

    Where Keras has a network in both forms, written out, these must have the same markers, and count once.
    """
    found = {}
    for name, lines in definitions(package, family):
        markers = [line.strip() for line in lines if re.fullmatch(r" +# (Block \d+|Classifier)", line)]
        found |= {name: markers} if markers else {}
    for name in [name for name in found if name.endswith("sequential")]:
        for functional in {name.removesuffix("_sequential"), name.replace("sequential", "functional")} & found.keys():
            assert found.pop(name) == found[functional]
    return list(found.values())


@pytest.mark.parametrize("family", sorted({get_spec(name).family for name in list_architectures()}))
def test_model_files_mirror_each_other(family):
    files = [[path.name for path in model_files(package, family)] for package in IMPLEMENTATIONS]
    assert files[0] == files[1] == files[2] != []
    names = [builder_names(package, family) for package in IMPLEMENTATIONS]
    assert names[0] == names[1] == names[2] != []
    blocks = [block_markers(package, family) for package in IMPLEMENTATIONS]
    assert blocks[0] == blocks[1] == blocks[2] != []


def test_every_implementation_offers_the_contract(implementation):
    options = ["num_classes", "image_size", "softmax"]
    assert list(inspect.signature(implementation.build).parameters) == ["architecture", *options]
    assert list(inspect.signature(implementation.load_weights).parameters)[1:] == ["weights", "skip"]
    assert len(inspect.signature(implementation.read_weights).parameters) == 1
    assert list(inspect.signature(implementation.export_onnx).parameters)[1:] == ["path", "options"]
    with pytest.raises(TriptychError, match="did you mean alexnet_bvlc"):
        implementation.build("alexnet_blvc")
