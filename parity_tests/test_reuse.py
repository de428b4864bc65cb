"""A module that stands at several places: each of its calls is a layer, and an honest model is certified."""

import dataclasses

import numpy as np
import pytest
from conftest import load_implementation

from common.operations import Add, Conv, ReLU
from common.parity.causes import Traced
from common.parity.judge import judge, judge_structure
from common.parity.verdicts import DIVERGED, first_divergence
from common.probes import exact_probe, random_probe
from common.specs.architecture import IMAGE, Architecture, Layer
from common.specs.calls import IMAGE_CALL, Call, named_calls, wired
from parity_tests.injection import Mutant, imported_with, specification

REUSED = {
    "torchvision's habit": Mutant(
        "torch_impl", "torch_impl/resnet.py", "resnet18", "", "self.relu(self.add", "self.relu1(self.add", "", ""
    ),
    "one ReLU, called after the last of its places": Mutant(
        "torch_impl", "torch_impl/resnet.py", "resnet18", "", "self.relu1(self.bn1", "self.relu(self.bn1", "", ""
    ),
    "one ReLU in a Keras block": Mutant(
        "keras_impl",
        "keras_impl/lenet.py",
        "lenet_caffe",
        "",
        '    x = layers.ReLU(name="relu2")(x)\n    x = layers.MaxPooling2D(2, strides=2, name="pool2")(x)  # 8×8×50\n'
        "    # Classifier\n"
        '    x = layers.Flatten(name="flatten")(x)  # 3200, in the order H, W, C\n'
        '    x = layers.Dense(500, name="fc1")(x)\n    x = layers.ReLU(name="relu3")(x)',
        '    relu = layers.ReLU(name="relu3")\n    x = relu(x)\n'
        '    x = layers.MaxPooling2D(2, strides=2, name="pool2")(x)\n'
        '    x = layers.Flatten(name="flatten")(x)\n'
        '    x = layers.Dense(500, name="fc1")(x)\n    x = relu(x)',
        "",
        "",
    ),
}


@pytest.mark.parametrize("how", REUSED)
def test_an_honest_model_is_certified(how):
    mutant = REUSED[how]
    load_implementation(mutant.package)
    spec = specification(mutant.architecture)
    with imported_with(mutant) as backend:
        model = backend.build(mutant.architecture, image_size=spec.input_shape[1:])
        assert judge_structure(spec, *backend.structure(model)) == []
        for probe in (exact_probe(spec), random_probe(spec)):
            backend.load_weights(model, probe.weights)
            recorded = backend.record(model, probe.image, probe.injected)
            assert first_divergence(judge(spec, probe, recorded)) is None
        wiring = backend.wiring(model)
        assert {layer.name: list(layer.inputs) for layer in spec.layers} == wiring


def test_a_mistake_in_a_reused_module_is_found_at_its_place():
    """The second call of the block's ReLU reads the branch, not the sum."""
    mutant = dataclasses.replace(
        REUSED["torchvision's habit"], old="self.relu(self.add(y, x))", new="self.relu1((self.add(y, x), y)[1])"
    )
    load_implementation(mutant.package)
    spec = specification(mutant.architecture)
    probe = random_probe(spec)
    with imported_with(mutant) as backend:
        model = backend.build(mutant.architecture, image_size=spec.input_shape[1:])
        backend.load_weights(model, probe.weights)
        traced = Traced(backend.FLATTENED, backend.wiring(model))
        divergence = first_divergence(judge(spec, probe, backend.record(model, probe.image), traced=traced))
    assert divergence.name == "conv2_block1/relu"


def _tiny(*layers: Layer) -> Architecture:
    return Architecture("tiny", "tiny", "", 2026, "", (2, 5, 7), layers, {"logits": layers[-1].name})


def test_calls_are_named_after_what_they_read():
    spec = _tiny(
        Layer("conv", Conv(1, filters=2), (IMAGE,)),
        Layer("relu1", ReLU(), ("conv",)),
        Layer("add", Add(), ("relu1", IMAGE)),
        Layer("relu2", ReLU(), ("add",)),
    )
    calls = [
        Call("conv", (IMAGE_CALL,)),
        Call("relu2", (0,)),
        Call("add", (1, IMAGE_CALL)),
        Call("identity", (2,)),
        Call("relu2", (3,)),
        Call("relu2", (None,)),
    ]
    names = named_calls(calls, spec)
    assert names == ["conv", "relu1", "add", "identity", "relu2", "relu2#5"]
    assert wired(calls, names, spec) == {
        "conv": [IMAGE],
        "relu1": ["conv"],
        "add": ["relu1", IMAGE],
        "identity": ["add"],
        "relu2": ["add"],
    }


def test_nothing_reads_what_comes_after_it():
    """Where nothing is below zero a ReLU changes nothing: the sum after it is no layer that it can have read."""
    x = np.abs(np.random.default_rng(0).standard_normal((2, 2, 5, 7))).astype(np.float32)
    spec = _tiny(Layer("relu1", ReLU(), (IMAGE,)), Layer("relu2", ReLU(), ("relu1",)), Layer("end", ReLU(), ("relu2",)))
    probe = dataclasses.replace(random_probe(spec), image=-x)
    recorded = {"relu1": x, "relu2": x, "end": x}
    verdict = judge(spec, probe, recorded)[0]
    assert (verdict.verdict, [cause for cause in verdict.explanations if "it reads" in cause]) == (DIVERGED, [])


def test_structure_is_not_overruled_by_numbers():
    """Two layers with the same output: which of them is read, the model's structure says."""
    x = np.random.default_rng(1).standard_normal((2, 2, 5, 7)).astype(np.float32)
    spec = _tiny(
        Layer("relu1", ReLU(), (IMAGE,)), Layer("relu2", ReLU(), ("relu1",)), Layer("add", Add(), ("relu1", "relu1"))
    )
    probe = dataclasses.replace(random_probe(spec), image=x)
    half = np.maximum(x, 0)
    recorded = {"relu1": half, "relu2": half, "add": half + x}
    for reads, told in ((None, True), (["relu1"], False), (["relu1", IMAGE], True)):
        traced = Traced(reads={} if reads is None else {"add": reads})
        verdict = judge(spec, probe, recorded, traced=traced)[-1]
        assert (f"it reads {IMAGE}, not relu1" in verdict.explanations) == told
