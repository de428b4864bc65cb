"""What the probes see: one wrong number, one bad unit, one image alone."""

import importlib

import numpy as np
import pytest
from conftest import IMPLEMENTATIONS, built, load_implementation

from common import get_spec
from common.operations import Conv, evaluate
from common.parity.judge import judge, judge_in_order
from common.parity.later_images import _correlated, sums_are_right
from common.parity.measures import UNIT
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL, first_divergence, overall
from common.probes import exact_probe, photo_probe, random_probe
from parity_tests.sensitivity import DAMAGES, sensitivity, summary

SIZES = {"resnet18": (64, 96)}
CASES = [(name, package) for name in ("lenet5", "lenet_caffe") for package in IMPLEMENTATIONS]


@pytest.mark.parametrize(("architecture", "package"), [*CASES, ("resnet18", "torch_impl")])
def test_the_exact_probe_sees_every_single_number(architecture, package):
    """In every tensor: weights, biases, and all four of a batch normalisation."""
    load_implementation(package)
    spec = get_spec(architecture, image_size=SIZES.get(architecture))
    tried = list(sensitivity(architecture, package, exact_probe(spec), spec))
    assert [each for each in tried if each.seen < each.tried] == []
    assert {each.tensor for each in tried} == spec.parameter_shapes.keys()
    units = sum(shape[0] for shape in spec.parameter_shapes.values())
    assert summary(tried) == dict.fromkeys(DAMAGES, (units, units))


def run(package, architecture, probe):
    implementation = load_implementation(package)
    model = built(package, architecture)
    implementation.load_weights(model, probe.weights)
    return importlib.import_module(f"{package}.backend").record(model, probe.image, probe.injected)


@pytest.fixture(scope="module", params=[exact_probe, random_probe, photo_probe])
def two_images(request):
    """A probe, and what the network makes of it."""
    probe = request.param(get_spec("lenet_caffe"), batch=2)
    return probe, run("torch_impl", "lenet_caffe", probe)


def test_both_images_are_right(two_images):
    proved = overall(judge(get_spec("lenet_caffe"), *two_images), two_images[0])
    assert proved == (IDENTICAL if two_images[0].name == "exact" else CERTIFIED)


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("layer", ["conv1", "relu1", "pool2", "conv2", "fc1", "fc2"])
def test_one_image_alone_is_enough(two_images, layer, image):
    probe, recorded = two_images
    wrong = recorded[layer].copy()
    wrong[image] *= np.float32(1.001)
    verdicts = judge_in_order(get_spec("lenet_caffe"), probe, {**recorded, layer: wrong})
    assert first_divergence(verdicts).name == layer


@pytest.mark.parametrize("groups", [1, 2])
def test_a_sum_over_filters_sees_one_wrong_element(groups):
    import torch

    operation = Conv(3, 1, 1, filters=64, groups=groups)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, 32, 11, 13)).astype(np.float32)
    shapes = operation.parameter_shapes(x.shape[1:])
    parameters = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors = [torch.from_numpy(array) for array in (x, parameters["weight"], parameters["bias"])]
    output = torch.nn.functional.conv2d(*tensors, padding=1, groups=groups).numpy()
    assert sums_are_right(operation, x, parameters, output, 180.0)
    for filter_number in (0, 31, 63):
        wrong = output.copy()
        wrong[0, filter_number, 5, 7] += 0.02
        assert not sums_are_right(operation, x, parameters, wrong, 180.0)
    assert not sums_are_right(operation, x, parameters, output[:, ::-1], 180.0)
    assert not sums_are_right(operation, x, parameters, output[:, :, :-1], 180.0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 1))])
def test_the_sums_over_filters_are_convolutions(groups, stride, padding):
    generator = np.random.default_rng(0)
    x, weight = (
        generator.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 9, 11), (groups, 4 // groups, 3, 2))
    )
    operation = Conv((3, 2), stride, padding, filters=6, groups=groups)
    value, squares = _correlated(operation, x, weight.astype(np.float64), np.square(weight))
    reference = evaluate(
        Conv((3, 2), stride, padding, filters=groups, groups=groups, bias=False), [x], {"weight": weight}
    )
    np.testing.assert_allclose(value, reference.value, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(np.sqrt(squares), reference.spread, rtol=1e-5)


def test_one_bad_unit_is_not_diluted():
    """Errors of 2,000 times what is usual in one neuron of 500: far below the bound, and the layer's RMS is 90."""
    spec = get_spec("lenet_caffe")
    probe = random_probe(spec, batch=2)
    recorded = run("torch_impl", "lenet_caffe", probe)
    weight, x = probe.weights["fc1/weight"].astype(np.float64), recorded["flatten"].astype(np.float64)
    spread = np.sqrt(np.square(x) @ np.square(weight).T)
    for size, verdict in ((2000, DIVERGED), (100, CERTIFIED)):
        assert size / np.sqrt(weight.shape[0]) < 180 < UNIT * 180
        wrong = recorded["fc1"].copy()
        wrong[:, 17] += (size * 2.0**-24 * spread[:, 17]).astype(np.float32)
        found = {each.name: each for each in judge(spec, probe, {**recorded, "fc1": wrong})}["fc1"]
        assert (found.verdict, found.bound_ratio < 1) == (verdict, True)
