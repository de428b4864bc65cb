"""Honest graphs, put together at random, in honest runtimes: none may be accused, on either probe."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from conftest import daily
from foreign_models import FAMILIES, assembled, foreign
from test_prove import feeds_of, recorded

from common.graphs import read_graph
from common.parity.verdicts import CERTIFIED, IDENTICAL
from common.prove.exact import exact_probe
from common.prove.judging import Expected, judge_graph

SEEDS = range(50)
"""Of graphs, each in two runtimes on two probes: two hundred combinations."""


def accused(model, seed):
    """Whatever is not certified, in which runtime, on which probe."""
    graph, feeds = read_graph("honest.onnx", model), feeds_of(model, seed)
    probe = exact_probe(model, graph, recorded(model, feeds), seed=seed)
    found = []
    for optimise in (False, True):
        for name, asked, of, given, expected in (
            ("random", model, graph, feeds, Expected()),
            ("exact", probe.model, probe.graph, probe.feeds, probe.expected),
        ):
            verdicts = list(judge_graph(of, recorded(asked, given, optimise), expected, fused=optimise))
            assert len(verdicts) == len(graph.nodes)
            wrong = [verdict for verdict in verdicts if verdict.verdict not in (IDENTICAL, CERTIFIED)]
            found += [(name, optimise, verdict.name, verdict.bound_ratio, verdict.cause) for verdict in wrong]
    return found


@pytest.mark.parametrize("seed", daily(*SEEDS[:5], of=SEEDS))
def test_no_graph_of_parts_is_accused(seed):
    assert accused(assembled(seed), seed) == []


SIZES = {(1, 13, 21): 5, (3, 23, 15): 6}
"""Images, height and width; and a seed."""


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", daily(of=SIZES))
def test_no_model_is_accused_at_odd_sizes(name, size):
    images, height, width = size
    model = foreign(name, images=images, height=height, width=width, seed=SIZES[size])
    assert accused(model, SIZES[size]) == []
