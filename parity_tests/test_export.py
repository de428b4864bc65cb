"""ONNX exports: one graph from three frameworks, accepted by tools that this project did not write."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import IMPLEMENTATIONS, load_implementation
from onnx.reference import ReferenceEvaluator
from reference_graphs import assert_same_graph, our_graph, reference_graph

from common import TriptychError, get_spec, random_weights
from common.onnx_graph import record
from common.parity.judge import CERTIFIED, judge, overall
from common.probes import Probe


@pytest.fixture(scope="module", params=["alexnet_bvlc", "googlenet"])
def architecture(request):
    """A chain, and a network of branches with three outputs; test_catalogue.py has the others."""
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
        implementation.export_onnx(model, paths[name], outputs=tuple(get_spec(architecture).outputs))
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
    outputs = {layer: output for output, layer in spec.outputs.items()}
    assert {node.name: node.output[0] for node in model.graph.node} == {
        layer.name: outputs.get(layer.name, layer.name) for layer in computing
    }
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


def test_auxiliary_heads_are_exported_on_request(implementation, tmp_path):
    """And otherwise left out, with every layer and parameter that only they need."""
    model, path = implementation.build("googlenet", num_classes=7), tmp_path / "googlenet.onnx"
    implementation.export_onnx(model, path)
    whole = onnx.load(path).graph
    assert [value.name for value in whole.output] == ["logits"]
    names = {node.name for node in whole.node} | {tensor.name for tensor in whole.initializer}
    assert not [name for name in names if name.startswith("aux")]
    implementation.export_onnx(model, path, outputs=("aux1",))
    head = onnx.load(path).graph
    assert [value.name for value in head.output] == ["aux1"]
    names = {node.name for node in head.node}
    assert {"aux1/classifier", "inception_4a/output"} <= names
    assert not [name for name in names if name.startswith(("aux2", "inception_4b", "inception_5", "fc"))]
    path.unlink()
    with pytest.raises(TriptychError, match="cannot export the output 'aux3'; did you mean"):
        implementation.export_onnx(model, path, outputs=("logits", "aux3"))
    with pytest.raises(TriptychError, match="without outputs"):
        implementation.export_onnx(model, path, outputs=())
    assert list(tmp_path.iterdir()) == []


LIGHT = {"alexnet_bvlc": "light_bvlc_alexnet", "vgg19": "light_vgg19", "googlenet": "light_inception_v1"}
"""The networks of which the onnx package holds a reference graph."""

EXPECTED_DIFFERENCES = {
    # The reference takes 224×224 and therefore pads its last pooling at the bottom and right by one, where 227×227
    # needs none: 54→26→12→6 instead of 55→27→13→6.
    "alexnet_bvlc": {"r14": {"pads": ([0, 0, 1, 1], [0, 0, 0, 0])}},
    "vgg19": {},
    # The four pools of the reference lost Caffe's rounding up on their way through Caffe2: 112→55→27→13→6 instead of
    # 112→56→28→14→7. It then averages 7×7 over a map of 6×6 with a border, in place of which stands a global average.
    "googlenet": {value: {"pads": ([0, 0, 0, 0], [0, 0, 1, 1])} for value in ("r2", "r9", "r38", "r109")},
}
"""By the reference's value, the numbers that differ: theirs, ours."""


@pytest.mark.parametrize("name", LIGHT)
def test_the_graph_is_the_reference_in_the_onnx_package(name, tmp_path):
    """Node for node, number for number and wire for wire, up to `EXPECTED_DIFFERENCES`.

    The reference keeps its dropouts, flattens with a Reshape and ends in a softmax; a logit depends on none of them.
    """
    reference = reference_graph(LIGHT[name])
    nodes = dict(reference.nodes)
    for value, changes in EXPECTED_DIFFERENCES[name].items():
        assert {number: nodes[value].numbers[number] for number in changes} == {n: c[0] for n, c in changes.items()}
        numbers = nodes[value].numbers | {number: mine for number, (_, mine) in changes.items()}
        nodes[value] = replace(nodes[value], numbers=numbers)
    implementation = load_implementation("torch_impl")
    path = tmp_path / "ours.onnx"
    implementation.export_onnx(implementation.build(name), path)
    assert_same_graph(our_graph(path), replace(reference, nodes=nodes))


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
