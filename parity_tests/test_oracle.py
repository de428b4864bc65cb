"""The oracle against plain loops, and its bounds against float32 arithmetic of every kind."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.operations import LRN, Conv, Dense, Flatten, MaxPool, ReLU, evaluate
from common.operations.rounding import gamma

SHAPE = (2, 4, 7, 5)  # N, C, H, W: all different, H and W odd


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def convolve_by_definition(image, weight, bias, stride, padding, groups):
    """The definition, element by element, in Python's own float64."""
    (top, bottom), (left, right) = padding
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    filters, channels, kernel_height, kernel_width = weight.shape
    height = (padded.shape[2] - kernel_height) // stride[0] + 1
    width = (padded.shape[3] - kernel_width) // stride[1] + 1
    out = np.zeros((len(image), filters, height, width))
    for n, f, y, x in itertools.product(*map(range, out.shape)):
        first = f // (filters // groups) * channels
        window = padded[
            n,
            first : first + channels,
            y * stride[0] : y * stride[0] + kernel_height,
            x * stride[1] : x * stride[1] + kernel_width,
        ]
        out[n, f, y, x] = (window * weight[f]).sum() + bias[f]
    return out


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 1))])
def test_convolution_is_the_definition(groups, stride, padding):
    operation = Conv((3, 2), stride=stride, padding=padding, filters=6, groups=groups)
    image, weight, bias = normal(*SHAPE), normal(6, 4 // groups, 3, 2, seed=1), normal(6, seed=2)
    reference = evaluate(operation, [image], {"weight": weight, "bias": bias})
    expected = convolve_by_definition(image, weight, bias, stride, padding, groups)
    np.testing.assert_allclose(reference.value, expected, rtol=1e-13, atol=1e-13)
    magnitude = convolve_by_definition(abs(image), abs(weight), abs(bias), stride, padding, groups)
    np.testing.assert_allclose(reference.magnitude, magnitude, rtol=1e-6)
    spread = np.sqrt(convolve_by_definition(image**2, weight**2, 0 * bias, stride, padding, groups))
    np.testing.assert_allclose(reference.spread, spread, rtol=1e-5)


def test_convolution_of_an_empty_batch():
    reference = evaluate(Conv(3, filters=6), [normal(0, 4, 7, 5)], {"weight": normal(6, 4, 3, 3), "bias": normal(6)})
    assert reference.value.shape == (0, 6, 5, 3)


def test_dense_is_the_definition():
    features, weight, bias = normal(3, 11), normal(7, 11, seed=1), normal(7, seed=2)
    reference = evaluate(Dense(7), [features], {"weight": weight, "bias": bias})
    np.testing.assert_allclose(reference.value, features.astype(float) @ weight.astype(float).T + bias, rtol=1e-13)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), terms=st.integers(1, 400), exponent=st.integers(-60, 60), one_sign=st.booleans())
def test_every_order_of_summation_lies_within_the_bound(seed, terms, exponent, one_sign):
    generator = np.random.default_rng(seed)
    features = (generator.standard_normal((2, terms)) * 2.0**exponent).astype(np.float32)
    weight = generator.standard_normal((3, terms)).astype(np.float32)
    if one_sign:
        features, weight = abs(features), abs(weight)
    bias = generator.standard_normal(3).astype(np.float32)
    reference = evaluate(Dense(3), [features], {"weight": weight, "bias": bias})
    order = generator.permutation(terms)
    products = features[:, None, order] * weight[None][:, :, order]
    forwards = np.add.accumulate(products, axis=2, dtype=np.float32)[..., -1] + bias
    backwards = np.add.accumulate(products[..., ::-1], axis=2, dtype=np.float32)[..., -1] + bias
    pairwise = features @ weight.T + bias
    for computed in (forwards, backwards, pairwise):
        assert (abs(computed - reference.value) <= reference.bound).all()


def test_the_bound_is_not_wider_than_it_says():
    features, weight, bias = normal(3, 50), normal(7, 50, seed=1), normal(7, seed=2)
    reference = evaluate(Dense(7), [features], {"weight": weight, "bias": bias})
    magnitude = abs(features).astype(float) @ abs(weight).astype(float).T + abs(bias)
    np.testing.assert_allclose(reference.bound, gamma(51) * magnitude, rtol=1e-4)


def lrn_by_definition(x, size, alpha, beta, k):
    out = np.zeros(x.shape)
    for channel in range(x.shape[1]):
        window = x[:, max(0, channel - size // 2) : channel + size // 2 + 1].astype(float)
        out[:, channel] = x[:, channel] * (k + alpha / size * (window**2).sum(1)) ** -beta
    return out


@pytest.mark.parametrize("size", [3, 5])
def test_lrn_is_the_definition(size):
    x = normal(2, 7, 3, 4) * 50
    reference = evaluate(LRN(size=size, alpha=1e-2, beta=0.75, k=2.0), [x], {})
    np.testing.assert_allclose(reference.value, lrn_by_definition(x, size, 1e-2, 0.75, 2.0), rtol=1e-13)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0, 1e5])
@pytest.mark.parametrize("running", [False, True], ids=["summed", "carried along"])
def test_lrn_in_float32_lies_within_the_bound(scale, running):
    x = abs(normal(2, 192, 3, 4)) * np.float32(scale)
    reference = evaluate(LRN(size=5, alpha=1e-4, beta=0.75, k=1.0), [x], {})
    terms = np.pad(x * x * np.float32(1e-4 / 5), ((0, 0), (2, 2), (0, 0), (0, 0)))
    if running:  # as Caffe does: add the channel that enters the window, subtract the one that leaves it
        sums = [terms[:, :5].sum(1, dtype=np.float32) + np.float32(1)]
        for channel in range(1, 192):
            sums.append(sums[-1] + terms[:, channel + 4] - terms[:, channel - 1])
        s = np.stack(sums, axis=1)
    else:
        s = np.float32(1) + sum(terms[:, offset : offset + 192] for offset in range(5))
    for computed in (x * s ** np.float32(-0.75), x / np.exp(np.float32(0.75) * np.log(s))):
        assert computed.dtype == np.float32
        assert (abs(computed - reference.value) <= reference.bound).all()


def test_selections_are_exact():
    x = normal(*SHAPE)
    pooled = evaluate(MaxPool((3, 2), stride=2, padding=((1, 0), (0, 1))), [x], {})
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 1)), constant_values=-np.inf)
    assert pooled.bound is None
    assert pooled.value[1, 2, 1, 2] == padded[1, 2, 2:5, 4:6].max()
    assert (evaluate(ReLU(), [x], {}).value == np.maximum(x, 0)).all()
    assert (evaluate(Flatten(), [x], {}).value == x.reshape(2, -1)).all()
