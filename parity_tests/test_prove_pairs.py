"""Two networks that should be one: aligned, weights moved, every difference found in one run with its cause."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from test_prove import Builder, normal  # noqa: E402

from common import TriptychError  # noqa: E402
from common.prove import onnx_run, runtimes  # noqa: E402
from common.prove.marks import scale_of  # noqa: E402
from common.prove.models import parse  # noqa: E402
from common.prove.proof import Request, prove  # noqa: E402

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """ONNX Runtime runs these small files here: a process for each of its runs takes a second."""

    class Here(runtimes.Here):
        def __init__(self, module, variables):
            super().__init__(onnx_run.run)

        def __enter__(self):
            return self

        def __exit__(self, *ended):
            pass

    monkeypatch.setattr(runtimes, "Process", Here)


def statistics(channels):
    """Gamma, beta, mean, variance."""
    return normal(channels) + 1, normal(channels), normal(channels), RNG.uniform(0.5, 1.5, channels).astype(np.float32)


def small(add, x="x"):
    """A network of what most are made of."""
    stem = add("Conv", "stem", x, normal(8, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    norm = add("BatchNormalization", "norm", stem, *statistics(8))
    relu = add("HardSwish", "act", norm)
    pool = add("MaxPool", "pool", relu, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    mean = add("GlobalAveragePool", "mean", pool)
    return add.model(add("Gemm", "fc", add("Flatten", "flat", mean), normal(5, 8), normal(5), transB=1))


def in_many_nodes(add, x="x"):
    """The same with channels last, its padding apart, its normalisation and its activation in several nodes."""
    around = add("Pad", "around", x, np.array([0, 1, 1, 0, 0, 1, 1, 0]))
    first = add("Transpose", "first", around, perm=[0, 3, 1, 2])
    stem = add("Conv", "c", first, normal(8, 3, 3, 3), strides=[2, 2])
    last = add("Transpose", "last", stem, perm=[0, 2, 3, 1])
    scaled = add("Mul", "scale", add("Sub", "centre", last, normal(8)), normal(8))
    norm = add("Add", "shift", scaled, normal(8))
    three, zero, six = (np.array(number, np.float32) for number in (3, 0, 6))
    clip = add("Clip", "clip", add("Add", "three", norm, three), zero, six)
    gate = add("Div", "gate", clip, six)
    act = add("Mul", "act", norm, gate)
    padded = add("Pad", "odd", act, np.array([0, 0, 0, 0, 0, 1, 1, 0]), np.array(-np.inf, np.float32))
    turned = add("Transpose", "turned", padded, perm=[0, 3, 1, 2])
    pool = add("MaxPool", "pool", turned, kernel_shape=[3, 3], strides=[2, 2])
    mean = add("ReduceMean", "mean", add("Transpose", "back", pool, perm=[0, 2, 3, 1]), np.array([1, 2]), keepdims=0)
    return add.model(add("Add", "bias", add("MatMul", "fc", mean, normal(8, 5)), normal(5)))


def flattening(add, x="x"):
    conv = add("Relu", "relu", add("Conv", "conv", x, normal(4, 3, 3, 3), normal(4)))
    return add.model(add("Gemm", "fc", add("Flatten", "flat", conv), normal(5, 4 * 7 * 6), normal(5), transB=1))


def flattening_channels_last(add, x="x"):
    conv = add("Conv", "conv", add("Transpose", "first", x, perm=[0, 3, 1, 2]), normal(4, 3, 3, 3))
    last = add("Relu", "relu", add("Add", "b", add("Transpose", "last", conv, perm=[0, 2, 3, 1]), normal(4)))
    flat = add("Reshape", "flat", last, np.array([2, -1]))
    return add.model(add("Add", "bias", add("MatMul", "fc", flat, normal(7 * 6 * 4, 5)), normal(5)))


def folded(add, x="x"):
    conv = add("Relu", "relu", add("Conv", "conv", x, normal(4, 3, 3, 3), normal(4)))
    return add.model(add("Conv", "last", conv, normal(2, 4, 1, 1), normal(2)))


def unfolded(add, x="x"):
    norm = add("BatchNormalization", "norm", add("Conv", "conv", x, normal(4, 3, 3, 3)), *statistics(4))
    return add.model(add("Conv", "last", add("Relu", "relu", norm), normal(2, 4, 1, 1), normal(2)))


def by_pixel(add, x="x"):
    last = add("Transpose", "last", add("Conv", "conv", x, normal(4, 3, 3, 3)), perm=[0, 2, 3, 1])
    dense = add("Add", "bias", add("MatMul", "dense", last, normal(4, 6)), normal(6))
    return add.model(add("Transpose", "first", add("Relu", "relu", dense), perm=[0, 3, 1, 2]))


def by_convolution(add, x="x"):
    conv = add("Conv", "conv", x, normal(4, 3, 3, 3))
    return add.model(add("Relu", "relu", add("Conv", "dense", conv, normal(6, 4, 1, 1), normal(6))))


def modern(add, approximate="none"):
    """As ConvNeXt has it: a layer norm of the channels and a GELU, of maps that are turned for them."""
    last = add("Transpose", "last", add("Conv", "conv", "x", normal(4, 3, 3, 3)), perm=[0, 2, 3, 1])
    norm = add("LayerNormalization", "norm", last, normal(4), normal(4), axis=-1, epsilon=1e-6)
    dense = add("Add", "bias", add("MatMul", "dense", norm, normal(4, 6)), normal(6))
    act = add("Gelu", "act", dense, approximate=approximate)
    scaled = add("Mul", "scale", add("Transpose", "first", act, perm=[0, 3, 1, 2]), normal(6, 1, 1))
    return add.model(add("Conv", "end", scaled, normal(2, 6, 1, 1)))


def number(value):
    return np.array(value, np.float32)


def half_erf(add, x):
    one = add("Add", "one", add("Erf", "erf", add("Div", "root", x, number(np.sqrt(2)))), number(1))
    return add("Mul", "half", add("Mul", "gated", x, one), number(0.5))


def half_tanh(add, x):
    cube = add("Mul", "small", number(0.044715), add("Pow", "cube", x, number(3)))
    inner = add("Mul", "inner", add("Add", "both", x, cube), number(np.sqrt(2 / np.pi)))
    return add(
        "Mul", "gated", add("Mul", "half", number(0.5), x), add("Add", "one", add("Tanh", "t", inner), number(1))
    )


def written_out(add, gelu=half_erf):
    """The same in elementary operations, with channels first throughout."""
    x = add("Conv", "conv", "x", normal(4, 3, 3, 3))
    centred = add("Sub", "centred", x, add("ReduceMean", "mean", x, np.array([1]), keepdims=1))
    variance = add("ReduceMean", "variance", add("Pow", "square", centred, number(2)), np.array([1]), keepdims=1)
    root = add("Sqrt", "deviation", add("Add", "eps", variance, number(1e-6)))
    scaled = add("Mul", "gamma", add("Div", "standard", centred, root), normal(4, 1, 1))
    dense = add("Conv", "dense", add("Add", "beta", scaled, normal(4, 1, 1)), normal(6, 4, 1, 1), normal(6))
    scaled = add("Mul", "scale", gelu(add, dense), normal(6, 1, 1))
    return add.model(add("Conv", "end", scaled, normal(2, 6, 1, 1)))


def approximated(add):
    return modern(add, "tanh")


def written_out_with_tanh(add):
    return written_out(add, half_tanh)


def branching(add, x="x", turned=False, operands=("a", "b")):
    """Branches of the same shapes, listed in one order or the other."""

    def left():
        return add("Relu", "a", add("Conv", "a1", x, normal(4, 3, 3, 3), pads=[1, 1, 1, 1]))

    def right():
        return add("Conv", "b2", add("Conv", "b1", x, normal(5, 3, 1, 1)), normal(4, 5, 1, 1))

    made = dict(zip(("b", "a"), (right(), left()), strict=True)) if turned else {"a": left(), "b": right()}
    both = add("Concat", "cat", *(made[name] for name in operands), axis=1)
    added = add("Add", "add", made["b"], made["a"]) if turned else add("Add", "add", made["a"], made["b"])
    return add.model(add("Concat", "all", both, added, axis=1))


def turned(add):
    return branching(add, turned=True)


LAST = (2, 9, 8, 3)
"""The shape of an input with channels last; else it is 2×3×9×8."""
SAME = {
    "many nodes, channels last": (small, in_many_nodes, LAST),
    "one operation each, from many nodes": (in_many_nodes, small, LAST),
    "another order of flattening": (flattening, flattening_channels_last, LAST),
    "a normalisation multiplied in": (unfolded, folded, None),
    "a normalisation more": (folded, unfolded, None),
    "a dense layer of every pixel": (by_convolution, by_pixel, None),
    "a convolution for a dense layer": (by_pixel, by_convolution, None),
    "branches in another order": (branching, turned, None),
    "a GELU and a layer norm written out": (modern, written_out, None),
    "a GELU and a layer norm from what is written out": (written_out, modern, None),
    "a GELU by a tangent written out": (approximated, written_out_with_tanh, None),
}


def pair(tmp_path, first, second, weights="first", probes=("exact", "random"), shapes=((2, 3, 9, 8), (2, 3, 9, 8))):
    """Two files proved; the second's runs."""
    names = []
    for number, (build, shape) in enumerate(zip((first, second), shapes, strict=True)):
        path = str(tmp_path / f"{number}.onnx")
        onnx.save(build(Builder(*shape)), path)
        names.append(parse(path))
    return prove(names, Request(probes, weights=weights))[len(probes) :]


def shapes_of(first, second, last):
    channels_last = (in_many_nodes, flattening_channels_last)
    return tuple(last if build in channels_last else (2, 3, 9, 8) for build in (first, second))


def differences(runs):
    layers = (layer for run in runs for row in run.backends for layer in row.layers)
    return [(layer.name, layer.cause) for layer in layers if layer.verdict == "diverged"]


@pytest.mark.parametrize(("first", "second", "last"), SAME.values(), ids=SAME)
def test_the_same_network_written_otherwise_is_aligned_and_certified(tmp_path, first, second, last):
    exact, random = pair(tmp_path, first, second, shapes=shapes_of(first, second, last))
    assert not random.pair.only_first
    assert not random.pair.only_second
    assert not random.pair.without_place
    assert random.pair.aligned == random.nodes
    assert random.verdict == "certified"
    assert differences([exact, random]) == []
    assert len(random.backends[0].layers) >= random.pair.aligned


def changed(operator, **attributes):
    """`small` with other attributes for one of its nodes."""

    def build(add):
        model = small(add)
        node = next(node for node in model.graph.node if node.op_type == operator)
        for name, value in attributes.items():
            kept = [attribute for attribute in node.attribute if attribute.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
        return model

    return build


def silu(add):
    model = small(add)
    node = next(node for node in model.graph.node if node.op_type == "HardSwish")
    node.op_type = "Relu"
    return model


DIFFERENT = {
    "padding": (changed("Conv", pads=[0, 0, 1, 1]), "stem", "padded (0, 0, 1, 1), not (1, 1, 1, 1)"),
    "pool": (changed("MaxPool", pads=[1, 1, 0, 0]), "pool", "padded (1, 1, 0, 0), not (0, 0, 1, 1)"),
    "eps": (changed("BatchNormalization", epsilon=1e-3), "norm", "eps is 0.001, not 1e-05"),
    "activation": (silu, "act", "it is ReLU, not HardSwish"),
}


@pytest.mark.parametrize(("build", "name", "cause"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_difference_is_found_in_its_layer_and_proved_nothing_else_is_accused(tmp_path, build, name, cause):
    found = differences(pair(tmp_path, small, build, probes=("random",)))
    assert {layer for layer, _ in found} == {name}
    assert all(cause in told for _, told in found)


def test_all_differences_are_found_in_one_run(tmp_path):
    def many(add):
        model = changed("Conv", pads=[0, 0, 1, 1])(add)
        other = changed("BatchNormalization", epsilon=1e-3)(Builder(2, 3, 9, 8))
        for node, wrong in zip(model.graph.node, other.graph.node, strict=True):
            if node.op_type == "BatchNormalization":
                node.CopyFrom(wrong)
            if node.op_type == "MaxPool":
                node.op_type = "AveragePool"
        return model

    found = dict(differences(pair(tmp_path, small, many)))
    assert found.keys() == {"stem", "norm", "pool"}
    assert "eps is 0.001" in found["norm"]


def residual(add, skipped="b", pads=(1, 1, 1, 1), activation=True):
    """A residual block; `skipped` is what goes around it."""
    around = {"pads": [1, 1, 1, 1]}
    a = add("Conv", "a", "x", normal(4, 3, 3, 3), normal(4), pads=pads)
    a = add("Relu", "after a", a) if activation else a
    b = add("Relu", "after b", add("Conv", "b", a, normal(4, 4, 3, 3), normal(4), **around))
    c = add("Conv", "c", b, normal(4, 4, 3, 3), normal(4), **around)
    return add.model(add("Conv", "d", add("Add", "sum", c, {"a": a, "b": b}[skipped]), normal(2, 4, 1, 1)))


def pooling(add, around=None):
    pads = {} if around else {"pads": [1, 1, 1, 1]}
    x = add("Conv", "conv", "x", normal(4, 3, 3, 3))
    x = add("Pad", "around", x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.array(around, np.float32)) if around else x
    pool = add("MaxPool", "pool", x, kernel_shape=[3, 3], strides=[2, 2], **pads)
    return add.model(add("Conv", "last", pool, normal(2, 4, 1, 1)))


WIRED = {
    "what goes around a block": (residual, {"skipped": "a"}, "sum", "it reads after a_out, not after b_out"),
    "a size that reaches all after it": (
        residual,
        {"pads": (0, 0, 0, 0)},
        "a",
        "padded (0, 0, 0, 0), not (1, 1, 1, 1)",
    ),
    "an activation less": (residual, {"activation": False}, "b", "it reads a_out, not after a_out"),
    "a padding that can win": (pooling, {"around": 1e-30}, "pool", None),
}


@pytest.mark.parametrize(("build", "options", "name", "cause"), WIRED.values(), ids=WIRED)
def test_a_difference_in_what_is_read_does_not_reach_what_comes_after(tmp_path, build, options, name, cause):
    def other(add):
        return build(add, **options)

    runs = pair(tmp_path, build, other)
    found = differences(runs)
    assert {layer for layer, _ in found} == {name}
    assert cause is None or all(cause in told for _, told in found)
    assert [alone.name for alone in runs[0].pair.only_first] == (["after a"] if "activation" in options else [])


def test_a_concatenation_in_another_order_is_found(tmp_path):
    def reversed_order(add):
        return branching(add, operands=("b", "a"))

    found = differences(pair(tmp_path, branching, reversed_order))
    assert {name for name, _ in found} == {"cat"}
    assert {cause for _, cause in found} == {"the inputs are in reverse order"}


def test_what_has_no_counterpart_is_listed_with_the_nearest(tmp_path):
    def wider(add):
        conv = add("Relu", "relu", add("Conv", "conv5", "x", normal(4, 3, 5, 5), pads=[1, 1, 1, 1]))
        return add.model(add("Softmax", "soft", add("Conv", "last", conv, normal(2, 4, 1, 1), normal(2)), axis=1))

    (random,) = pair(tmp_path, folded, wider, probes=("random",))
    assert [(found.name, found.nearest) for found in random.pair.only_first] == [("conv", "conv5")]
    assert [(found.name, found.nearest) for found in random.pair.only_second] == [("conv5", "conv"), ("soft", None)]
    assert [found.verdict for found in (*random.pair.only_first, *random.pair.only_second)] == ["diverged"] * 3
    assert random.pair.aligned == 2
    assert random.verdict == "diverged"


def test_a_network_that_goes_on_is_another_one(tmp_path):
    def longer(add):
        model = folded(add)
        return add.model(add("Softmax", "soft", model.graph.output[0].name, axis=1))

    for build, other, which in ((folded, longer, "second"), (longer, folded, "first")):
        for run in pair(tmp_path, build, other):
            told = differences([run])
            assert run.verdict == "diverged"
            assert {cause for _, cause in told} == {
                f"only one of the networks has it: the {which} network returns its result"
            }


def test_a_scaling_of_the_input_inside_is_named_beside_what_else_is_wrong(tmp_path):
    def scaling(add, pads=(0, 0, 0, 0)):
        scaled = add("Sub", "minus", add("Mul", "times", "x", number(0.5)), np.float32([[[1]], [[2]], [[3]]]))
        weights = normal(4, 3, 3, 3), normal(4)
        conv = add("Relu", "relu", add("Conv", "conv", scaled, *weights, pads=pads, strides=[2, 2]))
        return add.model(add("Conv", "last", conv, normal(2, 4, 1, 1), normal(2)))

    def without(add):
        conv = add("Conv", "conv", "x", normal(4, 3, 3, 3), normal(4), strides=[2, 2])
        return add.model(add("Conv", "last", add("Relu", "relu", conv), normal(2, 4, 1, 1), normal(2)))

    def padded(add):
        return scaling(add, (0, 1, 1, 0))

    scaled = "it reads x scaled (x · 0.5 + (-1, -2, -3))"
    assert set(differences(pair(tmp_path, without, scaling, probes=("random",)))) == {("conv", scaled)}
    padding = "padded (0, 1, 1, 0), not (0, 0, 0, 0) (top, left, bottom, right)"
    assert set(differences(pair(tmp_path, without, padded, probes=("random",)))) == {("conv", f"{padding}; {scaled}")}


def test_what_differs_by_less_than_the_bound_is_named(tmp_path):
    (random,) = pair(tmp_path, small, changed("BatchNormalization", epsilon=1.001e-5), probes=("random",))
    assert random.verdict == "certified"
    assert random.pair.within == {"norm": "eps is 1.001e-05, not 1e-05"}


def test_outputs_in_another_order_are_another_network(tmp_path):
    def two(add, outputs=("a", "b")):
        relu = add("Relu", "relu", add("Conv", "conv", "x", normal(4, 3, 3, 3)))
        made = {"a": add("Conv", "a", relu, normal(2, 4, 1, 1)), "b": add("Conv", "b", relu, normal(3, 4, 1, 1))}
        return add.model(*(made[name] for name in outputs))

    def exchanged(add):
        return two(add, ("b", "a"))

    (random,) = pair(tmp_path, two, exchanged, probes=("random",))
    assert {name for name, _ in differences([random])} == {"outputs"}


def test_with_weights_of_its_own_a_wrong_weight_is_found(tmp_path):
    def build(add):
        rng = np.random.default_rng(0)
        weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 3, 3, 3), (2, 4, 1, 1))]
        conv = add("Relu", "relu", add("Conv", "conv", "x", weights[0]))
        return add.model(add("Conv", "last", conv, weights[1]))

    def flipped(add):
        model = build(add)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.1")
        array = onnx.numpy_helper.to_array(tensor)[:, :, ::-1, ::-1]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
        return model

    found = differences(pair(tmp_path, build, flipped, weights="own", probes=("random",)))
    assert {name for name, _ in found} == {"conv"}
    assert all("flipped" in cause for _, cause in found)
    assert pair(tmp_path, build, build, weights="own", probes=("random",))[0].verdict == "certified"


def test_networks_of_which_nothing_is_alike_are_refused(tmp_path):
    def other(add):
        return add.model(add("Conv", "conv", "x", normal(7, 3, 2, 2)))

    with pytest.raises(TriptychError, match="nothing in common"):
        pair(tmp_path, folded, other)
    with pytest.raises(TriptychError, match="takes x of shape 2×3×8×8, not 2×3×9×8"):
        pair(tmp_path, folded, folded, shapes=((2, 3, 9, 8), (2, 3, 8, 8)))


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv"])
def test_a_quantised_model_is_refused_in_a_sentence(tmp_path, operator):
    def quantised(add):
        return add.model(add(operator, "q", "x", np.array(0.1, np.float32)))

    with pytest.raises(TriptychError, match=f"is quantised: it holds {operator}; prove the float32 model"):
        pair(tmp_path, quantised, quantised)


SITE = os.environ.get("CASES_SITE", "")
PAIRS = {
    "torch_impl:resnet18 keras_impl:resnet18": ("1x3x64x64", [], ["Verdict: certified"]),
    "torchvision:mobilenet_v2 keras.applications:MobileNetV2": (
        "1x3x96x96",
        ["torchvision"],
        [
            "Aligned: 151 of 151",
            "5 × Conv",
            "padded (0, 0, 1, 1), not (1, 1, 1, 1)",
            "52 × BatchNormalization",
            "eps is 0.001",
        ],
    ),
    "timm:legacy_xception keras.applications:Xception": (
        "1x3x75x75",
        ["timm", "torchvision"],
        ["Aligned: 167 of 167", "40 × Batch", "1 × MaxPool", "padded (0, 0, 1, 1), not (1, 1, 1, 1)"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("models", PAIRS)
def test_published_networks(models):
    shape, packages, told = PAIRS[models]
    needed = ["torch", "keras", "onnxscript", *packages]
    path = [*filter(None, [os.environ.get("PYTHONPATH"), SITE])]
    missing = [name for name in needed if not importlib.util.find_spec(name) and not os.path.isdir(f"{SITE}/{name}")]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    command = [sys.executable, "-m", "common.cli", "prove", *models.split(), "--input-shape", shape]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *path]), "COLUMNS": "200"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert all(sentence in process.stdout for sentence in told), process.stdout + process.stderr


def test_the_scale_of_a_normalisation_that_was_never_trained():
    """Its shift and its mean are 0, and 0 ÷ √0 is no scale."""
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    scale = (1 / np.sqrt(ones + np.float32(1e-3))).astype(np.float32)
    found = scale_of(scale, {"beta": zeros, "mean": zeros, "gamma": ones, "variance": ones})
    assert {found.gamma, found.variance} == {"gamma", "variance"}
    assert found.eps == 1e-3
