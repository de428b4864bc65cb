"""Causes, one layer at a time: mistakes that no mutant makes, and what must not be called a cause."""

import numpy as np
import pytest

from common.operations import (
    LRN,
    SAME,
    AdaptiveAveragePool,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    GlobalAveragePool,
    MaxPool,
    ReLU,
    Sigmoid,
    SubSampling,
    evaluate,
)
from common.operations.mistake import Evaluation
from common.operations.sums import rounded
from common.parity.judge import judge
from common.parity.verdicts import CERTIFIED, DIVERGED
from common.probes import Probe
from common.specs.architecture import IMAGE, Architecture, Layer

GENERATOR = np.random.default_rng(0)


def normal(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


X = normal(3, 4, 14, 11) * 50
BN = {"gamma": normal(4), "beta": normal(4), "mean": normal(4), "variance": np.abs(normal(4))}
CONV = {"weight": normal(6, 4, 3, 3), "bias": normal(6)}


def verdict_on(operation, output, x=X, parameters=None):
    """Of a network of one layer whose backend gave `output`."""
    weights = {f"layer/{name}": array for name, array in (parameters or {}).items()}
    layers = (Layer("layer", operation, (IMAGE,)),)
    spec = Architecture("tiny", "tiny", "", 2025, "", x.shape[1:], layers, {"logits": "layer"})
    (verdict,) = judge(spec, Probe("random", weights, x), {"layer": output.astype(np.float32)})
    return verdict


def value(operation, x=X, parameters=None):
    return evaluate(operation, [x], parameters or {}).value


def channel(parameter):
    return parameter.astype(float).reshape(-1, 1, 1)


def normalised(gamma, beta, mean, variance, eps):
    """With eps in the wrong place."""
    return channel(gamma) * (X - channel(mean)) / (np.sqrt(channel(variance)) + eps) + channel(beta)


def with_holes(kernel):
    larger = np.zeros((*kernel.shape[:2], 5, 5), np.float32)
    larger[:, :, ::2, ::2] = kernel
    return larger


def padded(x, **options):
    return np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), **options)


CASES = {
    "the map is padded with zeros, which can win": (
        MaxPool(3, 2, 1),
        value(MaxPool(3, 2), padded(-abs(X))),
        -abs(X),
        {},
    ),
    "the border is repeated": (
        Conv(3, 1, 1, filters=6),
        value(Conv(3, filters=6), padded(X, mode="edge"), CONV),
        X,
        CONV,
    ),
    "the weights are rounded to float16": (
        Conv(3, filters=6),
        value(Conv(3, filters=6), X, {**CONV, "weight": CONV["weight"].astype(np.float16).astype(np.float32)}),
        X,
        CONV,
    ),
    "factors and result are rounded to bfloat16": (
        Conv(3, filters=6),
        rounded(value(Conv(3, filters=6), rounded(X, 8), {**CONV, "weight": rounded(CONV["weight"], 8)}), 8),
        X,
        CONV,
    ),
    "the sum is divided by 49, not 154": (
        GlobalAveragePool(),
        X.sum(axis=(2, 3), keepdims=True, dtype=float) / 49,
        X,
        {},
    ),
    "the average is over windows of 5×5 with stride 3": (
        AdaptiveAveragePool(4),
        value(AveragePool(5, 3), X[:, :, :, :1].repeat(14, axis=3)),
        X[:, :, :, :1].repeat(14, axis=3),
        {},
    ),
    "the padding is TensorFlow's SAME, and not counted": (
        AveragePool(2, 2),
        value(AveragePool(2, 2), np.pad(X, ((0, 0), (0, 0), (0, 0), (0, 1)), mode="edge")),
        X,
        {},
    ),
    "an ELU is taken, not a ReLU": (ReLU(), np.where(X > 0, X, np.expm1(np.minimum(X.astype(float), 0))), X, {}),
    "a hard sigmoid of slope 0.2 is taken": (Sigmoid(), (0.2 * X.astype(float) + 0.5).clip(0, 1), X, {}),
    "the bias is added before the coefficient is applied": (
        SubSampling(),
        value(SubSampling(), X, {"weight": np.float32([[[2]]] * 4), "bias": np.float32([[[6]]] * 4)}),
        X,
        {"weight": np.float32([[[2]]] * 4), "bias": np.float32([[[3]]] * 4)},
    ),
    "k is 2 and alpha is not divided by the size": (
        LRN(5, 1e-4, 0.75, 1.0),
        value(LRN(5, 5e-4, 0.75, 2.0)),
        X,
        {},
    ),
    "radius 5, bias 1, alpha 1 and beta 0.5 are TensorFlow's defaults": (
        LRN(5, 1e-4, 0.75, 1.0),
        X / np.sqrt(1 + np.square(X.astype(float)).sum(axis=1, keepdims=True)),
        X,
        {},
    ),
    "eps is added after the root": (
        BatchNorm(1e-3),
        (X - channel(BN["mean"])) * channel(BN["gamma"]) / (channel(BN["variance"]) ** 0.5 + 1e-3)
        + channel(BN["beta"]),
        X,
        BN,
    ),
    "the kernel is dilated by 2": (
        Conv(3, 1, 1, filters=6),
        value(Conv(5, 1, 2, filters=6), X, {**CONV, "weight": with_holes(CONV["weight"])}),
        X,
        CONV,
    ),
    "beta and mean are exchanged": (
        BatchNorm(1e-3),
        value(BatchNorm(1e-3), X, {**BN, "beta": BN["mean"], "mean": BN["beta"]}),
        X,
        BN,
    ),
    "the statistics are the batch's, as in training": (
        BatchNorm(1e-3),
        value(BatchNorm(1e-3), X, {**BN, "mean": X.mean(axis=(0, 2, 3)), "variance": X.var(axis=(0, 2, 3))}),
        X,
        BN,
    ),
}


ONE_OF_TWO = {"the weights are rounded to float16": ("the weights are rounded to TF32",)}
"""What no number tells from another mistake; both have 11 bits, and nothing here is too small or too large for one."""


@pytest.mark.parametrize("cause", CASES)
def test_the_mistake_is_named(cause):
    operation, output, x, parameters = CASES[cause]
    verdict = verdict_on(operation, output, x, parameters)
    assert verdict.explanations[: 1 + (cause in ONE_OF_TWO)] == (cause, *ONE_OF_TWO.get(cause, ()))
    assert len(verdict.explanations) == 1 + (cause in ONE_OF_TWO)
    right = verdict_on(operation, value(operation, x, parameters), x, parameters)
    assert (right.verdict != DIVERGED, right.cause) == (True, None)


def test_what_no_mistake_explains_has_no_name():
    output = value(Conv(3, filters=6), X, CONV)
    verdict = verdict_on(Conv(3, filters=6), output + normal(*output.shape), X, CONV)
    assert (verdict.verdict, verdict.cause) == (DIVERGED, None)
    assert {"the bias is missing", "the padding is TensorFlow's SAME", "factors are rounded to TF32"} <= {
        *verdict.excluded
    }


def test_a_mistake_must_explain_every_image():
    """Without its bias the first image is explained, the second is not."""
    output = value(Conv(3, filters=6), X, CONV)
    output[0] -= CONV["bias"].reshape(-1, 1, 1)
    output[1] += 1
    assert verdict_on(Conv(3, filters=6), output, X, CONV).cause is None


def test_a_mistake_that_only_one_image_shows():
    """Two images hold nothing below zero, so only the third tells that the ReLU is missing."""
    x = abs(X)
    x[2] = X[2]
    assert verdict_on(ReLU(), x, x).cause == "the ReLU is missing"


def test_few_wrong_channels_are_named():
    x = normal(2, 16, 5, 7)
    output = x.copy()
    output[:, 11] += 1
    assert verdict_on(MaxPool(1), output, x).cause == "no known mistake; only 1 of 16 channels differ (11)"


def test_a_wide_bound_is_no_proof():
    """Rounding in logits of ten million leaves softmax with any value: it must not take the blame."""
    x, parameters = normal(2, 30) * 1e6, {"weight": normal(7, 30) * 100, "bias": normal(7)}
    output = value(Dense(7), x, parameters)
    assert verdict_on(Dense(7), output * 1.5, x, parameters).cause is None


def test_equal_mistakes_have_the_plainer_name():
    """Around a map of one pixel SAME and a padding of 1 are the same."""
    x = normal(2, 4, 1, 1)
    output = value(Conv(3, 1, SAME, filters=6), x, CONV)
    shifted = Conv(3, 1, ((2, 0), (1, 1)), filters=6)
    assert verdict_on(shifted, output, x, CONV).cause == "the padding is TensorFlow's SAME"


def winograd(x, weight):
    """F(4×4, 3×3) in float32 (Lavin, Gray 2015), for maps whose output is a multiple of four."""
    b = np.float32(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    )
    g = np.float32([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / np.float32(24)
    a = np.float32([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
    tiles = np.lib.stride_tricks.sliding_window_view(x, (6, 6), axis=(2, 3))[:, :, ::4, ::4]
    products = np.einsum("fcij,nchwij->nfhwij", g @ weight @ g.T, b @ tiles @ b.T)
    blocks = a @ products @ a.T
    return blocks.swapaxes(3, 4).reshape(*blocks.shape[:2], blocks.shape[2] * 4, -1)


def test_a_fast_algorithm_is_told_from_a_sum_by_integers_only():
    """Winograd's sixths are not exact; its errors are of float32's size, and a certificate does not forbid them."""
    weight = GENERATOR.integers(-1, 2, (6, 4, 3, 3)).astype(np.float32)
    parameters = {"weight": weight, "bias": np.zeros(6, np.float32)}
    integers, numbers = GENERATOR.integers(-99, 100, (2, 4, 10, 14)).astype(np.float32), normal(2, 4, 10, 14)
    conv = Conv(3, filters=6)
    assert verdict_on(conv, winograd(numbers, weight), numbers, parameters).verdict == CERTIFIED
    spec = Architecture(
        "tiny", "tiny", "", 2025, "", (4, 10, 14), (Layer("layer", conv, (IMAGE,)),), {"logits": "layer"}
    )
    expected = {"layer": value(conv, integers, parameters).astype(np.float32)}
    weights = {f"layer/{name}": array for name, array in parameters.items()}
    probe = Probe("exact", weights, integers, expected=expected)
    (verdict,) = judge(spec, probe, {"layer": winograd(integers, weight)})
    assert verdict.verdict == DIVERGED
    assert "integers are not summed exactly, as by a fast algorithm" in verdict.cause


@pytest.mark.parametrize(
    ("groups", "filters"), [(1, 12), (2, 12), (4, 12), (6, 12), (12, 12), (3, 6), (1, 4), (12, 24)]
)
def test_the_first_filters_are_those_of_the_whole(groups, filters):
    """What excludes most mistakes: filters of the first group, or whole groups, such as of a depthwise convolution."""
    operation = Conv(3, 2, 1, filters=filters, groups=groups)
    x, *_ = arrays = [np.random.default_rng(0).standard_normal((2, 12, 7, 9)).astype(np.float32)]
    parameters = {
        name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        for name, shape in operation.parameter_shapes(x.shape[1:]).items()
    }
    whole = Evaluation(operation, arrays, parameters)
    first = whole.of_first(4)
    if filters == 4 or filters // groups == 3:
        assert first is None
    else:
        np.testing.assert_array_equal(first().value, whole().value[:, :4])
        assert first().value.shape[1] == 4
