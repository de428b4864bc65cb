"""DenseNet against figures and implementations that come from outside this code."""

import pytest
from conftest import load_implementation
from keras_applications import as_in_keras, renamed, with_pooling_split
from reference_graphs import assert_same_graph, our_graph, reference_graph

from common import get_spec
from common.parity.judge import CERTIFIED, first_divergence, judge, judge_structure, overall
from common.probes import exact_probe, random_probe

IN_KERAS = {
    r"conv1_conv": "conv1",
    r"conv1_(bn|relu)": r"\g<1>1",
    r"(conv\d_block\d+)_0_(bn|relu)": r"\1_\g<2>1",
    r"(conv\d_block\d+)_1_(bn|relu)": r"\1_\g<2>2",
    r"(conv\d_block\d+)_([12])_conv": r"\1_conv\2",
    r"pool(\d)_(bn|relu|conv|pool)": r"transition\1_\2",
    r"predictions": "fc",
}

TABLE_1 = {  # the paper's: dense blocks in each stage; torchvision's GFLOPS
    "densenet121": ((6, 12, 24, 16), 32, 2.83),
    "densenet161": ((6, 12, 36, 24), 48, 7.73),
    "densenet169": ((6, 12, 32, 32), 32, 3.36),
    "densenet201": ((6, 12, 48, 32), 32, 4.29),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_stages_are_those_of_table_1(name):
    blocks, growth, multiply_adds = TABLE_1[name]
    spec, channels = get_spec(name), 2 * growth
    assert spec.shapes["conv1"] == (channels, 112, 112)
    assert spec.shapes["pool1"] == (channels, 56, 56)
    for stage, (count, size) in enumerate(zip(blocks, (56, 28, 14, 7), strict=True), start=2):
        for number in range(1, count + 1):
            channels += growth
            assert spec.shapes[f"conv{stage}_block{number}/conv1"] == (4 * growth, size, size)
            assert spec.shapes[f"conv{stage}_block{number}/concat"] == (channels, size, size)
        assert f"conv{stage}_block{count + 1}/concat" not in spec.shapes
        if stage < 5:
            channels //= 2
            assert spec.shapes[f"transition{stage}/pool"] == (channels, size // 2, size // 2)
    assert spec.shapes["relu"] == (channels, 7, 7)
    assert round(spec.multiply_adds / 1e9, 2) == multiply_adds


@pytest.fixture(scope="module")
def keras():
    load_implementation("keras_impl")
    import keras

    return keras


def keras_densenet(keras, name):
    build = getattr(keras.applications, name.replace("densenet", "DenseNet"))
    model = build(weights=None, input_shape=(64, 96, 3), classes=1000, classifier_activation=None)
    return renamed(model, name, IN_KERAS)


@pytest.mark.parametrize("name", ["densenet169", "densenet201"])
def test_layers_of_keras_applications(keras, name):
    from keras_impl.backend import structure

    shapes, parameters = structure(keras_densenet(keras, name))
    spec = as_in_keras(get_spec(name, image_size=(64, 96)), conv_bias=False)
    assert judge_structure(spec, with_pooling_split(shapes), parameters) == []


def test_keras_applications_computes_the_specified_layers(keras):
    """`keras.applications.DenseNet121` with our weights, every layer of it, within the rounding bound."""
    from keras_impl.backend import load_weights, record, structure

    model = keras_densenet(keras, "densenet121")
    spec = as_in_keras(get_spec("densenet121", image_size=(64, 96)), conv_bias=False)
    shapes, parameters = structure(model)
    assert judge_structure(spec, with_pooling_split(shapes), parameters) == []
    probe = random_probe(spec, batch=1)
    load_weights(model, probe.weights)
    recorded = with_pooling_split(record(model, probe.image))
    assert overall(judge(spec, probe, recorded), probe) == CERTIFIED


def test_the_graph_is_the_reference_in_the_onnx_package(tmp_path):
    """`light_densenet121`, a Caffe model. Node for node, up to this list.

    - Caffe's batch normalisation has no gamma and beta; a Scale behind it has. In the reference that is a
      BatchNormalization, a Mul and an Add, the latter two with an Unsqueeze for their operand.
    - The reference classifies with a 1×1 convolution on the 1×1 map, ours flattens and has a Gemm.
    """
    torch_impl = load_implementation("torch_impl")
    torch_impl.export_onnx(torch_impl.build("densenet121"), tmp_path / "ours.onnx")
    assert_same_graph(our_graph(tmp_path / "ours.onnx"), reference_graph("light_densenet121"))


def concatenated_the_other_way(block):
    block.concat.forward = lambda *inputs: type(block.concat).forward(block.concat, *reversed(inputs))


def pooled_by_maximum(transition):
    from torch.nn.functional import max_pool2d

    transition.pool.forward = lambda x: max_pool2d(x, 2)


MISTAKES = {
    "eps 1.001e-5": (lambda m: setattr(m.bn, "eps", 1.001e-5), "bn"),
    "concatenated the other way": (lambda m: concatenated_the_other_way(m.conv3_block2), "conv3_block2/concat"),
    "maximum in a transition": (lambda m: pooled_by_maximum(m.transition3), "transition3/pool"),
    "no last ReLU": (lambda m: setattr(m.relu, "forward", lambda x: x), "relu"),
}


@pytest.fixture(scope="module")
def exact():
    return exact_probe(get_spec("densenet121", image_size=(32, 64)), batch=1)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_exact_probe_sees_every_mistake(exact, mistake):
    torch_impl = load_implementation("torch_impl")
    from torch_impl.backend import record

    model = torch_impl.build("densenet121", image_size=(32, 64))
    torch_impl.load_weights(model, exact.weights)
    change, layer = MISTAKES[mistake]
    change(model)
    verdicts = judge(get_spec("densenet121", image_size=(32, 64)), exact, record(model, exact.image, exact.injected))
    assert first_divergence(verdicts).name == layer
