"""ONNX exports: one graph from three frameworks, accepted by tools that this project did not write."""

import numpy as np
import onnx
import pytest
from conftest import IMPLEMENTATIONS, load_implementation
from onnx.reference import ReferenceEvaluator

from common import TriptychError, get_spec, list_architectures, random_weights
from common.onnx_graph import record
from common.parity.judge import CERTIFIED, judge, overall
from common.probes import Probe


@pytest.fixture(scope="module", params=list_architectures())
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def weights(architecture):
    return random_weights(architecture, seed=11)


@pytest.fixture(scope="module")
def exports(architecture, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    paths = {}
    for name in IMPLEMENTATIONS:
        implementation = load_implementation(name)
        model = implementation.build(architecture)
        implementation.load_weights(model, weights)
        paths[name] = folder / f"{name}.onnx"
        implementation.export_onnx(model, paths[name])
    return paths


def without_source(path):
    """The file's content but for the line that says which framework it is from."""
    model = onnx.load(path)
    assert [entry.key for entry in model.metadata_props if entry.key == "source"] == ["source"]
    kept = [entry for entry in model.metadata_props if entry.key != "source"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model.SerializeToString(deterministic=True)


def test_the_three_exports_are_the_same_graph(exports):
    contents = [without_source(path) for path in exports.values()]
    assert contents[0] == contents[1]
    assert contents[0] == contents[2]


def test_the_graph_is_canonical(exports, architecture, weights):
    model = onnx.load(exports["keras_impl"])
    spec = get_spec(architecture)
    assert model.opset_import[0].version >= 18
    assert [value.name for value in model.graph.input] == ["image"]
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert dimensions[0].dim_param
    assert tuple(d.dim_value for d in dimensions[1:]) == spec.input_shape
    assert [value.name for value in model.graph.output] == list(spec.outputs)
    computing = [layer for layer in spec.layers if layer.operation.kind != "Dropout"]
    assert [node.name for node in model.graph.node] == [layer.name for layer in computing]
    outputs = {layer: output for output, layer in spec.outputs.items()}
    assert [node.output[0] for node in model.graph.node] == [outputs.get(layer.name, layer.name) for layer in computing]
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert found.keys() == weights.keys()
    assert all(found[name].tobytes() == weights[name].tobytes() for name in weights)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_computes_the_specified_layers(exports, architecture, weights, batch):
    spec = get_spec(architecture)
    image = np.random.default_rng(batch).standard_normal((batch, *spec.input_shape), dtype=np.float32) * 30
    probe = Probe("random", weights, image)
    assert overall(judge(spec, probe, record(exports["torch_impl"], image)), probe) == CERTIFIED


LIGHT = {"alexnet_bvlc": "light_bvlc_alexnet"}
"""The networks of which the onnx package holds a reference graph."""

EXPECTED_DIFFERENCES = {"alexnet_bvlc": {14: {"pads": ([0, 0, 1, 1], [0, 0, 0, 0])}}}
"""By the node's number, the attributes that differ: theirs, ours."""


def essentials(node):
    """An operator and its numbers, with ONNX's defaults written out."""
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    defaults = {
        "Conv": {"group": 1, "pads": [0, 0, 0, 0], "strides": [1, 1], "dilations": [1, 1]},
        "MaxPool": {"pads": [0, 0, 0, 0], "strides": [1, 1], "ceil_mode": 0},
        "LRN": {"alpha": 1e-4, "beta": 0.75, "bias": 1.0},
        "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    }.get(node.op_type, {})
    numbers = {**defaults, **found}
    return node.op_type, {
        name: pytest.approx(value) if isinstance(value, float) else value for name, value in numbers.items()
    }


@pytest.mark.parametrize("name", LIGHT)
def test_the_graph_is_the_reference_in_the_onnx_package(name, tmp_path):
    """Node for node, up to this list of differences.

    - The reference flattens with a Reshape, ours with a Flatten.
    - The reference keeps its Dropouts and ends in a Softmax; ours leaves both out.
    - The reference takes 224×224 and therefore pads its last pooling at the bottom and right by one, where 227×227
      needs none: 54→26→12→6 instead of 55→27→13→6.
    """
    folder = onnx.__path__[0] + "/backend/test/data/light"
    reference = [
        essentials(node)
        for node in onnx.load(f"{folder}/{LIGHT[name]}.onnx").graph.node
        if node.op_type not in ("Dropout", "Softmax", "Reshape", "ConstantFill", "ConstantOfShape")
    ]
    implementation = load_implementation("torch_impl")
    path = tmp_path / "ours.onnx"
    implementation.export_onnx(implementation.build(name), path)
    ours = [essentials(node) for node in onnx.load(path).graph.node if node.op_type != "Flatten"]
    for number, changes in EXPECTED_DIFFERENCES[name].items():
        for attribute, (theirs, mine) in changes.items():
            assert reference[number][1][attribute] == theirs
            reference[number][1][attribute] = mine
    assert ours == reference


def test_the_numbers_of_the_model_are_in_its_export(tmp_path):
    """A changed stride in a model shows in what is exported: the graph comes from the model, not from the spec."""
    load_implementation("torch_impl")
    from torch import nn

    from torch_impl import export_onnx
    from torch_impl.alexnet import AlexNetBVLC

    model = AlexNetBVLC().eval()
    model.conv1.stride = (5, 5)
    model.fc6 = nn.Linear(256 * 4 * 4, 4096)
    export_onnx(model, tmp_path / "a.onnx")
    node = onnx.load(tmp_path / "a.onnx").graph.node[0]
    assert [list(a.ints) for a in node.attribute if a.name == "strides"] == [[5, 5]]


def test_the_reference_evaluator_agrees_on_a_convolution_and_a_pool(tmp_path):
    """A third runtime, on the part of the graph before the first LRN (which that evaluator computes wrongly)."""
    implementation = load_implementation("torch_impl")
    model = implementation.build("alexnet_bvlc")
    implementation.export_onnx(model, tmp_path / "a.onnx")
    image = np.random.default_rng(0).integers(-4, 5, (1, 3, 227, 227)).astype(np.float32)
    graph = onnx.utils.Extractor(onnx.load(tmp_path / "a.onnx")).extract_model(["image"], ["relu1"])
    (expected,) = ReferenceEvaluator(graph).run(None, {"image": image})
    np.testing.assert_allclose(record(tmp_path / "a.onnx", image)["relu1"], expected, rtol=1e-4, atol=1e-5)


def test_what_has_no_operator_is_refused_and_leaves_nothing(tmp_path):
    load_implementation("torch_impl")
    from torch import nn

    from torch_impl import export_onnx
    from torch_impl.alexnet import AlexNetBVLC

    model = AlexNetBVLC()
    model.relu3 = nn.GELU()
    with pytest.raises(TriptychError, match="cannot export relu3: a GELU"):
        export_onnx(model, tmp_path / "a.onnx")
    with pytest.raises(TriptychError, match="cannot write"):
        export_onnx(AlexNetBVLC(), tmp_path / "missing" / "a.onnx")
    assert list(tmp_path.iterdir()) == []
