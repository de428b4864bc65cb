"""The oracle against plain loops, and its bounds against float32 arithmetic of every kind."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.operations import (
    LRN,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    ReLU,
    Softmax,
    arrays,
    conv,
    dense,
    evaluate,
)
from common.operations import operation as operations
from common.operations.arithmetic import Add, BroadcastAdd, Divide, Multiply, SquareRoot, Subtract
from common.operations.evaluation import evaluate_in_pieces, is_correctly_rounded
from common.operations.rounding import FP32, Reference, gamma
from common.operations.windows import over_windows, windows_of
from common.parity.measures import (
    _ulp_distances,
    _ulp_distances_if_finite,
    measure,
    measure_in_pieces,
    sizes_of_errors,
    verdict_from,
)
from common.parity.verdicts import DIVERGED, IDENTICAL

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


@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 1)), ((0, 0), (2, 0))])
@pytest.mark.parametrize("across", [16, 2, 1])
def test_convolution_by_depth_is_the_definition(stride, padding, across, monkeypatch):
    monkeypatch.setattr(conv, "_ACROSS", across)
    operation = Conv((3, 2), stride=stride, padding=padding, filters=4, groups=4)
    image, weight, bias = normal(*SHAPE), normal(4, 1, 3, 2, seed=1), normal(4, seed=2)
    reference = evaluate(operation, [image], {"weight": weight, "bias": bias})
    expected = convolve_by_definition(image, weight, bias, stride, padding, 4)
    np.testing.assert_allclose(reference.value, expected, rtol=1e-13, atol=1e-13)
    magnitude = convolve_by_definition(abs(image), abs(weight), abs(bias), stride, padding, 4)
    np.testing.assert_allclose(reference.magnitude, magnitude, rtol=1e-6)
    spread = np.sqrt(convolve_by_definition(image**2, weight**2, 0 * bias, stride, padding, 4))
    np.testing.assert_allclose(reference.spread, spread, rtol=1e-5)


STATISTICS = {"gamma": normal(4, seed=1), "beta": normal(4, seed=2), "mean": normal(4, seed=3), "variance": np.ones(4)}
PIECEMEAL = {
    "convolution": (Conv((3, 2), padding=1, filters=6, bias=False), SHAPE, {"weight": normal(6, 4, 3, 2, seed=1)}),
    "in groups": (Conv(3, padding=1, filters=6, groups=2, bias=False), SHAPE, {"weight": normal(6, 2, 3, 3, seed=1)}),
    "by depth": (Conv(3, stride=2, filters=4, groups=4, bias=False), SHAPE, {"weight": normal(4, 1, 3, 3, seed=1)}),
    "normalisation": (BatchNorm(1e-5), SHAPE, {name: array.astype(np.float32) for name, array in STATISTICS.items()}),
    "pool": (MaxPool(2), SHAPE, {}),
    "dense": (Dense(9), (2, 35), {"weight": normal(9, 35, seed=1), "bias": normal(9, seed=2)}),
    "in one": (Softmax(), (2, 9), {}),
}


@pytest.mark.parametrize("called", PIECEMEAL)
@pytest.mark.parametrize("wrong", [0.0, 3e-7, 1e-3])
def test_a_verdict_is_the_same_in_pieces(called, wrong, monkeypatch):
    """Each unit is wrong by another factor, so that what belongs to one must not be counted for another."""
    operation, shape, parameters = PIECEMEAL[called]
    inputs = [normal(*shape)]
    whole = evaluate(operation, inputs, parameters)
    units = np.arange(whole.value.shape[1]).reshape(-1, *[1] * (whole.value.ndim - 2))
    output = (whole.value * (1 + wrong * units)).astype(np.float32)
    expected = verdict_from(called, [measure(output, whole)], FP32)
    for room in (arrays, conv, dense, operations):
        monkeypatch.setattr(room, "ELEMENTS_AT_ONCE", 8)
    pieces = list(evaluate_in_pieces(operation, inputs, parameters))
    assert (len(pieces) == 1) == (called == "in one")
    found = measure_in_pieces(output, pieces)
    verdict = verdict_from(called, [found], FP32)
    assert replace(verdict, bound_ratio=None) == replace(expected, bound_ratio=None)
    assert (verdict.bound_ratio or 0) == pytest.approx(expected.bound_ratio or 0, rel=1e-6)
    sizes = [sizes_of_errors(each.squares, each.counted) for each in (found, measure(output, whole))]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)
    assert measure_in_pieces(output[:, 1:], pieces) is None
    assert measure_in_pieces(np.concatenate([output, output], axis=1), pieces) is None


def test_what_grows_too_large_is_judged_in_pieces_too(monkeypatch):
    """One channel overflows; the other must not."""
    operation, x = BatchNorm(1e-5), normal(1, 2, 3, 3)
    parameters = {name: np.ones(2, np.float32) for name in STATISTICS} | {"gamma": np.float32([1, 3e38])}
    monkeypatch.setattr(operations, "ELEMENTS_AT_ONCE", 8)
    with np.errstate(over="ignore"):
        output = evaluate(operation, [x], parameters).value.astype(np.float32)
    assert np.isinf(output[:, 1]).any()
    for changed, overflow in ((output, "right"), (np.where(np.isinf(output), np.float32(0), output), "needed")):
        pieces = evaluate_in_pieces(operation, [x], parameters)
        found = measure_in_pieces(changed, pieces)
        assert found.overflow == overflow
    wrong = output.copy()
    wrong[0, 0, 1, 1] = np.inf
    assert measure_in_pieces(wrong, evaluate_in_pieces(operation, [x], parameters)).overflow == "wrong"


def test_distances_in_units_in_the_last_place():
    """Through zero, of zeros of both signs, of subnormal and of far numbers; counted as 0, 1, 2–3, 4–7, …"""
    numbers = np.float32([0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, np.nextafter(np.float32(1), np.float32(2)), 3e38])
    left, right = (array.reshape(-1) for array in np.meshgrid(numbers, numbers))
    places = [(int(n.view(np.int32)) & 0x7FFFFFFF) * (-1 if np.signbit(n) else 1) for n in numbers]
    apart = [abs(one - other) for other in places for one in places]
    expected = np.bincount([distance.bit_length() for distance in apart])
    assert _ulp_distances(left, right) == (max(apart), tuple(expected))
    assert _ulp_distances_if_finite(np.float32([1, np.inf]), np.float32([1, 1])) == (None, ())
    assert _ulp_distances(np.float32([]), np.float32([])) == (0, (0,))


SPECIAL = np.float32([0, -0.0, 1e-45, -1e-45, 2.0**-126, 1, -1, 3e38, -3e38, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("shape", [(0, 3, 4), (7,), (2, 9), (1, 3, 5), (2, 4, 3, 3), (1, 8, 40, 41)])
@pytest.mark.parametrize("specials", [0, 9, 12])
@pytest.mark.parametrize("seed", range(4))
def test_a_measure_is_what_its_definition_says(shape, specials, seed):
    """Of the first of the special numbers, finite ones, or of all; over and under the range in which spread counts."""
    generator = np.random.default_rng([seed, specials])
    value = generator.standard_normal(shape) * 10.0 ** generator.integers(-44, 30)
    output = (value * (1 + generator.standard_normal(shape) * 10.0 ** generator.integers(-9, 0))).astype(np.float32)
    if specials:
        places = generator.random(shape) < 0.2
        output[places] = generator.choice(SPECIAL[:specials], places.sum())
        places = generator.random(shape) < 0.2
        value[places] = generator.choice(SPECIAL[: min(specials, 9)], places.sum())
    bound, spread = np.abs(value) * 1e-7 + 1e-37, (np.abs(value) * generator.random(shape)).astype(np.float32)
    found = measure(output, Reference(value, bound, spread=spread))
    with np.errstate(all="ignore"):
        error = np.abs(output.astype(np.float64) - value)
        assert np.array_equal(found.ratio, np.max(error / bound, initial=0.0), equal_nan=True)
        least = np.float32(2.0**-78)
        counts = (np.abs(value) <= 4 * spread) & (spread > least)
        ratios = error.astype(np.float32) / np.maximum(spread, least).astype(np.float64)
        scaled = np.minimum(ratios, 2.0**50) * counts * 2.0**24
    over = (0, *range(2, len(shape)))
    units = 1 if len(shape) == 1 else None
    np.testing.assert_allclose(found.squares, np.square(scaled).sum(axis=None if units else over), rtol=1e-5)
    np.testing.assert_array_equal(found.counted, counts.sum(axis=None if units else over))
    if not np.isfinite(output).all():
        assert (found.ulp, found.histogram) == (None, ())
        return
    places = [(array.view(np.int32).astype(np.int64)) for array in (output, value.astype(np.float32))]
    one, other = (np.where(bits < 0, -(bits & 0x7FFFFFFF), bits) for bits in places)
    apart = np.abs(one - other).reshape(-1)
    assert found.ulp == apart.max(initial=0)
    assert found.histogram == tuple(np.bincount([int(distance).bit_length() for distance in apart], minlength=1))


def test_where_no_error_is_allowed_only_what_differs_is_off_and_nothing_is_called_nan():
    """As of outputs on whose way nothing rounds: the bound is 0, and so are most errors."""
    right = np.arange(12.0).reshape(2, 6)
    reference = Reference(right, np.zeros((2, 6)))
    output = right.astype(np.float32)
    assert measure(output, reference).ratio == 0
    assert verdict_from("fc", [measure(output, reference)], FP32).verdict == IDENTICAL
    output[1, 2] += 1
    assert measure(output, reference).ratio == np.inf
    found = verdict_from("fc", [measure(output, reference)], FP32)
    assert (found.verdict, found.cause) == (DIVERGED, None)
    output[0, 3] = np.nan
    found = verdict_from("fc", [measure(output, reference)], FP32)
    assert (found.verdict, found.cause) == (DIVERGED, "fc holds NaN or infinity")


@pytest.mark.parametrize("bias", [None, 0.5, 2.0**100])
@pytest.mark.parametrize("scale", [1.0, 2.0**-20, 2.0**-90, 2.0**29])
def test_a_bound_in_float32_is_that_of_float64_and_no_error_is_too_large_for_it(scale, bias):
    """Also where float32 has not the range for the bound, or only not for the error ÷ bound."""
    x, weight = normal(1, 3, 6, 6) * np.float32(scale), normal(4, 3, 3, 3)
    parameters = {"weight": weight} | ({} if bias is None else {"bias": np.full(4, bias, np.float32)})
    reference = evaluate(Conv(3, filters=4, bias=bias is not None), [x], parameters)
    sizes = {"weight": np.abs(weight)} | ({} if bias is None else {"bias": np.full(4, bias, np.float32)})
    magnitude = evaluate(Conv(3, filters=4, bias=bias is not None), [np.abs(x)], sizes).value
    assert reference.bound.dtype == (np.float32 if scale > 2.0**-60 and bias != 2.0**100 else np.float64)
    assert (reference.bound >= gamma(28) * magnitude).all()
    np.testing.assert_allclose(reference.bound, gamma(28) * magnitude, rtol=1e-5, atol=1e-33)
    output = np.full(reference.value.shape, -3e38, np.float32)
    found = measure(output, reference)
    error = np.abs(output - reference.value)
    assert found.ratio == pytest.approx(np.max(error / reference.bound.astype(np.float64)), rel=1e-6)


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


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 1))])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_pixels_of_windows_are_combined(stride, padding):
    x = normal(*SHAPE)
    x[0, 0, 2, 3], x[1, 1, 4, 4], x[0, 3] = np.nan, np.inf, -np.inf
    windows = windows_of(x, (3, 2), stride, padding, fill=-np.inf)
    combined = over_windows(np.maximum, x, (3, 2), stride, padding, fill=-np.inf)
    assert np.array_equal(combined, windows.max(axis=(4, 5)), equal_nan=True)
    with np.errstate(invalid="ignore"):
        summed = over_windows(np.add, x.astype(float), (3, 2), stride, padding)
        expected = windows_of(x.astype(float), (3, 2), stride, padding).sum(axis=(4, 5))
    np.testing.assert_allclose(summed, expected, rtol=1e-13)


def test_selections_are_exact():
    x = normal(*SHAPE)
    pooled = evaluate(MaxPool((3, 2), stride=2, padding=((1, 0), (0, 1))), [x], {})
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 1)), constant_values=-np.inf)
    assert pooled.bound is None
    assert pooled.value[1, 2, 1, 2] == padded[1, 2, 2:5, 4:6].max()
    assert (evaluate(ReLU(), [x], {}).value == np.maximum(x, 0)).all()
    assert (evaluate(Flatten(), [x], {}).value == x.reshape(2, -1)).all()


@pytest.mark.parametrize("kind", ["numbers", "small", "large", "special", "empty", "one"])
@pytest.mark.parametrize("operation", [Add(), BroadcastAdd(), Subtract(), Multiply(), Divide(), SquareRoot()])
def test_what_ieee_754_rounds_once_is_identical_with_and_without_a_bound(operation, kind, monkeypatch):
    """Zeros, subnormal and huge numbers, infinities and NaN: what is called identical is so by the bound's own path."""
    shapes = {"empty": [(2, 0, 3)] * 2, "one": [(), ()]}.get(kind, [(2, 3, 5)] * 2)
    if isinstance(operation, BroadcastAdd) and kind != "empty":
        shapes = [(2, 3, 5), (3, 1)]
    scale = {"small": np.float32(2.0**-140), "large": np.float32(2.0**61)}.get(kind, np.float32(1))
    inputs = [normal(*shape, seed=seed) * scale for seed, shape in enumerate(shapes)]
    inputs[0].reshape(-1)[:2] = 0
    if kind == "special":
        inputs[0].reshape(-1)[2:5] = np.inf, -np.inf, np.nan
    inputs = inputs[:1] if isinstance(operation, SquareRoot) else inputs
    monkeypatch.setattr(arrays, "ELEMENTS_AT_ONCE", 8)
    with np.errstate(all="ignore"):
        right = np.array(getattr(np, operation.ufunc)(*inputs))
        found = is_correctly_rounded(operation, inputs, right)
        measured = measure_in_pieces(right, evaluate_in_pieces(operation, inputs, {}))
        assert found == (measured.same and not np.isnan(right).any())
        assert found == (kind in ("numbers", "small", "empty", "one") and bool(np.isfinite(right).all()))
        if right.size:
            right.reshape(-1)[-1] = np.nextafter(right.reshape(-1)[-1], np.float32(1))
            assert not is_correctly_rounded(operation, inputs, right)


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 20), (2, 3, 4), (3, 1, 5, 9), (9, 1), (1, 1, 1)])
def test_blocks_cover_an_array_once_and_inputs_meet_them(shape, monkeypatch):
    monkeypatch.setattr(arrays, "ELEMENTS_AT_ONCE", 8)
    covered = np.zeros(shape, int)
    for place in arrays.places(shape):
        assert covered[place].size <= 8
        covered[place] += 1
    assert (covered == 1).all()
    for lacking in range(len(shape) + 1):
        other = normal(*(1 if axis % 2 else size for axis, size in enumerate(shape[lacking:])))
        for place in arrays.places(shape):
            part = arrays.part_of(other, place, len(shape))
            assert (np.broadcast_to(part, covered[place].shape) == np.broadcast_to(other, shape)[place]).all()
