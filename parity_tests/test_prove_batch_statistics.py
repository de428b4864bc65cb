"""Batch normalisations whose statistics are computed from the batch in evaluation too, as no runtime shows them."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from test_prove import Builder, feeds_of, normal, recorded

from common.graphs import read_graph
from common.operations.batch_norm import STATISTICS, BatchNorm
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL
from common.prove.judging import UNPROVED, judge_graph

AXES = np.array([0, 2])
GAMMA, BETA = 1 + normal(5), normal(5)


def standardising(*, eps=1e-3, gamma=GAMMA, axes=AXES, unbiased=1.0):
    """As PyTorch's exporter writes it: the mean, the mean square of the distances, and a normalisation with both."""
    add = Builder(3, 5, 7)
    mean = add("ReduceMean", "mean", "x", AXES, keepdims=0)
    kept = add("ReduceMean", "kept", "x", axes, keepdims=1)
    distance = add("Sub", "distance", "x", kept)
    square = add("Mul", "square", distance, distance)
    variance = add("ReduceMean", "variance", square, AXES, keepdims=0)
    if unbiased != 1:
        variance = add("Mul", "unbiased", variance, np.float32([unbiased]))
    out = add("BatchNormalization", "norm", "x", gamma, BETA, mean, variance, epsilon=eps)
    return add.model(out)


def verdict_of(wrong, model=None):
    """The verdict on the normalisation, if a runtime shows nothing but what it makes."""
    model = model or standardising()
    feeds = feeds_of(model)
    values = feeds | {"norm_out": recorded(wrong, feeds)["norm_out"]}
    (verdict,) = judge_graph(read_graph("mine.onnx", model), values)
    return verdict


def test_statistics_that_no_runtime_shows_are_carried():
    assert verdict_of(standardising()).verdict in (IDENTICAL, CERTIFIED)


@pytest.mark.parametrize(
    "wrong",
    [
        {"eps": 1.1e-3},
        {"gamma": np.roll(GAMMA, 1)},
        {"gamma": GAMMA * np.float32(1.0001)},
        {"axes": np.array([2])},
        {"unbiased": 21 / 20},
    ],
)
def test_a_mistake_in_them_is_found(wrong):
    assert verdict_of(standardising(**wrong)).verdict == DIVERGED


def test_a_variance_that_may_be_0_or_less_proves_nothing():
    model = standardising(eps=0.0)
    x = np.full((3, 5, 7), 0.1, np.float32)
    x[1] = np.nextafter(x[1], np.float32(1))
    values = {"x": x, "norm_out": np.zeros_like(x)}
    (verdict,) = judge_graph(read_graph("mine.onnx", model), values)
    assert verdict.verdict == UNPROVED
    assert verdict.cause == "its variance may be 0 or less, by the errors of what it is computed from"


@pytest.mark.parametrize("size", [1e-6, 1e-2, 0.3])
def test_no_errors_of_parameters_reach_further(size):
    """Random errors, and all of the largest size, against the formula in float64."""
    rng = np.random.default_rng(5)
    x, norm = normal(3, 5, 7), BatchNorm(1e-3)
    parameters = dict(zip(STATISTICS, (GAMMA, BETA, normal(5), 0.4 + np.abs(normal(5))), strict=True))
    doubts = {name: size * rng.random(5) for name in STATISTICS}
    error = size * rng.random(x.shape)
    bound = norm.carried_from([x], [error], parameters, doubts)

    def value(share):
        """With a share, from −1 to 1, of each error."""
        g, b, m, v = ((parameters[name] + share() * doubts[name])[:, np.newaxis] for name in STATISTICS)
        return (x + share() * error - m) / np.sqrt(v + 1e-3) * g + b

    right, furthest = value(lambda: 0), np.zeros(x.shape)
    for share in (lambda: rng.choice([-1, 1]), lambda: rng.uniform(-1, 1)):
        for _ in range(200):
            furthest = np.maximum(furthest, np.abs(value(share) - right))
    assert (furthest <= bound).all()
    assert (furthest > 0.2 * bound).any()


@pytest.mark.filterwarnings("ignore")  # of exporters
def test_a_model_that_standardises_what_it_is_given():
    """Its statistics are never stored: `track_running_stats=False`, and convolutions with standardised weights."""
    pytest.importorskip("onnxscript")
    torch = pytest.importorskip("torch")
    from common.prove.api import prove

    torch.manual_seed(3)
    norm = torch.nn.BatchNorm2d(5, eps=1e-3, track_running_stats=False)
    norm.weight.data.uniform_(0.5, 1.5)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), norm, torch.nn.ReLU(), torch.nn.Conv2d(5, 7, 2))
    report = prove(net, example=torch.randn(3, 3, 6, 9), backends=["torch", "onnxruntime"])
    assert report.verdict == "certified", str(report)
