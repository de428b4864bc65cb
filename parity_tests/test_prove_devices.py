"""`triptych prove --device`: bounds of WebGPU's functions, where each node ran, and what a device cannot do.

What needs WebGPU is skipped where there is none, and runs in this process, on models of one node; the whole proof is
run once.
"""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
import pytest
from conftest import daily

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from test_prove import Builder, feeds_of, normal  # noqa: E402
from test_prove_operations import CASES, graph_of  # noqa: E402
from test_prove_recurrent import CASES as RECURRENT  # noqa: E402
from test_prove_recurrent import X  # noqa: E402

from common import TriptychError  # noqa: E402
from common.graphs import read_graph  # noqa: E402
from common.onnx import webgpu  # noqa: E402
from common.onnx.session import Session, execution_providers  # noqa: E402
from common.operations import LRN, BatchNorm, ReLU, ScaledTanh, Sigmoid, Softmax, evaluate  # noqa: E402
from common.operations.arithmetic import Divide, Power, SquareRoot  # noqa: E402
from common.operations.moments import LayerNorm  # noqa: E402
from common.operations.onnx_node import Unread  # noqa: E402
from common.operations.rectifiers import ELU  # noqa: E402
from common.operations.resize import Resize  # noqa: E402
from common.operations.rounding import FP32_IN_WGSL, UNIT_ROUNDOFF  # noqa: E402
from common.operations.smooth import GELU, Erf, Exp, Log, Mish, Softplus, Tanh, Wave  # noqa: E402
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL  # noqa: E402
from common.prove.api import assert_same, prove  # noqa: E402
from common.prove.judging import UNPROVED, judge_graph  # noqa: E402
from common.prove.models import parse  # noqa: E402
from common.prove.on_cluster import Proofs  # noqa: E402
from common.prove.onnx_run import exposing  # noqa: E402
from common.prove.proof import Request, results_of  # noqa: E402


class Shader:
    """WGSL's functions with errors as large as it allows, of signs that are drawn, on numbers in float64."""

    def __init__(self, seed):
        self.signs = np.random.default_rng(seed)

    def off(self, value, units, absolute=False):
        """A value that is wrong by so many u of itself, or in absolute terms."""
        error = UNIT_ROUNDOFF * units * self.signs.choice([-1, 1], np.shape(value))
        return value + error if absolute else value * (1 + error)

    def exp(self, x):
        return self.off(np.exp(x), 6 + 4 * np.abs(x))

    def log(self, x):
        near = (x >= 0.5) & (x <= 2)
        return np.where(near, self.off(np.log(x), 8, absolute=True), self.off(np.log(x), 6))

    def divide(self, x, y):
        return self.off(x / y, 5)

    def inverse_root(self, x):
        return self.off(1 / np.sqrt(x), 4)

    def add(self, x, y):
        return self.off(x + y, 1)

    def times(self, x, y):
        return self.off(x * y, 1)

    # As onnxruntime-ep-webgpu 0.4.0 puts them together

    def sigmoid(self, x):
        return self.divide(1.0, self.add(1.0, self.exp(-x)))

    def tanh(self, x):
        e = self.exp(-2 * np.abs(x))
        return np.sign(x) * self.divide(self.add(1.0, -e), self.add(1.0, e))

    def erf(self, x):
        v = np.abs(x)
        t = self.divide(1.0, self.add(1.0, self.times(self.off(0.3275911, 1), v)))
        made = self.off(1.061405429, 1)
        for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            made = self.add(self.times(made, t), self.off(term, 1))
        made = self.times(self.times(made, t), self.exp(-self.times(v, v)))
        return np.sign(x) * self.add(1.0, -made)

    def gelu(self, x, approximate=False):
        if approximate:
            z = self.times(x, self.add(self.times(self.times(self.off(0.044715 * np.sqrt(2 / np.pi), 1), x), x), 0.8))
            z = z + self.times(x, np.sqrt(2 / np.pi) - 0.8)
            return self.times(x, self.add(0.5, 0.5 * self.tanh(z)))
        return self.times(self.times(0.5, x), self.add(1.0, self.erf(self.times(x, self.off(np.sqrt(0.5), 1)))))

    def softplus(self, x):
        return self.add(np.maximum(x, 0), self.log(self.add(1.0, self.exp(-np.abs(x)))))

    def power(self, x, y):
        logarithm = self.log(x) / np.log(2)
        near = (x >= 0.5) & (x <= 2)
        logarithm = np.where(near, self.off(np.log2(x), 8, absolute=True), logarithm)
        w = self.times(y, logarithm)
        return self.off(np.exp2(w), 6 + 4 * np.abs(w))

    def softmax(self, x):
        """One thread for every 64 columns, and eight times two sums put together."""
        largest, total = np.full(x.shape[0], -np.inf), np.zeros(x.shape[0])
        for column in x.T:
            new = np.maximum(largest, column)
            before = np.where(np.isinf(largest), 0, total) * self.exp(np.where(np.isinf(largest), 0, largest - new))
            total, largest = self.add(before, self.exp(self.off(column - new, 1))), new
        for _ in range(8):
            total = self.times(total, self.exp(np.zeros(total.shape)))
        return self.divide(self.exp(self.off(x - largest[:, None], 1)), total[:, None])

    def layer_norm(self, x, gamma, beta, eps):
        count = x.shape[-1]
        mean = self.divide(x.sum(-1, keepdims=True), count)
        variance = self.add(self.divide(np.square(x).sum(-1, keepdims=True), count), -self.times(mean, mean))
        scale = self.inverse_root(self.add(variance, eps))
        return self.add(self.times(self.times(self.add(x, -mean), scale), gamma), beta)


NUMBERS = np.random.default_rng(0)
WIDE = (NUMBERS.standard_normal((64, 500)) * np.exp(NUMBERS.standard_normal((64, 500)))).astype(np.float32)
POSITIVE = np.exp(NUMBERS.standard_normal((64, 500)) * 3).astype(np.float32)
SCORES = (NUMBERS.standard_normal((40, 30)) * 4).astype(np.float32)
GAMMA, BETA = (NUMBERS.standard_normal(30).astype(np.float32) for _ in range(2))

SIMULATED = {
    # name: operation, inputs, parameters, what a shader computes
    "exp": (Exp(), [WIDE], {}, lambda s, x: s.exp(x)),
    "log": (Log(), [POSITIVE], {}, lambda s, x: s.log(x)),
    "division": (Divide(), [WIDE, POSITIVE], {}, lambda s, x, y: s.divide(x, y)),
    "root": (SquareRoot(), [POSITIVE], {}, lambda s, x: s.divide(1.0, s.inverse_root(x))),
    "power": (Power(), [POSITIVE, np.float32(0.75)], {}, lambda s, x, y: s.power(x, y)),
    "sigmoid": (Sigmoid(), [WIDE], {}, lambda s, x: s.sigmoid(x)),
    "tanh": (Tanh(), [WIDE], {}, lambda s, x: s.tanh(x)),
    "erf": (Erf(), [WIDE], {}, lambda s, x: s.erf(x)),
    "gelu": (GELU(), [WIDE], {}, lambda s, x: s.gelu(x)),
    "gelu, approximate": (GELU(approximate=True), [WIDE], {}, lambda s, x: s.gelu(x, approximate=True)),
    "softplus": (Softplus(), [WIDE], {}, lambda s, x: s.softplus(x)),
    "mish": (Mish(), [WIDE], {}, lambda s, x: s.times(x, s.tanh(s.softplus(x)))),
    "elu": (ELU(), [WIDE], {}, lambda s, x: np.where(x > 0, x, s.add(s.exp(np.minimum(x, 0)), -1.0))),
    "softmax": (Softmax(-1), [SCORES], {}, lambda s, x: s.softmax(x)),
    "layer norm": (
        LayerNorm(1e-5),
        [SCORES],
        {"gamma": GAMMA, "beta": BETA},
        lambda s, x: s.layer_norm(x, GAMMA.astype(np.float64), BETA.astype(np.float64), 1e-5),
    ),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_what_wgsl_allows_is_within_the_bound_and_the_bound_is_no_licence(name):
    """The kernel, with every function off by as much as it may be. More than a CPU's bound is needed, or as much."""
    operation, inputs, parameters, compute = SIMULATED[name]
    reference = evaluate(operation, inputs, parameters)
    bound = operation.at_precision(reference, FP32_IN_WGSL, inputs, parameters).bound
    assert (bound >= reference.bound).all() or name == "exp"
    largest = 0.0
    for seed in range(4):
        made = compute(Shader(seed), *(np.asarray(x, np.float64) for x in inputs))
        ratio = np.abs(made - reference.value) / bound
        assert ratio.max() <= 1
        largest = max(largest, float(ratio.max()))
    assert largest > (0.02 if name in ("softmax", "layer norm") else 0.3)


@pytest.mark.parametrize(
    ("operation", "inputs", "words"),
    [
        (Wave(), [WIDE], "WGSL promises of a sine"),
        (Log(), [WIDE], "WGSL promises nothing of the logarithm"),
        (SquareRoot(), [WIDE], "WGSL promises nothing of the root"),
        (Power(), [WIDE, np.float32(0.75)], "WGSL promises nothing of a power"),
        (Divide(), [WIDE, np.maximum(WIDE, 0)], "WGSL promises nothing of a division by 0"),
        (LayerNorm(1e-6), [SCORES / 1000 + 5], "its variance is smaller"),
        (Resize((40, 15), (1, 0.5), antialias=True), [SCORES], "how a WebGPU shader filters"),
    ],
)
def test_where_nothing_is_promised_there_is_no_bound(operation, inputs, words):
    parameters = {"gamma": GAMMA, "beta": BETA}
    with pytest.raises(Unread, match=words):
        operation.at_precision(operation.reference(inputs, parameters), FP32_IN_WGSL, inputs, parameters)


@pytest.mark.parametrize("operation", [ReLU(), Sigmoid(), ScaledTanh(1.7159, 2 / 3), Softmax(), LRN(5, 1e-4, 0.75, 1)])
def test_the_catalogues_activations_have_bounds_on_webgpu(operation):
    """And so has what sums products, by itself."""
    x = normal(2, 7, 3, 4)
    reference = evaluate(operation, [x], {})
    found = operation.at_precision(reference, FP32_IN_WGSL, [x], {})
    assert (found.bound is None) == (reference.bound is None)
    assert found.bound is None or (found.bound >= reference.bound).all()
    norm, statistics = BatchNorm(1e-5), dict.fromkeys(("gamma", "beta", "mean", "variance"), np.ones(7, np.float32))
    of_norm = evaluate(norm, [x], statistics)
    assert norm.at_precision(of_norm, FP32_IN_WGSL, [x], statistics).bound is of_norm.bound


def test_a_node_that_ran_on_the_cpu_keeps_the_cpus_bound():
    """An error that a shader may make, on the GPU and on the CPU; and a sine, which a CPU has a bound for."""
    x = POSITIVE[:2, :200].clip(0, 20)
    graph = read_graph("mine.onnx", (add := Builder(*x.shape)).model(add("Exp", "e", "x"), add("Sin", "s", "x")))
    wrong = (np.exp(x.astype(np.float64)) * (1 + 5 * UNIT_ROUNDOFF)).astype(np.float32)
    values = {"x": x, "e_out": wrong, "s_out": np.sin(x)}
    for place, verdicts in (("gpu", (CERTIFIED, UNPROVED)), ("cpu", (DIVERGED, CERTIFIED))):
        found = list(judge_graph(graph, values, precision=FP32_IN_WGSL, places={"e_out": place, "s_out": place}))
        assert tuple(verdict.verdict for verdict in found) == verdicts
        assert {verdict.place for verdict in found} == {place}
    assert {verdict.place for verdict in judge_graph(graph, values)} == {None}


def on_webgpu(model, feeds):
    """Every value that WebGPU computes, where it did, and the session's note."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    names = exposing(model)
    session = Session("it", model.SerializeToString(), execution_providers("webgpu", "fp32"))
    values = dict(zip(names, session.run(names, feeds), strict=True))
    places = {
        v: session.places[node.name] for node in model.graph.node for v in node.output if node.name in session.places
    }
    return values, places, session.note


def judged_there(model, feeds):
    values, places, _ = on_webgpu(model, feeds)
    return list(judge_graph(read_graph("it", model), feeds | values, precision=FP32_IN_WGSL, places=places, fused=True))


LACKING = {"Resize linear, filtered", "Resize linear, filtered, exact", "Resize cubic, filtered as PyTorch does"}
LACKING |= {"ConvTranspose, three axes"}
"""What the provider has a kernel for that refuses these attributes."""
ON_CPU = {"Selu", "LogSoftmax"}
DAILY = ("Resize cubic", "GroupNormalization", "LogSoftmax")


@pytest.mark.parametrize("name", daily(*DAILY, of=[name for name in CASES if name not in LACKING]))
def test_an_operation_of_other_peoples_graphs_is_proved_there(name, adapter):
    model = graph_of(name)
    (found,) = judged_there(model, feeds_of(model))
    expected = (UNPROVED,) if name in ("Sin", "Cos") else (IDENTICAL, CERTIFIED)
    assert found.verdict in expected, (found.bound_ratio, found.cause)
    assert found.place == ("cpu" if name in ON_CPU else None if name in ("GroupNormalization", "Mish") else "gpu")


@pytest.mark.parametrize("name", daily("GRU, reset after", of=RECURRENT))
def test_a_recurrent_layer_is_proved_there(name, adapter):
    assert {verdict.verdict for verdict in judged_there(RECURRENT[name], X)} <= {IDENTICAL, CERTIFIED}


FUNCTIONS = ("Exp", "Log", "Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Erf", "Gelu", "Softplus", "Elu", "HardSwish")


@pytest.mark.parametrize("operator", daily("Erf", "Softplus", of=FUNCTIONS))
def test_a_function_is_within_its_bound_and_a_wrong_one_is_not(operator, adapter):
    x = POSITIVE.clip(0.01, 80) if operator in ("Log", "Sqrt", "Reciprocal") else WIDE.clip(-80, 80)
    add = Builder(*x.shape)
    model = add.model(add(operator, "it", "x"))
    values, places, _ = on_webgpu(model, {"x": x})
    graph, options = read_graph("it", model), {"precision": FP32_IN_WGSL, "places": places}
    (right,) = judge_graph(graph, {"x": x, **values}, **options)
    assert (right.verdict in (IDENTICAL, CERTIFIED), right.place) == (True, "gpu")
    (wrong,) = judge_graph(graph, {"x": x, "it_out": values["it_out"] * np.float32(1 + 1e-4)}, **options)
    assert wrong.verdict == DIVERGED


WRONG_IN_NHWC = {
    "one axis": ("Conv", (2, 6, 9), (4, 6, 3), {}),
    "2 groups": ("Conv", (1, 10, 5, 6), (10, 5, 2, 3), {"group": 2}),
    "4 groups": ("Conv", (1, 12, 5, 6), (28, 3, 2, 3), {"group": 4}),
    "transposed, 2 groups": ("ConvTranspose", (2, 4, 5, 3), (4, 1, 3, 2), {"group": 2}),
}


@pytest.mark.parametrize("name", daily("2 groups", "transposed, 2 groups", of=WRONG_IN_NHWC))
def test_more_that_is_computed_wrongly_in_nhwc_is_run_in_nchw(name, adapter, monkeypatch):
    """And is still computed wrongly there by this version: where it is not, the detour can go."""
    operator, shape, weight, options = WRONG_IN_NHWC[name]
    integers = np.random.default_rng(0).integers
    x, w = (integers(-4, 5, size).astype(np.float32) for size in (shape, weight))
    add = Builder(*shape)
    model = add.model(add(operator, "it", "x", w, **options))
    (right,) = Session("it", model.SerializeToString()).run(["it_out"], {"x": x})
    values, _, note = on_webgpu(model, {"x": x})
    assert values["it_out"].tobytes() == right.tobytes()
    assert "it wrongly" in note
    monkeypatch.setattr(webgpu, "computed_wrongly_in_nhwc", lambda graph: [])
    as_preferred = on_webgpu(model, {"x": x})[0]["it_out"]
    assert (version("onnxruntime-ep-webgpu") == "0.4.0") == (as_preferred != right).any()


@pytest.mark.parametrize(
    ("operator", "shape", "more", "options", "cause"),
    [
        ("InstanceNormalization", (2, 4, 5, 7), (4, 4), {"epsilon": 1.5e-6}, None),
        ("Conv", (3, 3, 7), ((4, 3, 1),), {"pads": [0, 2]}, None),
    ],
)
def test_what_the_plugin_computes_wrongly_in_every_layout_diverges(operator, shape, more, options, cause, adapter):
    """An eps that is written with six decimals; and padding behind the end alone, before a kernel of one pixel."""
    scale = 0.003 if operator == "InstanceNormalization" else 1.0
    add = Builder(*shape)
    sizes = [(size,) if isinstance(size, int) else size for size in more]
    model = add.model(add(operator, "it", "x", *(normal(*size) for size in sizes), **options))
    (found,) = judged_there(model, {"x": normal(*shape, scale=scale)})
    assert (found.verdict == DIVERGED) == (version("onnxruntime-ep-webgpu") == "0.4.0")


def small(path, *, eps=1e-5, scale=1.0):
    """A network of a few nodes, one of which WebGPU has no kernel for, in an ONNX file."""
    numbers = np.random.default_rng(3)

    def drawn(*shape):
        return (numbers.standard_normal(shape) * 0.3).astype(np.float32)

    add = Builder(3, 3, 7, 5, opset=20)
    kernel = drawn(8, 3, 3, 3)
    kernel.reshape(-1)[np.abs(kernel).argmax()] *= np.float32(scale)
    value = add("Conv", "conv", "x", kernel, drawn(8), pads=[1, 1, 1, 1])
    statistics = drawn(8), drawn(8), drawn(8), np.square(drawn(8)) + np.float32(0.01)
    value = add("BatchNormalization", "norm", value, *statistics, epsilon=eps)
    value = add("Selu", "selu", add("Gelu", "gelu", value))
    value = add("Gemm", "fc", add("Flatten", "flat", add("GlobalAveragePool", "pool", value)), drawn(8, 5), drawn(5))
    onnx.save(add.model(add("Softmax", "prob", value)), path)
    return path


def test_a_file_is_proved_on_webgpu_and_says_where_each_node_ran(adapter, tmp_path):
    report = prove(small(tmp_path / "mine.onnx"), device="webgpu")
    found = json.loads(json.dumps(report.as_json()))
    assert (found["verdict"], found["environment"]["webgpu"]) == ("certified", vars(adapter))
    assert [(run["probe"], run["device"]) for run in found["runs"]] == [("exact", "webgpu"), ("random", "webgpu")]
    for run in found["runs"]:
        basis, row = run["backends"]
        assert (basis["backend"], row["backend"]) == ("onnxruntime", "onnxruntime-webgpu")
        assert {layer["name"]: layer["place"] for layer in row["layers"]} == {
            name: "cpu" if name == "selu" else "gpu"
            for name in ("conv", "norm", "gelu", "selu", "pool", "flat", "fc", "prob")
        }
        assert row["note"] == f"on {adapter}; ran on the CPU: 1 × Selu"
        assert {layer["place"] for layer in basis["layers"]} == {None}
    exact = {layer["name"]: layer for layer in found["runs"][0]["backends"][1]["layers"]}
    assert {name for name, layer in exact.items() if layer["exact"]} >= {"conv", "fc"}


@pytest.mark.slow
def test_a_file_is_proved_on_webgpu_as_it_is_deployed(adapter, tmp_path):
    report = prove(small(tmp_path / "mine.onnx"), device="webgpu", probes=["random"], deployed=True)
    assert [run.probe for run in report.runs] == ["random", "deployed"]
    (row,) = report.runs[1].backends
    assert (row.backend, row.verdict) == ("onnxruntime-webgpu", CERTIFIED)


FAULTS = {"norm .*eps is 2e-05": {"eps": 2e-5}, "conv ": {"scale": 1 + 1e-4}}


@pytest.mark.parametrize("words", daily("norm .*eps is 2e-05", of=FAULTS))
def test_a_fault_in_an_export_is_located_on_webgpu(words, adapter, tmp_path):
    right, wrong = small(tmp_path / "right.onnx"), small(tmp_path / "wrong.onnx", **FAULTS[words])
    with pytest.raises(AssertionError, match=f"onnxruntime-webgpu on the random probe .*: {words}"):
        assert_same(right, wrong, device="webgpu")


def test_what_runs_on_the_cpu_alone_is_no_proof_of_a_gpu(adapter, tmp_path):
    add = Builder(2, 3)
    onnx.save(add.model(add("Selu", "selu", "x")), tmp_path / "mine.onnx")
    report = prove(tmp_path / "mine.onnx", device="webgpu", probes=["random"])
    assert report.verdict == "incomplete"
    assert f"on {adapter}; nothing ran on the GPU; ran on the CPU: 1 × Selu" in str(report)


@pytest.mark.slow
def test_a_module_is_proved_by_its_specification_and_its_export(adapter):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GELU())
    report = prove(model, input_shape=[1, 3, 5, 7], device="webgpu", probes=["random"])
    (run,) = report.runs
    assert [row.backend for row in run.backends] == ["onnxruntime", "onnxruntime-webgpu", "export-webgpu"]
    assert report.verdict == CERTIFIED
    assert {layer.place for row in run.backends[1:] for layer in row.layers} == {"gpu"}


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("tpu", "there is no device 'tpu'; choose cpu, cuda, webgpu"),
        ("cuda", "there is no NVIDIA GPU here .*leave out"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, words, tmp_path, monkeypatch):
    monkeypatch.setattr("common.parity.backends.gpu", lambda: None)
    file = small(tmp_path / "mine.onnx")
    with pytest.raises(TriptychError, match=words):
        prove(file, device=device)
    with pytest.raises(TriptychError, match=words):  # on a worker of a cluster
        Proofs(Request(device=device), None, [str(file)], []).obstacles()


def test_cuda_needs_an_onnx_runtime_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr("common.parity.backends.gpu", lambda: "a GPU")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(TriptychError, match="ONNX Runtime has no CUDA provider; install onnxruntime-gpu"):
        prove(small(tmp_path / "mine.onnx"), device="cuda")


def test_two_networks_and_litert_files_are_refused_on_a_device(tmp_path):
    file = small(tmp_path / "mine.onnx")
    with pytest.raises(TriptychError, match="two networks are compared on the CPU; leave out `device='webgpu'`"):
        prove(file, file, weights="own", device="webgpu")
    (tmp_path / "mine.tflite").write_bytes(b"")
    with pytest.raises(TriptychError, match=r"mine\.tflite is run by LiteRT, on the CPU"):
        prove(file, str(tmp_path / "mine.tflite"), device="webgpu")


def test_progress_counts_the_rows_of_a_device(tmp_path):
    names = [parse(str(small(tmp_path / "mine.onnx")))]
    assert results_of(names, Request(device="webgpu", deployed=True)) == 2 + 2 + 1
