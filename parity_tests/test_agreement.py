"""Which cause stands once all probes are held against each other."""

import numpy as np
import pytest

from common.operations import BatchNorm, Conv, Dropout, evaluate
from common.parity.agreement import cross_checked
from common.parity.judge import judge
from common.parity.results import BackendResult
from common.parity.verdicts import DIVERGED, first_divergence
from common.probes import Probe
from common.specs.architecture import IMAGE, Architecture, Layer

GENERATOR = np.random.default_rng(4)
CONV = Conv(3, filters=6)


def normal(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def row(operation, x, output, parameters=None):
    """The result of a backend whose one layer gave `output`."""
    spec = Architecture(
        "tiny", "tiny", "", 2026, "", x.shape[1:], (Layer("layer", operation, (IMAGE,)),), {"logits": "layer"}
    )
    weights = {f"layer/{name}": array for name, array in (parameters or {}).items()}
    verdicts = judge(spec, Probe("random", weights, x), {"layer": output.astype(np.float32)})
    found = first_divergence(verdicts)
    if not found:
        return BackendResult("any", "ok", "certified", layers=verdicts)
    return BackendResult(
        "any", DIVERGED, DIVERGED, first_divergence=found.name, likely_cause=found.cause, layers=verdicts
    )


def without_bias(x, parameters):
    return row(CONV, x, evaluate(CONV, [x], parameters | {"bias": 0 * parameters["bias"]}).value, parameters)


def stated(*rows):
    labels = [f"probe {number}" for number in range(len(rows))]
    return [(found.likely_cause, found.cause_proved_on) for found in cross_checked(rows, labels)]


def test_what_explains_two_probes_is_the_cause():
    parameters = {"weight": normal(6, 2, 3, 3), "bias": normal(6)}
    rows = [without_bias(normal(2, 2, 5, 7), parameters) for _ in range(2)]
    assert stated(*rows) == [("the bias is missing", ("probe 0", "probe 1"))] * 2


def test_what_one_probe_shows_is_possible():
    parameters = {"weight": normal(6, 2, 3, 3), "bias": normal(6)}
    x = normal(2, 2, 5, 7)
    fine = row(CONV, x, evaluate(CONV, [x], parameters).value, parameters)
    assert stated(fine, without_bias(x, parameters)) == [
        (None, ()),
        ("possibly the bias is missing", ("probe 1",)),
    ]


def test_two_stories_are_no_cause():
    parameters = {"weight": normal(6, 2, 3, 3), "bias": normal(6)}
    x = normal(2, 2, 5, 7)
    twice = evaluate(CONV, [x], parameters | {"bias": 2 * parameters["bias"]}).value
    assert stated(without_bias(x, parameters), row(CONV, x, twice, parameters)) == [(None, ())] * 2


def test_what_is_seen_stands_by_itself():
    """A shape or NaN is no hypothesis."""
    x = normal(2, 2, 5, 7)
    parameters = {"weight": normal(6, 2, 3, 3), "bias": normal(6)}
    output = evaluate(CONV, [x], parameters).value
    output[0, 0, 0, 0] = np.nan
    assert stated(row(CONV, x, output, parameters))[0][0].endswith("; layer holds NaN or infinity")


@pytest.mark.parametrize("kind", ["instance", "batch"])
def test_a_second_image_tells_an_images_statistics_from_the_batchs(kind):
    operation = BatchNorm(1e-3)
    parameters = {"gamma": normal(6), "beta": normal(6), "mean": normal(6), "variance": np.abs(normal(6))}

    def normalised(x):
        axes = (2, 3) if kind == "instance" else (0, 2, 3)
        mean, variance = (f(axis=axes, keepdims=True) for f in (x.astype(float).mean, x.astype(float).var))
        gamma, beta = (parameters[name].reshape(-1, 1, 1) for name in ("gamma", "beta"))
        return row(operation, x, (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, parameters)

    one, two = normalised(normal(1, 6, 5, 7)), normalised(normal(2, 6, 5, 7))
    names = {
        "instance": "the statistics are each image's own (instance normalisation)",
        "batch": "the statistics are the batch's, as in training",
    }
    assert all(name in one.likely_cause for name in names.values())
    assert [cause for cause, _ in stated(one, two)] == [names[kind]] * 2


def masked(x, mask, scale=1.0):
    return row(Dropout(0.5), x, np.where(mask, x * np.float32(scale), 0))


def test_a_mask_is_called_what_it_shows():
    x = normal(3, 40)
    random, fixed = GENERATOR.random(x.shape) < 0.5, GENERATOR.random(40) < 0.5
    share = GENERATOR.random(x.shape) < 0.97
    assert masked(x, random, 2).likely_cause == "dropout is active, and divides what it keeps by 0.5"
    assert masked(x, random).likely_cause == "dropout is active, and does not scale"
    assert masked(x, np.tile(fixed, (3, 1))).likely_cause == (
        "the same values of each image are set to 0 (a fixed mask), and does not scale"
    )
    assert masked(x, x > 0.3).likely_cause == "the smaller values are set to 0 (a threshold), and does not scale"
    assert masked(x, x > np.inf).likely_cause == "every value is 0"
    assert masked(x, share).layers[0].explanations == ()  # chance would not drop three in a hundred of a half
    of_one = masked(x[:1], random[:1], 2).likely_cause
    assert "dropout is active" in of_one
    assert "a fixed mask" in of_one
