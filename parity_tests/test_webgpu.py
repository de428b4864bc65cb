"""WebGPU: the exports on a GPU, or in software where SwiftShader is all there is; skipped where there is neither.

The networks are run in this process, at sizes that software computes in seconds; the command is run once.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import numpy as np
import onnx
import pytest
from conftest import daily, load_implementation
from onnx import TensorProto, helper, numpy_helper

from common import TriptychError, get_spec
from common.onnx import adapters, webgpu
from common.onnx.builder import GraphBuilder
from common.onnx.options import ExportOptions
from common.onnx.session import RecordingSession, Session, execution_providers
from common.onnx.vulkan import Device
from common.operations import LRN, ReLU, evaluate
from common.operations.rounding import FP32, FP32_IN_WGSL
from common.parity.backends import Hardware, require, select, select_for
from common.parity.judge import judge
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL, first_divergence, overall
from common.probes import make_probe
from parity_tests.commands import run_here

BOTH = {"exact": IDENTICAL, "random": CERTIFIED}
EXACT = {"exact": IDENTICAL}

SMALL = [
    ("lenet_caffe", None, BOTH),
    ("lenet5", None, BOTH),
    ("alexnet_mnist", None, EXACT),
    ("resnet18", (32, 32), EXACT),
    ("densenet121", (32, 32), EXACT),
]
"""The smallest of each family, the size of image to run it on, and the verdicts on the probes."""

DAILY = "lenet_caffe"
"""The shaders of the others take seconds to compile, of the deep ones half a minute."""


def run(architecture, probe_name, path, size=None, change=None):
    """The spec, the probe, what was recorded on WebGPU, and where each layer ran; `change` edits the exported graph."""
    spec = get_spec(architecture, image_size=size)
    probe = make_probe(probe_name, spec, seed=0, batch=1, weights=None)
    implementation = load_implementation("torch_impl")
    model = implementation.build(architecture, image_size=size)
    implementation.load_weights(model, probe.weights)
    implementation.export_onnx(model, path)
    if change:
        exported = onnx.load(path)
        change(exported.graph)
        onnx.save(exported, path)
    session = RecordingSession(path, probe.injected, execution_providers("webgpu", "fp32"))
    return spec, probe, session.record(probe.image, probe.injected), session


@pytest.mark.parametrize(
    ("architecture", "size", "probes"),
    [pytest.param(*case, marks=[] if case[0] == DAILY else pytest.mark.slow) for case in SMALL],
)
def test_the_smallest_of_each_family_is_proved(architecture, size, probes, adapter, tmp_path):
    """Bit for bit on integers, within its bound on random numbers, every layer on the GPU, the same bits each time."""
    for name, expected in probes.items():
        spec, probe, recorded, session = run(architecture, name, tmp_path / "a.onnx", size)
        verdicts = judge(spec, probe, recorded, precision=FP32_IN_WGSL)
        assert (overall(verdicts, probe), first_divergence(verdicts)) == (expected, None)
        assert {verdict.precision for verdict in verdicts} == {"fp32"}
        assert session.places == dict.fromkeys(recorded, "gpu")
        again = session.record(probe.image, probe.injected)
        assert all(recorded[name].tobytes() == again[name].tobytes() for name in recorded)


def test_a_wrong_number_in_the_export_is_caught(adapter, tmp_path):
    def change(graph):
        (weight,) = (tensor for tensor in graph.initializer if tensor.name == "conv2/weight")
        array = numpy_helper.to_array(weight).copy()
        array[7, 3, 2, 1] += 1
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))

    spec, probe, recorded, _ = run("lenet_caffe", "exact", tmp_path / "a.onnx", change=change)
    divergence = first_divergence(judge(spec, probe, recorded, precision=FP32_IN_WGSL))
    assert divergence is not None
    assert divergence.name == "conv2"


CONVOLUTIONS = {(3, 4): False, (4, 4): False, (5, 4): False, (6, 4): True, (6, 5): False, (9, 8): True, (12, 4): False}
"""Channels and filters, and whether the provider computes such a convolution wrongly in NHWC."""


def of_convolution(channels, filters, size=7):
    """A model of one 3×3 convolution of integers, a batch for it, and the right answer."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-3, 4, (filters, channels, 3, 3)).astype(np.float32)
    image = generator.integers(-4, 5, (2, channels, size, size)).astype(np.float32)
    node = helper.make_node("Conv", ["image", "weight"], ["y"], name="conv")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("image", "y")]
    values[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_value_info("image", TensorProto.FLOAT, image.shape).type.tensor_type.shape
    )
    graph = helper.make_graph([node], "conv", [values[0]], [values[1]], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    (right,) = Session("conv", model).run(["y"], {"image": image})
    return model, image, right


@pytest.mark.parametrize("channels_and_filters", daily((6, 4), (6, 5), of=CONVOLUTIONS))
def test_what_is_computed_wrongly_in_nhwc_is_run_in_nchw(channels_and_filters, adapter, monkeypatch):
    """And is still computed wrongly there by this version: where it is not, the detour can go."""
    model, image, right = of_convolution(*channels_and_filters)
    wrong = CONVOLUTIONS[channels_and_filters]
    session = Session("conv", model, execution_providers("webgpu", "fp32"))
    assert session.run(["y"], {"image": image})[0].tobytes() == right.tobytes()
    assert bool(session.note) == wrong
    if wrong:
        assert "conv wrongly" in session.note
        monkeypatch.setattr(webgpu, "computed_wrongly_in_nhwc", lambda graph: [])
        (as_preferred,) = Session("conv", model, execution_providers("webgpu", "fp32")).run(["y"], {"image": image})
        assert (version("onnxruntime-ep-webgpu") == "0.4.0") == (as_preferred != right).any()


@pytest.mark.parametrize("device", ["cpu", "webgpu"])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e12, 1e20])
def test_lrn_as_nodes_is_one_layer_within_the_bound_of_the_node(device, scale, request, tmp_path):
    """Also where squares overflow: what is divided by infinity is 0, and nothing is NaN."""
    if device == "webgpu":
        request.getfixturevalue("adapter")
    operation = LRN(5, 1e-2, 0.75, 2.0)
    image = (np.random.default_rng(1).standard_normal((2, 7, 4, 3)) * scale).astype(np.float32)
    builder = GraphBuilder(image.shape[1:])
    value = operation.to_onnx(builder, "norm1", "image")
    builder.save(tmp_path / "a.onnx", {"logits": value}, ExportOptions(lrn="nodes"), source="a test")
    session = RecordingSession(tmp_path / "a.onnx", providers=execution_providers(device, "fp32"))
    recorded = session.record(image)
    assert recorded.keys() == {"norm1"}
    assert session.places == ({"norm1": "gpu"} if device == "webgpu" else {})
    overflowed = np.square(image.astype(np.float64)) > np.finfo(np.float32).max
    assert (scale == 1e20) == overflowed.any()
    assert np.isfinite(recorded["norm1"]).all()
    assert not recorded["norm1"][overflowed].any()
    if not overflowed.any():
        reference = evaluate(operation, [image], {})
        assert (np.abs(recorded["norm1"] - reference.value) <= reference.bound).all()


def test_what_webgpu_has_no_kernel_for_is_said_to_run_on_the_cpu(adapter, tmp_path):
    """LRN as one node; and the layers around it are not."""
    builder = GraphBuilder((4, 5, 5))
    value = "image"
    for name, operation in (("relu1", ReLU()), ("norm1", LRN(5, 1, 1, 1)), ("relu2", ReLU())):
        value = operation.to_onnx(builder, name, value)
    builder.save(tmp_path / "a.onnx", {"logits": value}, ExportOptions(lrn="node"), source="a test")
    session = RecordingSession(tmp_path / "a.onnx", providers=execution_providers("webgpu", "fp32"))
    session.record(np.ones((1, 4, 5, 5), np.float32))
    assert session.places == {"relu1": "gpu", "norm1": "cpu", "relu2": "gpu"}


@pytest.mark.parametrize("probes", [("exact",), pytest.param(("exact", "deployed"), marks=pytest.mark.slow)])
def test_the_command_says_where_each_layer_ran(probes, adapter):
    options = ("--device", "webgpu", *(f"--probe={name}" for name in probes), "--json")
    code, out, err = run_here("parity", "lenet_caffe", *options, "--backend", "onnx-torch")
    assert code == 0, err
    report = json.loads(out)
    assert report["verdict"] == "identical"
    assert report["environment"]["webgpu"] == vars(adapter)
    for made in report["runs"]:
        (row,) = made["backends"]
        assert (row["status"], row["repeatable"], row["note"]) == ("ok", True, None)
        assert {layer["place"] for layer in row["layers"]} == {"gpu"}
    assert [len(made["backends"][0]["layers"]) for made in report["runs"]] == [10, 1][: len(probes)]


def test_without_an_adapter_one_sentence_says_how_to_get_one(monkeypatch, tmp_path):
    """Here the Vulkan loader finds no driver, and SwiftShader is looked for where it is not."""
    monkeypatch.setattr(adapters, "SWIFTSHADER", (str(tmp_path / "*.json"),))
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    adapters.find_adapters.cache_clear()
    try:
        with pytest.raises(TriptychError) as raised:
            require(Hardware("webgpu"))
    finally:
        adapters.find_adapters.cache_clear()
    for words in (
        "chromium",
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER=1",
        "VK_ICD_FILENAMES",
        "leave out `device='webgpu'`",
    ):
        assert words in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gradients",), "WebGPU runs exports, which have no backward pass"),
        (("--backend", "torch"), "torch does not run on WebGPU; onnx-torch, onnx-keras, onnx-tf1 do"),
        (("--precision", "tf32"), "TF32 is a mode of NVIDIA's GPUs"),
    ],
)
def test_what_webgpu_cannot_do_is_refused(arguments, words):
    code, _, err = run_here("parity", "lenet_caffe", "--device", "webgpu", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert words in err


def test_backends_that_were_not_named_are_skipped():
    assert select_for("webgpu", None) == select(None)
    obstacles = {backend.name: backend.obstacle("webgpu") for backend in select(None)}
    assert [name for name, obstacle in obstacles.items() if not obstacle] == ["onnx-torch", "onnx-keras", "onnx-tf1"]


def test_a_gpu_is_preferred_to_software(monkeypatch):
    """And the faster of two GPUs to the other, as Dawn has it where speed is asked for."""
    devices = [Device("llvmpipe", "Mesa", "software"), Device("UHD", "anv", "integrated"), Device("A", "", "discrete")]
    monkeypatch.setattr("common.onnx.vulkan.devices", lambda: devices)
    monkeypatch.setattr(sys, "platform", "linux")
    assert [(str(adapter)) for adapter in adapters._adapters()] == [
        "A",
        "UHD, driver anv",
        "llvmpipe, driver Mesa, in software",
    ]


def test_a_layer_of_which_a_part_ran_on_the_cpu_is_the_cpus(tmp_path):
    """What ONNX Runtime's profile says, put together: copies between devices are no layer's."""
    profile = tmp_path / "profile.json"
    kernels = [
        ("norm1/sums_token_3", "Conv", "WebGpuExecutionProvider"),
        ("norm1", "Div", "CPUExecutionProvider"),
        ("Memcpy_token_1", "MemcpyToHost", "WebGpuExecutionProvider"),
        ("relu1", "Relu", "WebGpuExecutionProvider"),
    ]
    events = [
        {"cat": "Node", "name": f"{name}_kernel_time", "args": {"op_name": operator, "provider": provider}}
        for name, operator, provider in kernels
    ]
    profile.write_text(json.dumps([{"cat": "Session", "name": "session", "args": {}}, *events]))
    from common.onnx.session import _places

    assert _places(profile) == {"norm1/sums": "gpu", "norm1": "cpu", "relu1": "gpu"}


def test_the_bounds_of_wgsl_are_no_licence(tmp_path):
    """LeNet-5's tanh on the CPU with a wrong slope, judged as WebGPU's is."""
    spec = get_spec("lenet5")
    probe = make_probe("random", spec, seed=0, batch=1, weights=None)
    implementation = load_implementation("torch_impl")
    model = implementation.build("lenet5")
    implementation.load_weights(model, probe.weights)
    implementation.export_onnx(model, tmp_path / "a.onnx")
    recorded = RecordingSession(tmp_path / "a.onnx").record(probe.image)
    tanh = next(layer.name for layer in spec.layers if layer.operation.kind == "ScaledTanh")
    changed = recorded | {tanh: recorded[tanh] * np.float32(1 + 1e-5)}
    verdicts = {verdict.name: verdict for verdict in judge(spec, probe, changed, precision=FP32_IN_WGSL)}
    assert verdicts[tanh].verdict == DIVERGED
    assert overall(judge(spec, probe, recorded, precision=FP32), probe) == CERTIFIED
