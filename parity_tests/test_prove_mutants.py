"""Sixty faults in ten models of other people's kinds: each is found where it is, and named where it can be.

A fault is put into the graph that runs, and the graph as it was is the specification. It is looked for on random
numbers; if none of these shows it, as an eps that is another by little, on the exact probe, whose graph gets the same
fault: what is in a runtime is in whatever it runs.
"""

from functools import cache

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from conftest import daily  # noqa: E402
from foreign_models import FAMILIES, foreign  # noqa: E402
from test_prove import attribute, constant, feeds_of, missing_bias, recorded, shortened  # noqa: E402

from common.graphs import read_graph  # noqa: E402
from common.parity.verdicts import DIVERGED  # noqa: E402
from common.prove.exact import exact_probe  # noqa: E402
from common.prove.judging import judge_graph  # noqa: E402


def operator(kind, **attributes):
    """Another operation in its place, on as many inputs as that takes."""

    def change(model, node):
        node.op_type = kind
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
        takes = {"Add": 2, "Sub": 2, "Mul": 2, "Max": 2}.get(kind, 1)
        del node.input[takes:]

    return change


def reads(place, value):
    """Another value read at a place."""

    def change(model, node):
        node.input[place] = value

    return change


def order(*places):
    """What it reads in another order."""

    def change(model, node):
        read = [node.input[place] for place in places]
        del node.input[:]
        node.input.extend(read)

    return change


def all_of(*changes):
    def change(model, node):
        for part in changes:
            part(model, node)

    return change


def one_weight(factor):
    """The largest weight alone, multiplied."""
    return constant(1, lambda w: np.where(np.abs(w) == np.abs(w).max(), w * np.float32(factor), w))


def half(array):
    return array.astype(np.float16)


# Where, what is changed, and what is told of it; None: no known mistake.
FAULTS = {
    "mobilenet": {
        "stem: padded on both sides": ("stem", attribute("pads", [1, 1, 0, 0]), "the padding is shifted"),
        "stem_norm: eps of Keras": ("stem_norm", attribute("epsilon", 1.001e-5), "eps is 1.001e-05"),
        "stem_relu6: not capped": ("stem_relu6", operator("Relu"), "it is not capped"),
        "a_depthwise: flipped": ("a_depthwise", constant(1, lambda w: w[..., ::-1, ::-1]), "the kernel is flipped"),
        "a_depthwise: stride": ("a_depthwise", attribute("strides", [1, 1]), "the stride is 1"),
        "b_add: residual missing": ("b_add", operator("Identity"), "only operand 1 of 2 is there"),
    },
    "efficientnet": {
        "stem_silu_gate: ReLU": ("stem_silu_gate", operator("Relu"), "a ReLU is taken, not a sigmoid"),
        "wide_norm: eps of PyTorch": ("wide_norm", attribute("epsilon", 1e-5), "eps is 1e-05"),
        "wide: turned": ("wide", constant(1, lambda w: w.swapaxes(2, 3)), "height and width are exchanged"),
        "se_reduce: bias missing": ("se_reduce", missing_bias, "the bias is missing"),
        "se_gate: hard": ("se_gate", operator("HardSigmoid", alpha=1 / 6), "a hard sigmoid of slope 0.167"),
        "expand: one weight × (1 + 1e-5)": ("expand", one_weight(1 + 1e-5), None),
    },
    "resnext": {
        "stem: padded below and right": ("stem", attribute("pads", [2, 2, 4, 4]), "the padding is"),
        "stem_pool: average": (
            "stem_pool",
            operator("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            "average",
        ),
        "grouped: groups exchanged": ("grouped", constant(1, lambda w: np.roll(w, 2, 0)), "groups"),
        "dilated: not dilated": (
            "dilated",
            all_of(attribute("dilations", [1, 1]), attribute("pads", [1, 1, 1, 1])),
            "not dilated",
        ),
        "short: bfloat16": ("short", constant(1, shortened), "rounded to bfloat16"),
        "stem: one weight × (1 + 1e-6)": ("stem", one_weight(1 + 1e-6), "or a small wrong number"),
    },
    "convnext": {
        "norm: eps": ("norm", attribute("epsilon", 1e-5), "eps is 1e-05"),
        "norm: gamma missing": ("norm", constant(1, np.ones_like), "gamma is missing"),
        "mlp_gelu: tanh": ("mlp_gelu", attribute("approximate", "tanh"), "approximation with a hyperbolic tangent"),
        "layer_scale: missing": ("layer_scale", operator("Identity"), "only factor 1 of 2 is there"),
        "wide: bias missing": ("wide", missing_bias, "the bias is missing"),
        "head: float16": ("head", constant(1, half), "rounded to float16"),
    },
    "vit": {
        "attention_q: transposed": ("attention_q", constant(1, lambda w: w.T), "the second factor is transposed"),
        "attention_scale: of all heads": ("attention_scale", constant(1, lambda x: x / 2), "factor 2 is another"),
        "attention_softmax: axis": ("attention_softmax", attribute("axis", 2), "it is along axis 2, not 3"),
        "norm2: eps": ("norm2", attribute("epsilon", 1e-3), "eps is 0.001"),
        "with_class: last": ("with_class", order(1, 0), "the inputs are in reverse order"),
        "class: the last token": ("class", constant(1, lambda at: at - 1), None),
    },
    "swin": {
        "roll: not rolled": ("roll", order(1, 0), "the inputs are in reverse order"),
        "windows: other axes": (
            "windows",
            attribute("perm", [0, 1, 3, 4, 2, 5]),
            "the axes are in the order 1, 2, 4, 5, 3, 6",
        ),
        "attention_position: subtracted": ("attention_position", operator("Sub"), "operand 2 is subtracted"),
        "merge: order of the corners": ("merge", order(0, 2, 1, 3), "the inputs are in the order"),
        "attention_mixed: values of the queries": ("attention_mixed", reads(1, "attention_q_turned_out"), "it reads"),
        "reduce: one weight × (1 + 1e-5)": ("reduce", one_weight(1 + 1e-5), None),
    },
    "inception": {
        "average: padding counted": ("average", attribute("count_include_pad", 1), "the padding is counted"),
        "mixed: order": ("mixed", order(0, 2, 1, 3), "the inputs are in the order"),
        "flat_wide: padding": (
            "flat_wide",
            attribute("pads", [0, 6, 0, 0]),
            "all of the padding is at the top and left",
        ),
        "tall: upside down": ("tall", constant(1, lambda w: w[:, :, ::-1]), "the kernel is"),
        "three_norm: eps": ("three_norm", attribute("epsilon", 1e-5), "eps is 1e-05"),
        "maximum: average": (
            "maximum",
            operator("AveragePool", kernel_shape=[3, 3], strides=[2, 2]),
            "the average is taken, not the maximum",
        ),
    },
    "shufflenet": {
        "shuffle: missing": ("shuffle", attribute("perm", [0, 1, 2, 3, 4]), None),
        "joined: order": ("joined", order(1, 0), "the inputs are in reverse order"),
        "pointwise: groups exchanged": ("pointwise", constant(1, lambda w: np.roll(w, 2, 0)), "groups"),
        "depthwise: mirrored": ("depthwise", constant(1, lambda w: w[..., ::-1]), "mirrored from left to right"),
        "prelu: ReLU": ("prelu", operator("Relu"), "a ReLU is taken, not a parametric one"),
        "right: the left half": (
            "right",
            all_of(reads(1, "left.1"), reads(2, "left.2")),
            None,
        ),
    },
    "ghostnet": {
        "se_gate: slope of Keras": ("se_gate", attribute("alpha", 0.2), "the slope is 1/5"),
        "stem_swish: ReLU": ("stem_swish", operator("Relu"), "a ReLU is taken, not a hard swish"),
        "ghost: order": ("ghost", order(1, 0), "the inputs are in reverse order"),
        "elu: alpha": ("elu", attribute("alpha", 1.0), "alpha is 1"),
        "average: padding not counted": ("average", attribute("count_include_pad", 0), "the padding is not counted"),
        "project: all weights × (1 + 1e-5)": (
            "project",
            constant(1, lambda w: w * (1 + 1e-5)),
            "the weights are multiplied by 1 + 1e-05",
        ),
    },
    "unet": {
        "leaky1: slope": ("leaky1", attribute("alpha", 0.01), "the slope is 0.01"),
        "instance: eps": ("instance", attribute("epsilon", 1e-3), "eps is 0.001"),
        "up: flipped": ("up", constant(1, lambda w: w[:, :, ::-1, ::-1]), "the kernel is flipped"),
        "up: bias missing": ("up", missing_bias, "the bias is missing"),
        "skip: order": ("skip", order(1, 0), "the inputs are in reverse order"),
        "larger: corners aligned": (
            "larger",
            attribute("coordinate_transformation_mode", "align_corners"),
            "align_corners",
        ),
    },
}
ALL = [f"{family}/{fault}" for family, faults in FAULTS.items() for fault in faults]
DAILY = ALL[::5]


@cache
def subject(family):
    """A model, its graph, the exact probe of it, and what it is given."""
    model = foreign(family)
    graph, feeds = read_graph(f"{family}.onnx", model), feeds_of(model)
    return model, graph, feeds, exact_probe(model, graph, recorded(model, feeds))


def with_fault(model, where, change):
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    del wrong.graph.value_info[:]
    change(wrong, next(node for node in wrong.graph.node if node.name == where))
    return wrong


def test_there_are_sixty_in_ten():
    assert FAULTS.keys() == FAMILIES.keys()
    assert len(ALL) == 60
    assert {name.partition("/")[0] for name in DAILY} == FAMILIES.keys()


@pytest.mark.parametrize("name", daily(*DAILY, of=ALL))
def test_a_fault_is_found_where_it_is_and_named(name):
    family, _, fault = name.partition("/")
    where, change, cause = FAULTS[family][fault]
    model, graph, feeds, probe = subject(family)
    values = recorded(with_fault(model, where, change), feeds)
    found = [verdict for verdict in judge_graph(graph, values) if verdict.verdict == DIVERGED]
    if not found:
        values = recorded(with_fault(probe.model, where, change), probe.feeds)
        verdicts = judge_graph(probe.graph, values, probe.expected)
        found = [verdict for verdict in verdicts if verdict.verdict == DIVERGED]
    assert [verdict.name for verdict in found] == [where]
    if cause:
        assert cause in (found[0].cause or ""), found[0].cause
