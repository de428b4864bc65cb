"""Overflow: infinity and NaN are certified where float32 must, or may, give them, and nowhere else."""

import itertools

import numpy as np
import pytest

from common.operations import (
    LRN,
    AdaptiveAveragePool,
    Add,
    AveragePool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    ReLU,
    ScaledTanh,
    Sigmoid,
    SubSampling,
    evaluate,
)
from common.operations.evaluation import with_overflow
from common.operations.overflow import LARGEST
from common.parity.comparison import compare
from common.parity.judge import judge
from common.parity.verdicts import CERTIFIED, DIVERGED
from common.probes import Probe, random_probe
from common.specs.architecture import IMAGE, Architecture, Layer

INF, NAN = np.inf, np.nan
GENERATOR = np.random.default_rng(0)


def verdict_on(operation, output, x, parameters=None):
    """Of a network of one layer whose backend gave `output`; with more inputs than one, all are the same."""
    weights = {f"layer/{name}": array for name, array in (parameters or {}).items()}
    many = 2 if isinstance(operation, Add | Concat) else 1
    layers = (Layer("layer", operation, (IMAGE,) * many),)
    spec = Architecture("tiny", "tiny", "", 2025, "", x.shape[1:], layers, {"logits": "layer"})
    with np.errstate(all="ignore"):
        (verdict,) = judge(spec, Probe("random", weights, x), {"layer": np.asarray(output, np.float32)})
    return verdict


def dense(x, weight, output, bias=0.0):
    parameters = {"weight": np.float32([weight]), "bias": np.float32([bias])}
    return verdict_on(Dense(1), [[output]], np.float32([x]), parameters).verdict


@pytest.mark.parametrize(
    ("x", "weight", "right", "wrong"),
    [
        # Every order overflows.
        ([1e30, 1e30], [1e30, 1e30], [INF], [-INF, NAN, 1e38, 0]),
        ([1e30, 1e30], [-1e30, -1e30], [-INF], [INF, NAN, -1e38, LARGEST]),
        # One product is as large as the other is small: each may come first, or be fused away.
        ([1e30, 1e30], [1e30, -1e30], [INF, -INF, NAN, 0], []),
        # The sum is small, the way there may be too far; never to −∞.
        ([3e38, 3e38, -3e38], [1, 1, -1], [INF], [-INF, NAN, 3e38]),
        ([3e38, 3e38, -3e38], [1, 1, 1], [INF, 3e38], [-INF, NAN, 2e38]),
        # Nothing overflows in any order.
        ([1e38, 1e38], [1, 1], [2e38], [INF, NAN, 1e38]),
        # What is infinite before stays so.
        ([INF, 1.0], [1, 1], [INF], [-INF, NAN, 1.0]),
        ([INF, 1.0], [-1, 1], [-INF], [INF, NAN, 1.0]),
        ([INF, INF], [1, -1], [NAN], [INF, -INF, 0.0]),
        ([INF, 1.0], [0, 1], [NAN], [INF, 1.0]),
        ([NAN, 1.0], [1, 1], [NAN], [INF, 1.0]),
        ([INF, 3e38, 3e38], [1, -1, -1], [INF, NAN], [-INF, 0.0]),
    ],
)
def test_sums(x, weight, right, wrong):
    assert [dense(x, weight, y) for y in right] == [CERTIFIED] * len(right)
    assert [dense(x, weight, y) for y in wrong] == [DIVERGED] * len(wrong)


def test_every_order_of_summation_is_certified():
    """Whatever float32 arithmetic gives, in whichever order, with and without a wider accumulator, is allowed."""
    for _ in range(200):
        x = (GENERATOR.standard_normal(4) * 10.0 ** GENERATOR.integers(17, 20, 4)).astype(np.float32)
        weight = (GENERATOR.standard_normal(4) * 10.0 ** GENERATOR.integers(17, 20, 4)).astype(np.float32)
        with np.errstate(all="ignore"):
            products = x * weight
            found = {float(np.float32(x.astype(float) @ weight.astype(float)))}
            for order in itertools.permutations(products):
                left = order[0] + order[1] + order[2] + order[3]
                found |= {float(left), float((order[0] + order[1]) + (order[2] + order[3]))}
        for output in found:
            assert dense(x, weight, output) == CERTIFIED, (x, weight, output)


def test_the_message_says_that_it_overflows():
    parameters = {"weight": np.float32([[1, 1]]), "bias": np.float32([0])}
    told = verdict_on(Dense(1), [[INF]], np.float32([[1e38, 1e38]]), parameters)
    assert told.cause == "layer overflows where float32 need not"
    told = verdict_on(Dense(1), [[3e38]], np.float32([[3e38, 3e38]]), parameters)
    assert told.cause == "layer does not overflow where float32 must"
    told = verdict_on(Dense(1), [[INF]], np.float32([[3e38, 3e38]]), parameters)
    assert (told.verdict, told.cause, told.overflows) == (CERTIFIED, None, True)


MAP = np.float32([[[[1, INF], [-INF, NAN]], [[1, 2], [3, 4]]]])
FINITE = {
    "gamma": np.float32([1, 1]),
    "beta": np.float32([0, 0]),
    "mean": np.float32([0, 0]),
    "variance": np.float32([1, 1]),
}


def torch_gives(operation, x, parameters):
    """What PyTorch makes of it: an implementation of IEEE 754 that was not written here."""
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(x)
    p = {name: torch.from_numpy(array) for name, array in parameters.items()}
    functions = {
        ReLU: lambda: torch.relu(x),
        MaxPool: lambda: torch.max_pool2d(x, 2),
        AveragePool: lambda: torch.nn.functional.avg_pool2d(x, 2),
        GlobalAveragePool: lambda: torch.nn.functional.adaptive_avg_pool2d(x, 1),
        AdaptiveAveragePool: lambda: torch.nn.functional.adaptive_avg_pool2d(x, 2),
        Sigmoid: lambda: torch.sigmoid(x),
        ScaledTanh: lambda: 1.7159 * torch.tanh(2 / 3 * x),
        BatchNorm: lambda: torch.nn.functional.batch_norm(x, p["mean"], p["variance"], p["gamma"], p["beta"], eps=1e-5),
        Add: lambda: x + x,
        Concat: lambda: torch.cat([x, x], 1),
        Flatten: lambda: x.flatten(1),
        LRN: lambda: torch.nn.functional.local_response_norm(x, 5, 1e-4, 0.75, 1.0),
        Conv: lambda: torch.conv2d(x, p["weight"], p["bias"]),
        SubSampling: lambda: 4 * torch.nn.functional.avg_pool2d(x, 2) * p["weight"] + p["bias"],
    }
    return functions[type(operation)]().numpy()


@pytest.mark.parametrize("scale", [1, 1e19, 1e30, 3e38])
@pytest.mark.parametrize(
    "operation",
    [
        ReLU(),
        MaxPool(2, 2),
        AveragePool(2, 2),
        GlobalAveragePool(),
        AdaptiveAveragePool(2),
        Sigmoid(),
        ScaledTanh(1.7159, 2 / 3),
        BatchNorm(1e-5),
        Add(),
        Concat(),
        Flatten(),
        LRN(5, 1e-4, 0.75, 1.0),
        Conv(2, filters=3),
        SubSampling(),
    ],
    ids=lambda operation: operation.kind,
)
def test_what_pytorch_makes_of_the_infinite_and_the_huge_is_certified(operation, scale):
    for x in (MAP, GENERATOR.uniform(-1, 1, (2, 2, 4, 6)).astype(np.float32) * np.float32(scale)):
        x = np.tile(x, (1, 1, 2, 2))
        parameters = dict(FINITE) if isinstance(operation, BatchNorm) else {}
        if not parameters:
            wanted = operation.parameter_shapes(*[x.shape[1:]] * (2 if isinstance(operation, Add | Concat) else 1))
            parameters = {name: GENERATOR.uniform(-3, 3, shape).astype(np.float32) for name, shape in wanted.items()}
        output = torch_gives(operation, x, parameters)
        assert verdict_on(operation, output, x, parameters).verdict != DIVERGED
        wrong = output.copy()
        wrong.flat[0] = 1e-3 if wrong.flat[0] == 0 else -wrong.flat[0] * np.float32(0.75)
        if np.isfinite(output.flat[0]) and not isinstance(operation, LRN):
            assert verdict_on(operation, wrong, x, parameters).verdict == DIVERGED


def test_a_whole_network_of_huge_weights_is_certified():
    from common import get_spec

    spec = get_spec("lenet_caffe")
    probe = random_probe(spec)
    huge = {name: array * np.float32(1e30) for name, array in probe.weights.items()}
    probe = Probe("random", huge, probe.image)
    values = {IMAGE: probe.image}
    with np.errstate(all="ignore"):
        for layer in spec.layers:
            own = {name.partition("/")[2]: array for name, array in huge.items() if name.startswith(f"{layer.name}/")}
            reference = evaluate(layer.operation, [values[layer.inputs[0]]], own)
            values[layer.name] = reference.value.astype(np.float32)
        verdicts = judge(spec, probe, {name: array for name, array in values.items() if name != IMAGE})
    assert all(verdict.verdict != DIVERGED for verdict in verdicts)
    assert any(verdict.overflows for verdict in verdicts)


def test_nothing_is_asked_where_nothing_is_near():
    reference = evaluate(ReLU(), [np.ones((1, 2), np.float32)], {})
    assert with_overflow(ReLU(), [np.ones((1, 2), np.float32)], {}, reference) is reference


def test_equal_infinities_are_no_difference():
    with np.errstate(all="raise"):
        one = np.float32([[INF, NAN, 1]])
        found = compare("torch", "tf1", "logits", one, one.copy())
    assert (found.largest_absolute, found.largest_relative, found.tolerance) == (0, 0, 0)
