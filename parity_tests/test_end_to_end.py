"""The proof of a network as it is deployed: errors carried to the outputs, and what the outputs must then be."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import IMPLEMENTATIONS, built, daily

from common import TriptychError, get_spec
from common import operations as ops
from common.operations import evaluate
from common.parity.returned import judge_outputs
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL
from common.probes.end_to_end import end_to_end_probe

GENERATOR = np.random.default_rng(5)

OPERATIONS = {
    "conv": ops.Conv(3, stride=2, padding=1, filters=6, groups=2),
    "bias-free conv": ops.Conv((1, 3), filters=2, bias=False),
    "max": ops.MaxPool(3, 2, 1),
    "average": ops.AveragePool(2, 2),
    "global average": ops.GlobalAveragePool(),
    "sub-sampling": ops.SubSampling(),
    "relu": ops.ReLU(),
    "sigmoid": ops.Sigmoid(),
    "tanh": ops.ScaledTanh(1.7159, 2 / 3),
    "batch norm": ops.BatchNorm(1e-3),
    "add": ops.Add(),
    "concat": ops.Concat(),
    "select": ops.SelectChannels((3, 0)),
    "lrn": ops.LRN(5, 2.0, 0.75, 1.0),
    "flatten": ops.Flatten(),
    "dense": ops.Dense(7),
    "softmax": ops.Softmax(),
}


@pytest.mark.parametrize("size", [1e-6, 0.01, 0.7])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_output_moves_further_than_the_errors_of_the_inputs_allow(name, size):
    operation = OPERATIONS[name]
    shape = (5,) if name in ("dense", "softmax") else (4, 6, 9)
    count = 2 if name in ("add", "concat") else 1
    inputs = [GENERATOR.standard_normal((3, *shape)).astype(np.float32) for _ in range(count)]
    parameters = {
        key: np.abs(GENERATOR.standard_normal(given)).astype(np.float32)
        * (1 if key == "variance" else GENERATOR.choice(np.array([-1, 1], np.float32), given))
        for key, given in operation.parameter_shapes(*[shape] * count).items()
    }
    before = evaluate(operation, inputs, parameters).value.astype(np.float64)
    for _ in range(20):
        moved = [(x + size * GENERATOR.uniform(-1, 1, x.shape)).astype(np.float32) for x in inputs]
        errors = [np.abs(y.astype(np.float64) - x) for x, y in zip(inputs, moved, strict=True)]
        after = evaluate(operation, moved, parameters).value
        allowed = operation.carried(inputs, errors, parameters)
        assert (np.abs(after - before) <= allowed).all()
    assert allowed.max() < 60 * size, "and it is not so large that it allows everything"


QUICK = ("lenet5_sparse", "lenet_caffe", "alexnet_mnist", "vgg16_gap", "resnet50")
NETWORKS = (*QUICK, "alexnet_bvlc", "googlenet", "resnet152")


@pytest.mark.parametrize("name", daily(*QUICK, of=NETWORKS))
def test_the_bound_of_a_whole_network_says_something(name):
    for size in ((64, 96), None):
        try:
            spec = get_spec(name, image_size=size, num_classes=20)
            break
        except TriptychError:
            continue
    rounds = any(
        isinstance(layer.operation, ops.LRN | ops.BatchNorm | ops.Sigmoid | ops.ScaledTanh | ops.AveragePool)
        or (isinstance(layer.operation, ops.GlobalAveragePool) and spec.input_shapes(layer)[0][1:] == (7, 7))
        for layer in spec.layers
    )
    probe = end_to_end_probe(spec)
    assert probe.outputs.keys() == set(spec.outputs.values())
    for reference in probe.outputs.values():
        assert len(np.unique(reference.value)) > 10
        assert bool(reference.bound.any()) is (rounds or name.endswith("_gap"))
        assert reference.bound.max() <= 0.02 * np.abs(reference.value).max()


def deployed(implementation, name, edit=lambda weights: None, **options):
    """The verdicts on an implementation's outputs; the weights that it is given may be edited."""
    spec = get_spec(name, **options)
    probe = end_to_end_probe(spec, seed=3, batch=2)
    backend = importlib.import_module(f"{implementation.__name__}.backend")
    model = built(implementation.__name__, name, **options)
    weights = {key: array.copy() for key, array in probe.weights.items()}
    edit(weights)
    implementation.load_weights(model, weights)
    outputs = {spec.outputs[key]: array for key, array in backend.predict(model, probe.image).items()}
    return judge_outputs(spec, probe, outputs)


def test_what_can_be_exact_is_exact_as_deployed(implementation):
    assert {verdict.verdict for verdict in deployed(implementation, "lenet_caffe")} == {IDENTICAL}


def cases(*in_turn):
    """A case in each implementation; every day in the one that stands beside it, or in all."""
    found = []
    for package in IMPLEMENTATIONS:
        for case, daily_in in in_turn:
            marks = [] if daily_in in (package, "all") else pytest.mark.slow
            found.append(pytest.param(package, *case, id="-".join((package, *case)), marks=marks))
    return found


ROUNDING = cases((("lenet5",), "all"), (("resnet18",), "keras_impl"), (("densenet121",), "torch_impl"))


@pytest.mark.parametrize(("implementation", "name"), ROUNDING, indirect=["implementation"])
def test_what_rounds_is_within_what_its_rounding_explains(implementation, name):
    sizes = {"resnet18": {"image_size": (64, 96), "num_classes": 7}, "densenet121": {"image_size": (32, 64)}}
    options = sizes.get(name, {})
    assert {verdict.verdict for verdict in deployed(implementation, name, **options)} <= {IDENTICAL, CERTIFIED}


LOST = cases(
    (("lenet_caffe", "conv1/bias"), "all"),
    (("resnet18", "conv2_block1/bn1/beta"), "tf1_style_impl"),
    (("resnet18", "bn1/mean"), "keras_impl"),
    (("resnet18", "fc/bias"), "torch_impl"),
)


@pytest.mark.parametrize(("implementation", "name", "parameter"), LOST, indirect=["implementation"])
def test_what_fusing_might_lose_is_missed(implementation, name, parameter):
    options = {} if name == "lenet_caffe" else {"image_size": (64, 96), "num_classes": 7}
    lost = deployed(implementation, name, lambda weights: weights[parameter].fill(0), **options)
    assert DIVERGED in {verdict.verdict for verdict in lost}


def test_outputs_that_are_missing_or_misshapen_are_named():
    spec = get_spec("lenet_caffe")
    probe = end_to_end_probe(spec)
    (verdict,) = judge_outputs(spec, probe, {})
    assert (verdict.verdict, verdict.cause) == (DIVERGED, "logits was not computed")
    (verdict,) = judge_outputs(spec, probe, {"fc2": np.zeros((1, 9), np.float32)})
    assert verdict.cause == "logits has shape 1×9, expected 1×10"
    right = probe.outputs["fc2"].value.astype(np.float32)
    (verdict,) = judge_outputs(spec, replace(probe), {"fc2": np.nextafter(right, np.float32(np.inf))})
    assert verdict.verdict == DIVERGED
