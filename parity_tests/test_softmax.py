"""Probabilities where they are asked for: a last layer `softmax`, after the heads too, in every implementation."""

import importlib

import numpy as np
import onnx
import pytest
from conftest import IMPLEMENTATIONS, daily, load_implementation

from common import TriptychError, get_spec, random_weights
from common.onnx.options import ExportOptions
from common.parity.judge import judge, judge_structure
from common.parity.verdicts import CERTIFIED, overall
from common.probes import Probe
from common.specs.architecture import with_softmax
from common.training.data import digits

CLASSES = 7


@pytest.fixture(scope="module", params=daily("lenet_caffe", of=["lenet_caffe", "googlenet_tutorial"]))
def architecture(request):
    """A chain, and branches with heads: those test_googlenet.py asks for every day."""
    return request.param


@pytest.fixture(scope="module")
def probe(architecture):
    """Numbers so small that the probabilities are not all 0 and 1; one image where a network takes large ones."""
    weights = random_weights(architecture, seed=2, num_classes=CLASSES)
    shape = (3 if architecture == "lenet_caffe" else 1, *get_spec(architecture).input_shape)
    return Probe("random", weights, np.random.default_rng(2).standard_normal(shape, dtype=np.float32) / 8)


def test_the_specification_says_where():
    spec = with_softmax(get_spec("googlenet_tutorial", num_classes=CLASSES))
    assert spec.outputs == {"probabilities": "softmax", "aux1": "aux1/softmax", "aux2": "aux2/softmax"}
    assert [(layer.name, layer.inputs) for layer in spec.layers[-3:]] == [
        ("softmax", ("fc",)),
        ("aux1/softmax", ("aux1/classifier",)),
        ("aux2/softmax", ("aux2/classifier",)),
    ]
    assert spec.num_classes == CLASSES


@pytest.fixture(scope="module")
def model(implementation, architecture, probe):
    model = implementation.build(architecture, num_classes=CLASSES, softmax=True)
    implementation.load_weights(model, probe.weights)
    return model


def test_every_layer_is_the_specified_one(implementation, architecture, probe, model):
    spec = with_softmax(get_spec(architecture, num_classes=CLASSES))
    backend = importlib.import_module(f"{implementation.__name__}.backend")
    assert judge_structure(spec, *backend.structure(model)) == []
    recorded = backend.record(model, probe.image)
    verdicts = judge(spec, probe, recorded)
    assert {verdict.name for verdict in verdicts} == {layer.name for layer in spec.layers}
    assert overall(verdicts, probe) == CERTIFIED
    for layer in spec.outputs.values():
        np.testing.assert_allclose(recorded[layer].sum(1), 1, atol=1e-6)
        assert 0.01 < recorded[layer].max() < 0.99
    predicted = backend.predict(model, probe.image)
    np.testing.assert_allclose(predicted["probabilities"], recorded["softmax"], atol=1e-5)


def test_the_weights_are_those_of_the_model_without(implementation, probe, model):
    found = implementation.read_weights(model)
    assert found.keys() == probe.weights.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in probe.weights.items())


def test_the_three_exports_are_the_same_graph(architecture, probe, tmp_path):
    """And that which is asked of the export, of a model that ends in logits."""
    graphs = set()
    for package in IMPLEMENTATIONS:
        implementation = load_implementation(package)
        for softmax in (True, False):
            model = implementation.build(architecture, num_classes=CLASSES, softmax=softmax)
            implementation.load_weights(model, probe.weights)
            implementation.export_onnx(model, tmp_path / "model.onnx", ExportOptions(softmax=not softmax))
            graphs.add(onnx.load(tmp_path / "model.onnx").graph.SerializeToString())
    assert len(graphs) == 1
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.output] == ["probabilities"]
    assert [node.name for node in graph.node if node.op_type == "Softmax"] == ["softmax"]


def test_it_is_not_trained(implementation, model):
    with pytest.raises(TriptychError, match=r"ends in a softmax, but a training takes .* logits; build it without"):
        implementation.train(model, digits())
