"""Networks of `keras.applications`, which nobody here has written, judged by this project's own tools."""

import pytest
from conftest import daily, load_implementation
from keras_applications import as_in_keras, build, with_pooling_split

from common import get_spec
from common.parity.judge import judge, judge_structure
from common.parity.verdicts import CERTIFIED, first_divergence, overall
from common.probes import random_probe

SMALL = (64, 96)

NAMES = ["resnet50", "resnet101", "resnet152", "densenet121", "densenet169", "densenet201"]


def specification(name):
    return as_in_keras(get_spec(name, image_size=SMALL), conv_bias=name.startswith("resnet"))


@pytest.mark.parametrize("name", daily("resnet50", of=NAMES))
def test_its_layers_are_the_specified_ones(name):
    load_implementation("keras_impl")
    from keras_impl.backend import structure

    shapes, parameters = structure(build(name, SMALL))
    assert judge_structure(specification(name), with_pooling_split(shapes), parameters) == []


@pytest.mark.parametrize("name", daily("resnet50", of=("resnet50", "densenet121")))
def test_it_computes_the_specified_layers(name):
    """With our weights, every layer of it, within the rounding bound."""
    load_implementation("keras_impl")
    from keras_impl.backend import load_weights, record

    model, spec = build(name, SMALL), specification(name)
    probe = random_probe(spec, batch=1)
    load_weights(model, probe.weights)
    recorded = with_pooling_split(record(model, probe.image))
    assert overall(judge(spec, probe, recorded), probe) == CERTIFIED
    if name == "resnet50":
        divergence = first_divergence(judge(specification("resnet50_v1_5"), probe, recorded))
        assert divergence.name == "conv3_block1/conv1"  # where v1.5 does not stride
        assert divergence.cause.startswith("its stride and that of conv3_block1/conv2 are exchanged")
