"""LeNet against the figures of LeCun et al. 1998, section II.B, and its own layers against their definitions."""

import importlib

import numpy as np
import onnx
import pytest
from conftest import IMPLEMENTATIONS, load_implementation

from common import get_spec, random_weights
from common.operations import ScaledTanh, Sigmoid, SubSampling, evaluate
from common.specs.architecture import IMAGE

PAPER_PARAMETERS = {"c1": 156, "s2": 12, "c3": 2_416, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 850}
"""Trainable parameters of each layer in the paper; c3 fully connected, and 84·10 + 10 in place of its RBF units."""

PAPER_CONNECTIONS = {"c1": 122_304, "c5": 48_120}
"""Connections of the layers for which the paper gives them and each is one product or one bias."""

PAPER_SHAPES = {
    "c1": (6, 28, 28),
    "s2": (6, 14, 14),
    "c3": (16, 10, 10),
    "s4": (16, 5, 5),
    "c5": (120, 1, 1),
    "f6": (84,),
}


def parameters_by_layer(spec):
    counts = {}
    for name, shape in spec.parameter_shapes.items():
        layer = name.split("/")[0]
        counts[layer] = counts.get(layer, 0) + int(np.prod(shape))
    return counts


def test_parameters_are_the_papers():
    assert parameters_by_layer(get_spec("lenet5")) == PAPER_PARAMETERS
    assert parameters_by_layer(get_spec("lenet5_sparse")) == PAPER_PARAMETERS | {"c3": 1_516}
    assert parameters_by_layer(get_spec("lenet_caffe")) == {
        "conv1": 520,
        "conv2": 25_050,
        "fc1": 1_600_500,
        "fc2": 5_010,
    }


def test_connections_are_the_papers():
    spec = get_spec("lenet5")
    for layer in spec.layers:
        if layer.name in PAPER_CONNECTIONS:
            outputs = int(np.prod(spec.shapes[layer.name]))
            products = layer.operation.multiply_adds(*spec.input_shapes(layer))
            assert products + outputs == PAPER_CONNECTIONS[layer.name]
    sparse = get_spec("lenet5_sparse")
    products = sum(
        layer.operation.multiply_adds(*sparse.input_shapes(layer))
        for layer in sparse.layers
        if layer.name.startswith("c3/")
    )
    assert products + 16 * 10 * 10 == 151_600  # the paper's number of connections of C3


@pytest.mark.parametrize("name", ["lenet5", "lenet5_sparse"])
def test_shapes_are_the_papers(name):
    shapes = {layer.removesuffix("/output"): shape for layer, shape in get_spec(name).shapes.items()}
    assert {layer: shapes[layer] for layer in PAPER_SHAPES} == PAPER_SHAPES
    assert shapes[IMAGE] == (1, 32, 32)


def test_nothing_squashes_between_a_convolution_and_its_sub_sampling():
    kinds = [layer.operation.kind for layer in get_spec("lenet5").layers]
    assert kinds[:7] == ["Conv", "SubSampling", "Sigmoid", "Conv", "SubSampling", "Sigmoid", "Conv"]
    assert kinds[7:] == ["ScaledTanh", "Flatten", "Dense", "ScaledTanh", "Dense"]


@pytest.mark.parametrize("package", ["common.specs", *IMPLEMENTATIONS])
def test_connection_table_is_the_papers(package):
    if package in IMPLEMENTATIONS:
        load_implementation(package)
    found = importlib.import_module(f"{package}.lenet").MAPS_OF_C3
    # Section II.B in words: six runs of three, six runs of four, three broken ones of four, and all; runs go round.
    runs = [[(first + step) % 6 for step in range(length)] for length in (3, 4) for first in range(6)]
    broken = [[0, 1, 3, 4], [1, 2, 4, 5], [0, 2, 3, 5]]
    assert [list(maps) for maps in found] == [sorted(maps) for maps in [*runs, *broken, range(6)]]


def test_sub_sampling_is_the_definition():
    generator = np.random.default_rng(0)
    x, weight, bias = (generator.standard_normal(shape, np.float32) for shape in [(2, 3, 5, 6), (3, 1, 1), (3, 1, 1)])
    value = evaluate(SubSampling(), [x], {"weight": weight, "bias": bias}).value
    assert value.shape == (2, 3, 2, 3)
    for n, c, i, j in np.ndindex(value.shape):
        window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].astype(float)
        assert value[n, c, i, j] == pytest.approx(weight[c, 0, 0] * window.sum() + bias[c, 0, 0], rel=1e-14)


@pytest.mark.parametrize("operation", [Sigmoid(), ScaledTanh(1.7159, 2 / 3)])
def test_squashing_in_float32_lies_within_the_bound(operation):
    x = np.concatenate([np.linspace(-30, 30, 20_001), [-1e4, 1e4, 1e-30, 0]]).astype(np.float32)[None]
    one, half = np.float32(1), np.float32(0.5)
    reference = evaluate(operation, [x], {})
    if isinstance(operation, Sigmoid):
        with np.errstate(over="ignore"):
            forms = [one / (one + np.exp(-x)), (one + np.tanh(x * half)) * half]
    else:
        forms = [np.float32(1.7159) * np.tanh(np.float32(2 / 3) * x)]
        assert reference.value[0, -3] == pytest.approx(1.7159)
    for computed in forms:
        assert computed.dtype == np.float32
        assert (abs(computed - reference.value) <= reference.bound).all()


def test_keras_layers_are_serialisable():
    keras_impl = load_implementation("keras_impl")
    import keras

    model = keras_impl.build("lenet5_sparse")
    again = keras.Model.from_config(model.get_config())
    assert [layer.get_config() for layer in again.layers] == [layer.get_config() for layer in model.layers]
    assert again.count_params() == 60_850


@pytest.mark.parametrize("name", ["lenet5", "lenet_caffe"])
def test_keras_sequential_is_the_functional_model(name):
    keras_impl = load_implementation("keras_impl")
    lenet, backend = (importlib.import_module(f"keras_impl.{module}") for module in ("lenet", "backend"))
    functional, sequential = getattr(lenet, name)(), getattr(lenet, f"{name}_sequential")()
    assert [layer.get_config() for layer in sequential.layers] == [
        layer.get_config() for layer in functional.layers[1:]
    ]
    image = np.random.default_rng(0).standard_normal((3, 1, 32, 32), dtype=np.float32)
    outputs = []
    for model in (functional, sequential):
        keras_impl.load_weights(model, random_weights(name))
        outputs.append(backend.record(model, image))
    assert all(outputs[0][layer].tobytes() == outputs[1][layer].tobytes() for layer in outputs[0])


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_layers_without_an_operator_are_named_after_themselves_in_onnx(package, tmp_path):
    implementation = load_implementation(package)
    weights = random_weights("lenet5_sparse")
    model = implementation.build("lenet5_sparse")
    implementation.load_weights(model, weights)
    implementation.export_onnx(model, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    layers = {layer.name for layer in get_spec("lenet5_sparse").layers}
    names = [node.name for node in graph.node]
    assert layers <= set(names)
    assert {name for name in names if name not in layers} == {
        f"{layer}/{part}"
        for kinds, parts in ((("s2", "s4"), ("average", "sum", "scaled")), (("tanh5", "tanh6"), ("scaled", "tanh")))
        for layer in kinds
        for part in parts
    }
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert all(constants.pop(name).tobytes() == array.tobytes() for name, array in weights.items())
    assert constants.pop("s2/four") == constants.pop("s4/four") == 4
    for layer in ("tanh5", "tanh6"):
        assert constants.pop(f"{layer}/amplitude") == np.float32(1.7159)
        assert constants.pop(f"{layer}/slope") == np.float32(2 / 3)
    assert {name: array.dtype for name, array in constants.items()} == {
        f"c3/maps{number}/channels": np.int64 for number in range(1, 17)
    }
