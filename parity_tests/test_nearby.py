"""A layer judged on an input near another backend's gets the verdict and the ratio of the full evaluation."""

import numpy as np
import pytest

from common.operations import Conv, Dense, Dropout, evaluate
from common.operations.evaluation import evaluate_in_pieces
from common.operations.names import parameters_of
from common.operations.rounding import Reference
from common.parity.judge import judge
from common.parity.nearby import Earlier, Evaluated
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL
from common.probes import make_probe
from common.specs import get_spec
from common.specs.architecture import IMAGE
from common.specs.seeded import initial_weights

CONVOLUTIONS = {
    "kernel 3×2": Conv((3, 2), (2, 1), ((1, 0), (1, 1)), filters=9),
    "groups": Conv((3, 3), (1, 2), ((1, 1), (0, 2)), filters=10, groups=2),
    "by depth": Conv((3, 5), (1, 2), ((1, 1), (2, 2)), filters=6, groups=6),
    "no bias": Conv((1, 1), filters=7, bias=False),
}
INPUT = 1, 6, 13, 9


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def nudged(x, ulps=8, seed=1):
    """The same but for some roundings."""
    return x * (1 + np.random.default_rng(seed).integers(-ulps, ulps + 1, x.shape) * 2.0**-24).astype(np.float32)


def layer_of_kind(kind):
    if kind == "dense":
        return Dense(11), normal(3, 50), {"weight": normal(11, 50, seed=2), "bias": normal(11, seed=3)}
    operation = CONVOLUTIONS[kind]
    shapes = operation.parameter_shapes(INPUT[1:])
    return operation, normal(*INPUT), {name: normal(*shape, seed=2) for name, shape in shapes.items()}


def whole(operation, x, pieces):
    return Reference.joined((len(x), *operation.output_shape(x.shape[1:])), pieces)


def remembered(operation, x, parameters):
    return Evaluated.of(x, parameters["weight"], list(evaluate_in_pieces(operation, [x], parameters)))


KINDS = [*CONVOLUTIONS, "dense"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ulps", [0, 1, 30])
def test_the_error_of_the_short_way_is_within_what_it_adds_to_the_bound(kind, ulps):
    operation, before, parameters = layer_of_kind(kind)
    x = nudged(before, ulps)
    found = whole(operation, x, remembered(operation, before, parameters).near(operation, x, parameters))
    full = evaluate(operation, [x], parameters)
    added = found.bound.astype(np.float64) - full.bound
    assert (np.abs(found.value - full.value) <= added + 1e-12 * np.abs(full.value)).all()
    assert (added >= -1e-6 * full.bound).all()
    assert (added <= 1e-3 * full.bound).all()
    assert np.allclose(found.spread, full.spread, rtol=1e-4)
    assert (np.abs(found.value - full.value) > 0).any() == bool(ulps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["far", "one far", "nan", "inf"])
def test_an_input_that_is_not_near_is_evaluated_in_full(kind, what):
    operation, before, parameters = layer_of_kind(kind)
    x = nudged(before)
    if what == "far":
        x = normal(*x.shape, seed=9)
    else:
        x[0, -1] = {"one far": 3, "nan": np.nan, "inf": np.inf}[what]
    earlier = Earlier()
    list(earlier.pieces("layer", operation, before, parameters))
    assert earlier.evaluated["layer"].near(operation, x, parameters) is None
    with np.errstate(invalid="ignore"):
        pieces = list(earlier.pieces("layer", operation, x, parameters))
        full = list(evaluate_in_pieces(operation, [x], parameters))
    for (place, piece), (right_place, right) in zip(pieces, full, strict=True):
        assert place == right_place
        for name in ("value", "bound"):
            np.testing.assert_array_equal(getattr(piece, name), getattr(right, name))


@pytest.mark.parametrize("what", ["a window of zeros", "what may overflow"])
def test_where_nothing_is_near(what):
    operation, before, parameters = layer_of_kind("no bias")
    if what == "a window of zeros":  # the sum of magnitudes is 0: every change is large
        before[0, :, 2, 3] = 0
    else:
        before[0, 0, 0, 0] = 3e38
    x = nudged(before)
    x[0, 0, 2, 3] += np.float32(1e-6)
    assert remembered(operation, before, parameters).near(operation, x, parameters) is None


def test_another_batch_is_another_input():
    operation, before, parameters = layer_of_kind("dense")
    earlier = Earlier()
    list(earlier.pieces("layer", operation, before, parameters))
    ((_, piece),) = earlier.pieces("layer", operation, before[:2], parameters)
    assert piece.value.shape == (2, 11)


def test_a_filter_of_zeros_reads_nothing():
    operation, before, parameters = layer_of_kind("no bias")
    parameters["weight"][3] = 0
    x = nudged(before)
    found = whole(operation, x, remembered(operation, before, parameters).near(operation, x, parameters))
    assert (found.value[:, 3] == 0).all()


def recorded(spec, probe, weights, seed):
    """What a correct backend may compute: each layer right but for some part of its bound."""
    values = {IMAGE: probe.image}
    random = np.random.default_rng(seed)
    for layer in spec.layers:
        inputs = [values[name] for name in layer.inputs]
        if isinstance(layer.operation, Dropout):
            values[layer.name] = inputs[0]
            continue
        right = evaluate(layer.operation, inputs, parameters_of(layer.name, weights))
        value = right.value
        if right.spread is not None:
            value = value + random.standard_normal(value.shape) * right.spread * 2.0**-23
        values[layer.name] = value.astype(np.float32)
    del values[IMAGE]
    return values


@pytest.mark.parametrize("name", ["lenet5", "lenet_caffe"])
def test_a_second_backend_has_the_verdicts_and_ratios_of_the_full_evaluation(name):
    spec = get_spec(name)
    weights = initial_weights(spec, 0)
    probe = make_probe("random", spec, seed=0, batch=2, weights=weights)
    first, second = (recorded(spec, probe, weights, seed) for seed in (1, 2))
    earlier = Earlier()
    assert {v.verdict for v in judge(spec, probe, first, earlier)} <= {IDENTICAL, CERTIFIED}
    assert same_judgement(spec, probe, second, earlier) <= {IDENTICAL, CERTIFIED}
    if name == "lenet5":
        second["c3"] = second["c3"] + np.float32(0.1) * (np.arange(16) == 3).reshape(1, -1, 1, 1).astype(np.float32)
        assert DIVERGED in same_judgement(spec, probe, second, earlier)


def same_judgement(spec, probe, outputs, earlier):
    """The verdicts, which are those of the full evaluation."""
    evaluated = dict(earlier.evaluated)
    assert evaluated
    found, full = judge(spec, probe, outputs, earlier), judge(spec, probe, outputs)
    assert earlier.evaluated == evaluated
    for one, other in zip(found, full, strict=True):
        told = one.name, one.verdict, one.precision, one.cause
        assert told == (other.name, other.verdict, other.precision, other.cause)
        assert one.bound_ratio == pytest.approx(other.bound_ratio, rel=0.01)
    return {v.verdict for v in found}
