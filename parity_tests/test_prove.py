"""The proof of models that nobody here has seen: graphs of other people's operations, right ones and wrong ones."""

import json
import subprocess

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from common import TriptychError  # noqa: E402
from common.graphs import read_graph  # noqa: E402
from common.graphs.onnx_reader import read_model  # noqa: E402
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL  # noqa: E402
from common.prove import results  # noqa: E402
from common.prove.exact import exact_probe  # noqa: E402
from common.prove.judging import UNPROVED, Expected, judge_graph  # noqa: E402
from common.prove.onnx_run import exposing  # noqa: E402
from common.prove.results import judged as judged_runtime  # noqa: E402
from common.prove.runtimes import Recorded, Runtime  # noqa: E402
from common.prove.sensitivity import Sensitivity, sensitivity_of  # noqa: E402
from parity_tests.commands import run_here  # noqa: E402

RNG = np.random.default_rng(7)


def normal(*shape, scale=0.3):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


class Builder:
    """A graph, node by node: `(operator, inputs, attributes)`; constants are named by the node and their place."""

    def __init__(self, *shape, opset=20):
        self.opset, self.nodes, self.constants, self.shape = opset, [], {}, shape

    def __call__(self, operator, name, *inputs, **attributes):
        names = []
        for place, given in enumerate(inputs):
            if isinstance(given, np.ndarray):
                self.constants[f"{name}.{place}"] = given
                given = f"{name}.{place}"
            names.append(given)
        self.nodes.append(onnx.helper.make_node(operator, names, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def model(self, *outputs):
        graph = onnx.helper.make_graph(
            self.nodes,
            "mine",
            [onnx.helper.make_tensor_value_info("x", 1, self.shape)],
            [onnx.helper.make_empty_tensor_value_info(output) for output in outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opset = onnx.helper.make_opsetid("", self.opset)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)


def vision():
    """Convolutions of every kind, normalisations, pools; odd sizes."""
    add = Builder(2, 3, 13, 15)
    c1 = add("Conv", "c1", "x", normal(8, 3, 3, 3), normal(8), strides=[2, 2], pads=[1, 1, 1, 1])
    statistics = normal(8), normal(8), normal(8), RNG.uniform(0.01, 0.1, 8).astype(np.float32)
    b1 = add("BatchNormalization", "b1", c1, *statistics, epsilon=1e-3)
    h1 = add("HardSwish", "h1", b1)
    depthwise = {"group": 8, "dilations": [2, 2], "pads": [2, 2, 2, 2]}
    dw = add("Add", "add", h1, add("Conv", "dw", h1, normal(8, 1, 3, 3), **depthwise))
    up = add("ConvTranspose", "up", dw, normal(8, 6, 3, 3), normal(6), strides=[2, 2], pads=[1, 1, 1, 1])
    gn = add("InstanceNormalization", "gn", up, normal(6), normal(6), epsilon=1e-6)
    silu = add("Mul", "silu", gn, add("Sigmoid", "gate", gn))
    ap = add("AveragePool", "ap", silu, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    mp = add("MaxPool", "mp", ap, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    hs = add("HardSigmoid", "hs", mp, alpha=1 / 6, beta=0.5)
    cat = add("Concat", "cat", mp, hs, axis=1)
    mean = add("ReduceMean", "mean", cat, np.array([2, 3]), keepdims=0)
    fc = add("Gemm", "fc", mean, normal(5, 12), normal(5), transB=1)
    return add.model(fc)


def transformer():
    """Attention, layer normalisation, a GELU; and a GELU written out."""
    add = Builder(2, 7, 16)
    ln = add("LayerNormalization", "ln", "x", normal(16) + 1, normal(16), epsilon=1e-6)
    q, k, v = (add("MatMul", name, ln, normal(16, 16)) for name in "qkv")
    scores = add("MatMul", "scores", q, add("Transpose", "turn", k, perm=[0, 2, 1]))
    scaled = add("Mul", "scaled", scores, np.array(0.25, np.float32))
    probabilities = add("Softmax", "attention", scaled, axis=-1)
    mixed = add("Add", "residual", "x", add("MatMul", "mixed", probabilities, v))
    gelu = add("Gelu", "gelu", add("MatMul", "mlp", mixed, normal(16, 24)))
    half = add("Mul", "half", gelu, np.array(0.5, np.float32))
    erf = add("Erf", "erf", add("Div", "root", gelu, np.array(np.sqrt(2), np.float32)))
    out = add("Mul", "product", half, add("Add", "one", erf, np.array(1, np.float32)))
    return add.model(add("Gemm", "head", add("ReduceMean", "mean", out, np.array([1]), keepdims=0), normal(24, 4)))


MODELS = {"vision": vision(), "transformer": transformer()}


def recorded(model, feeds, optimise=False):
    """What ONNX Runtime computes for every node."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = exposing(copy)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds), strict=True)) | feeds


def feeds_of(model, seed=0):
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(seed).standard_normal(shape, np.float32)}


def judged(model, wrong, feeds):
    return list(judge_graph(read_graph("mine.onnx", model), recorded(wrong, feeds)))


@pytest.mark.parametrize("optimise", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MODELS)
def test_what_is_right_is_certified(name, seed, optimise):
    model, feeds = MODELS[name], feeds_of(MODELS[name], seed)
    graph = read_graph("mine.onnx", model)
    verdicts = list(judge_graph(graph, recorded(model, feeds, optimise), fused=optimise))
    assert [verdict.name for verdict in verdicts] == [node.name for node in graph.nodes]
    assert {verdict.verdict for verdict in verdicts} == {IDENTICAL, CERTIFIED}


@pytest.mark.parametrize("name", MODELS)
def test_integers_give_the_only_right_bits(name, tmp_path):
    path = tmp_path / "mine.onnx"
    onnx.save(MODELS[name], path)
    graph = read_graph(path)
    probe = exact_probe(read_model(path), graph, recorded(MODELS[name], feeds_of(MODELS[name])))
    for optimise in (False, True):
        values = recorded(probe.model, probe.feeds, optimise)
        verdicts = list(judge_graph(probe.graph, values, probe.expected, fused=optimise))
        assert {verdict.verdict for verdict in verdicts} == {IDENTICAL, CERTIFIED}
        for node in graph.nodes:
            if node.output in probe.expected.values:
                assert np.array_equal(values[node.output], probe.expected.values[node.output]), node.name
    rounding = {node.name for node in graph.nodes if node.output not in probe.expected.values}
    assert rounding <= {
        "b1", "h1", "gn", "gate", "silu", "ap", "hs", "mean", "ln", "attention", "gelu", "root", "erf", "product",
    }  # fmt: skip


def attribute(name, value):
    def change(model, node):
        kept = [found for found in node.attribute if found.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return change


def constant(place, function):
    def change(model, node):
        tensor = next(found for found in model.graph.initializer if found.name == node.input[place])
        old = onnx.numpy_helper.to_array(tensor)
        new = np.ascontiguousarray(function(old)).astype(old.dtype).reshape(old.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))

    return change


def shortened(array):
    return (array.view(np.uint32) & 0xFFFF0000).view(np.float32)


def exchanged_inputs(model, node):
    node.input[0], node.input[1] = node.input[1], node.input[0]


def missing_bias(model, node):
    node.input.pop()


FAULTS = {
    "c1: padded below and right": (
        "vision",
        "c1",
        attribute("pads", [0, 0, 2, 2]),
        "the padding is shifted",
    ),
    "c1: turned": ("vision", "c1", constant(1, lambda w: w.swapaxes(2, 3)), "height and width are exchanged"),
    "c1: bias missing": ("vision", "c1", missing_bias, "the bias is missing"),
    "c1: weights × (1 + 1e-5)": (
        "vision",
        "c1",
        constant(1, lambda w: w * (1 + 1e-5)),
        "the weights are multiplied",
    ),
    "c1: bfloat16": ("vision", "c1", constant(1, shortened), "rounded to bfloat16"),
    "b1: eps": ("vision", "b1", attribute("epsilon", 1e-5), "eps is 1e-05"),
    "dw: not dilated": (
        "vision",
        "dw",
        lambda model, node: (attribute("dilations", [1, 1])(model, node), attribute("pads", [1, 1, 1, 1])(model, node)),
        "not dilated",
    ),
    "up: flipped": ("vision", "up", constant(1, lambda w: w[:, :, ::-1, ::-1]), "the kernel is flipped"),
    "gn: eps": ("vision", "gn", attribute("epsilon", 1e-3), "eps is 0.001"),
    "ap: padding not counted": ("vision", "ap", attribute("count_include_pad", 0), "the padding is not counted"),
    "hs: slope": ("vision", "hs", attribute("alpha", 0.2), "the slope is 1/5"),
    "cat: order": ("vision", "cat", exchanged_inputs, "the inputs are in reverse order"),
    "fc: bias missing": ("vision", "fc", missing_bias, "the bias is missing"),
    "ln: eps": ("transformer", "ln", attribute("epsilon", 1e-3), "eps is 0.001"),
    "ln: no gamma": ("transformer", "ln", constant(1, np.ones_like), "gamma is missing"),
    "q: transposed": ("transformer", "q", constant(1, lambda w: w.T), "the second factor is transposed"),
    "gelu: tanh": ("transformer", "gelu", attribute("approximate", "tanh"), "approximation with a hyperbolic tangent"),
    "scaled: factor": ("transformer", "scaled", constant(1, lambda x: x * 2), "factor 2 is another"),
    "attention: axis": ("transformer", "attention", attribute("axis", 1), None),
    "mlp: one weight": (
        "transformer",
        "mlp",
        constant(1, lambda w: np.where(w == w.max(), w * np.float32(1.01), w)),
        None,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_where_it_is_and_named(fault):
    name, where, change, cause = FAULTS[fault]
    model = MODELS[name]
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    change(wrong, next(node for node in wrong.graph.node if node.name == where))
    found = [verdict for verdict in judged(model, wrong, feeds_of(model)) if verdict.verdict == DIVERGED]
    assert [verdict.name for verdict in found] == [where]
    if cause:
        assert cause in (found[0].cause or ""), found[0].cause


def test_an_operation_without_a_bound_is_unproved_and_its_neighbours_are_judged():
    add = Builder(1, 4)
    shrunk = add("Shrink", "odd", add("Relu", "before", "x"), lambd=0.2)
    model = add.model(add("Gemm", "after", shrunk, normal(4, 3)))
    verdicts = {verdict.name: verdict for verdict in judged(model, model, feeds_of(model))}
    assert verdicts["odd"].verdict == UNPROVED
    assert verdicts["odd"].cause == "no bound has been derived for Shrink"
    assert verdicts["before"].verdict == IDENTICAL
    assert verdicts["after"].verdict in (IDENTICAL, CERTIFIED)


@pytest.mark.parametrize(("operator", "axes"), [("LayerNormalization", 7), ("InstanceNormalization", 4)])
def test_a_variance_that_is_lost_in_rounding_is_unproved(operator, axes):
    """ONNX Runtime takes the mean away first, others the mean's square from the mean square: neither is accused."""
    add = Builder(3, 4, 5, 7)
    norm = add(operator, "norm", "x", normal(axes) + 1, normal(axes), epsilon=1e-12)
    model = add.model(add("Relu", "after", norm))
    x = normal(3, 4, 5, 7)
    for feeds, verdict in (({"x": x}, CERTIFIED), ({"x": 50 + x / 1000}, UNPROVED)):
        found, after = judged(model, model, feeds)
        assert (found.verdict, after.verdict) == (verdict, IDENTICAL)
    assert found.cause == "its variance is smaller than what it may be off by, where it is computed as Σx²/n − m²"


def test_a_bound_is_carried_over_what_was_never_made():
    """As where a runtime fuses nodes: only the last value of a region is there."""
    model, feeds = MODELS["vision"], feeds_of(MODELS["vision"])
    values = recorded(model, feeds, optimise=True)
    seen = {name: array for name, array in values.items() if name not in ("c1_out", "b1_out", "h1_out", "dw_out")}
    graph = read_graph("mine.onnx", model)
    verdicts = {verdict.name: verdict for verdict in judge_graph(graph, seen)}
    assert verdicts["add"].verdict == CERTIFIED
    assert not {"c1", "b1", "h1", "dw"} & verdicts.keys()
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    constant(1, lambda w: w * np.float32(1.001))(wrong, wrong.graph.node[0])
    off = recorded(wrong, feeds)
    assert {v.name: v for v in judge_graph(graph, {name: off[name] for name in seen})}["add"].verdict == DIVERGED


def test_a_normalisation_may_be_done_in_another_order_where_nobody_saw_the_steps():
    """(x − m)·s + b as x·s + (b − m·s), with an s that the runtime computes itself."""
    mean, scale, shift = (np.array(numbers, np.float32) for numbers in ([40.3, -17.7], [0.37, -0.83], [0.11, 0.7]))
    add = Builder(64, 2)
    centred = add("Sub", "centred", "x", mean)
    model = add.model(add("Add", "norm", add("Mul", "scaled", centred, scale), shift))
    x = (100 * np.random.default_rng(0).standard_normal((64, 2))).astype(np.float32)
    graph = read_graph("mine.onnx", model)
    own = scale * np.float32(1 + 6 * 2.0**-23)  # of the variance, as the runtime takes its root
    other = x * own + (shift - mean * own)

    def verdict(values, **options):
        return {v.name: v for v in judge_graph(graph, {"x": x, **values}, **options)}["norm"].verdict

    assert verdict({"norm_out": other}) == DIVERGED
    assert verdict({"norm_out": other}, fused=True) == CERTIFIED
    wrong = x * own * np.float32(1 + 1e-5) + (shift - mean * own)
    assert verdict({"norm_out": wrong}, fused=True) == DIVERGED
    seen = {"centred_out": x - mean, "scaled_out": (x - mean) * scale}
    assert verdict({"norm_out": other, **seen}, fused=True) == DIVERGED


@pytest.mark.parametrize(("units", "told"), [(2, CERTIFIED), (8, DIVERGED)])
def test_a_shift_that_no_factor_multiplies_may_be_off_by_its_own_roundings_alone(units, told):
    """Three operations; what a factor of a normalisation may be off by is not the shift's to have."""
    add = Builder(64, 2)
    scaled = add("Mul", "scaled", add("Sub", "centred", "x", np.zeros(2, np.float32)), np.full(2, 0.37, np.float32))
    model = add.model(add("Add", "norm", scaled, np.ones(2, np.float32)))
    x = (1e-3 * np.random.default_rng(0).standard_normal((64, 2))).astype(np.float32)
    right = 1 + np.float32(0.37) * x.astype(np.float64)
    values = {"x": x, "norm_out": (right + units * 2.0**-24).astype(np.float32)}
    (verdict,) = judge_graph(read_graph("mine.onnx", model), values, fused=True)
    assert verdict.verdict == told, verdict.bound_ratio


def test_integers_that_constants_add_up_to_carry_no_error():
    """The mask of a shifted window: a comparison of what is computed of constants alone."""
    add = Builder(1, 4)
    constant = np.array([1, 2, 3, 2], np.float32)
    difference = add("Sub", "difference", constant, np.array([2, 2, 2, 2], np.float32))
    mask = add("Equal", "mask", difference, np.array(0, np.float32))
    model = add.model(
        add("Add", "sum", "x", add("Where", "chosen", mask, np.array([0, 0, 0, 0], np.float32), constant))
    )
    feeds = feeds_of(model)
    values = {"x": feeds["x"], "sum_out": recorded(model, feeds)["sum_out"]}
    (verdict,) = judge_graph(read_graph("mine.onnx", model), values)
    assert verdict.verdict in (CERTIFIED, IDENTICAL), verdict.cause


def run(*arguments):
    return subprocess.CompletedProcess(arguments, *run_here("prove", *arguments))


def test_it_is_measured_what_the_exact_probe_sees():
    """All but what changes nothing; and, where nothing is injected, little."""
    model = MODELS["vision"]
    probe = exact_probe(model, read_graph("mine.onnx", model), recorded(model, feeds_of(model)))
    found = sensitivity_of(probe)
    assert found.of > 30
    assert found.seen + len(found.unseen) == found.of
    assert found.unseen == ()
    add = Builder(1, 3, 4, 4)
    plain = add.model(add("Conv", "c", "x", normal(2, 3, 1, 1), normal(2), dilations=[1, 1], strides=[2, 2]))
    blind = exact_probe(plain, read_graph("mine.onnx", plain), recorded(plain, feeds_of(plain)))
    assert sensitivity_of(blind) == Sensitivity(3, 4, ("c: dilations",))
    blind.expected.given["x"] = np.zeros_like(blind.expected.given["x"])
    assert sensitivity_of(blind).unseen == ("c: c.1", "c: dilations", "c: strides")


def test_it_is_told_how_many_of_the_values_that_can_be_exact_are(tmp_path):
    """A product with a number of many bits is exact with a power of two. A sum with such a number rounds."""
    add = Builder(2, 3, 4)
    scaled = add("Mul", "scaled", add("MatMul", "product", "x", normal(4, 4)), np.array(96**-0.5, np.float32))
    shifted = add("Add", "shifted", scaled, np.array(1e-6, np.float32))
    path = tmp_path / "mine.onnx"
    onnx.save(add.model(add("Softmax", "curve", shifted, axis=-1)), path)
    process = run(path, "--probe", "exact")
    assert "Exact: 2 of 3 values that can be, but not shifted; 2 of 4 round." in process.stdout
    (found,) = json.loads(run(path, "--probe", "exact", "--json").stdout)["runs"]
    assert (found["exact"], found["can_be_exact"], found["missed"]) == ([2, 4], 3, ["shifted"])
    exact = {layer["name"] for layer in found["backends"][0]["layers"] if layer["exact"]}
    assert exact == {"product", "scaled"}


def test_the_command(tmp_path):
    path = tmp_path / "mine[bold].onnx"
    onnx.save(MODELS["transformer"], path)
    process = run(path)
    assert process.returncode == 0, process.stderr
    assert "mine[bold].onnx" in process.stdout
    assert process.stdout.splitlines()[-1] == "Verdict: certified"
    report = json.loads(run(path, "--probe", "exact", "--sensitivity", "--json").stdout)
    assert report["verdict"] == "identical"
    found = report["runs"][0]["sensitivity"]
    assert (found["seen"], found["unseen"]) == (found["of"], [])
    (row, _) = report["runs"][0]["backends"]
    assert (row["backend"], row["status"], row["path"]) == ("onnxruntime", "ok", None)
    assert {"name", "verdict", "bound_ratio", "precision", "max_ulp", "kind", "source"} <= row["layers"][0].keys()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing.onnx"], "there is no file missing.onnx"),
        (["resnet"], "'resnet' names no model; give FILE.onnx"),
        (["missing.py:build"], "there is no file missing.py"),
        (["{path}", "--input-shape", "three"], "--input-shape three is no shape"),
        (["{path}", "--probe", "photo"], "there is no probe 'photo' for models"),
        (["{path}", "--input", "x"], "--input x names no file"),
        (["{path}", "--input", "x={path}"], "is no NumPy file"),
        (["{path}", "--input", "y={array}"], "has no input 'y'; it takes x"),
        (["{path}", "--input", "x={array}"], "--input x is 1×5, but"),
        (["{path}", "--input-shape", "2x7x17"], "takes x of shape 2×7×16, not 2×7×17"),
        (["{broken}"], "cannot be read as ONNX"),
        (["{tokens}"], "takes tokens, which is int64, not float32; give it with --input tokens=FILE.npy"),
        (["{dynamic}"], "takes x of shape 1×channels×7; say which with --input-shape"),
        (["common.nowhere:build"], "there is no module common.nowhere"),
    ],
)
def test_what_cannot_be_proved_is_told_in_a_sentence(arguments, told, tmp_path):
    paths = {name: tmp_path / f"{name}.onnx" for name in ("path", "broken", "tokens", "dynamic")}
    onnx.save(MODELS["transformer"], paths["path"])
    paths["array"] = tmp_path / "array.npy"
    np.save(paths["array"], np.zeros((1, 5), np.float32))
    paths["broken"].write_bytes(b"not a model at all")
    identity = onnx.helper.make_node("Identity", ["tokens"], ["out"], name="same")
    for name, value, kind, shape in (("tokens", "tokens", 7, (1, 3)), ("dynamic", "x", 1, (1, "channels", 7))):
        identity.input[0] = value
        given = onnx.helper.make_tensor_value_info(value, kind, shape)
        made = onnx.helper.make_empty_tensor_value_info("out")
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([identity], "g", [given], [made])), paths[name])
    process = run(*(argument.format(**paths) for argument in arguments))
    assert process.returncode == 2
    assert told in process.stderr
    assert "Traceback" not in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


def test_a_shape_that_a_file_leaves_open_is_said(tmp_path):
    add = Builder("images", 3, "height", 8)
    path = tmp_path / "open.onnx"
    onnx.save(add.model(add("Conv", "c", "x", normal(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])), path)
    process = run(path, "--input-shape", "2x3x7x8")
    assert process.returncode == 0, process.stderr
    assert "1 of 1" in process.stdout


def test_what_is_returned_but_was_not_seen_is_not_agreement():
    model, feeds = MODELS["transformer"], feeds_of(MODELS["transformer"])
    graph, values = read_graph("mine.onnx", model), recorded(model, feeds)
    runtime = Runtime("some", optimise=False)
    whole = judged_runtime(runtime, graph, feeds, Recorded(dict(values)), Expected())
    assert (whole.verdict, whole.note) == (CERTIFIED, None)
    (output,) = graph.outputs
    values.pop(output)
    found = judged_runtime(runtime, graph, feeds, Recorded(values, same=False), Expected())
    assert (found.verdict, found.status) == ("incomplete", "ok")
    assert found.note.startswith(f"what it returns was not seen: {output}; called as a whole it gives other bits")


def test_a_file_is_read_with_every_constant_and_every_name(tmp_path):
    """Constants in nodes, nodes without names, weights beside the file."""
    add = Builder(1, 4)
    value = onnx.numpy_helper.from_array(normal(4, 4), "inner")
    add.nodes.append(onnx.helper.make_node("Constant", [], ["w"], value=value))
    first = add("MatMul", "", "x", "w")
    model = add.model(add("MatMul", "", first.replace("_out", "_out"), normal(4, 4)))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    graph = read_graph(tmp_path / "m.onnx")
    assert len({node.name for node in graph.nodes}) == len(graph.nodes) == 2
    assert "w" in graph.constants
    with pytest.raises(TriptychError, match="there is no file"):
        read_model(tmp_path / "n.onnx")


MINE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        y = nn.functional.silu(self.norm(self.conv(x)))
        return self.head(y.mean((2, 3)))

def build():
    print("a model may print")
    torch.manual_seed(0)
    return Net()
"""


def test_a_model_in_pytorch_is_proved_with_what_it_is_exported_to(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    (tmp_path / "mine.py").write_text(MINE)
    process = run(f"{tmp_path}/mine.py:build", "--input-shape", "2x3x9x11", "--json", "--seed", 3)
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert report["verdict"] == "certified"
    rows = {row["backend"]: row for run in report["runs"] for row in run["backends"] if run["probe"] == "random"}
    assert list(rows) == ["torch", "torch-compile", "onnxruntime", "onnxruntime-optimised", "export"]
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {"Conv", "Gemm"} <= {layer["kind"] for layer in rows["torch"]["layers"]}
    assert any("conv" in (layer["source"] or "") for layer in rows["torch"]["layers"])


def test_products_of_matrices_do_not_wait_for_threads(monkeypatch):
    """Those of a judgement are small: on busy cores, threads make them take several times as long."""
    seen = []

    def judge(*_, **__):
        seen.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return iter(())

    monkeypatch.setattr(results, "judge_graph", judge)
    graph = read_graph("mine.onnx", next(iter(MODELS.values())))
    with threadpool_limits(2, user_api="blas"):
        judged_runtime(Runtime("some", optimise=False), graph, {}, Recorded({}), Expected())
    assert set(seen) == {1}
