"""Probes beyond the usual three: short factors, extreme magnitudes; and what a GPU needs, as far as it shows here."""

import importlib

import numpy as np
import pytest
from conftest import IMPLEMENTATIONS, built, daily, load_implementation

from common import TriptychError, get_spec
from common.operations import Conv, Dense, evaluate
from common.operations.names import parameters_of
from common.operations.rounding import FP32, TF32
from common.parity.backends import BACKENDS, Hardware, process_environment, require
from common.parity.comparison import compare
from common.parity.judge import judge
from common.parity.verdicts import CERTIFIED, IDENTICAL, overall
from common.probes import MAGNITUDES, exact_probe, make_probe, random_probe
from common.probes.exact import _evaluated

SIZES = {"lenet5": None, "lenet_caffe": None, "alexnet_mnist": None, "resnet18": (32, 64), "densenet121": (32, 64)}


def shortened(array, bits):
    """Rounded to that many significant bits."""
    mantissa, exponent = np.frexp(array.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent).astype(np.float32)


@pytest.mark.parametrize("bits", [24, 11, 8])
@pytest.mark.parametrize("architecture", daily("lenet5", "lenet_caffe", "resnet18", of=SIZES))
def test_short_factors_are_exact_where_products_are_short_and_seen_elsewhere(architecture, bits):
    """TF32 and bfloat16 shorten the factors of convolutions and dense layers: that changes all or none."""
    spec = get_spec(architecture, image_size=SIZES[architecture])
    probe = exact_probe(spec, seed=2, batch=3, bits=bits)
    values = {"image": probe.image} | probe.expected | probe.injected
    checked = 0
    for layer in spec.layers:
        if isinstance(layer.operation, Conv | Dense):
            (value,) = (values[name] for name in layer.inputs)
            weight = probe.weights[f"{layer.name}/weight"]
            assert np.array_equal(shortened(value, min(bits, 11)), value) == (bits < 24), layer.name
            assert np.array_equal(shortened(value[:-1], 4), value[:-1]), layer.name
            assert np.array_equal(shortened(weight, 4), weight), layer.name
            checked += 1
    assert checked == sum(isinstance(layer.operation, Conv | Dense) for layer in spec.layers)


@pytest.mark.parametrize("architecture", SIZES)
def test_the_exact_probe_leaves_nothing_out(architecture):
    """No weight is 0 and none meets a 0; what a layer adds is different in each unit; no sum can round in any order."""
    spec = get_spec(architecture, image_size=SIZES[architecture])
    probe = exact_probe(spec, seed=5)
    assert all(array.all() for array in probe.weights.values())
    assert probe.image.all()
    assert all(array.all() for array in probe.injected.values())
    for name, array in probe.weights.items():
        if name.endswith(("/bias", "/beta", "/mean")):
            assert len(np.unique(array)) == array.size, name
    values = {"image": probe.image} | probe.expected | probe.injected
    for layer in spec.layers:
        if isinstance(layer.operation, Conv | Dense):
            assert values[layer.inputs[0]].all(), layer.name
            sizes = {kind: np.abs(array) for kind, array in parameters_of(layer.name, probe.weights).items()}
            assert evaluate(layer.operation, [np.abs(values[layer.inputs[0]])], sizes).value.max() < 2**24, layer.name
    assert probe.bounded.keys() | probe.expected.keys() == {layer.name for layer in spec.layers}


@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        (Conv((3, 2), (2, 1), ((1, 0), (2, 1)), filters=6, groups=2), (3, 4, 7, 9)),
        (Conv(1, filters=5), (1, 3, 4, 2)),
        (Conv(3, 1, 1, filters=4, groups=4, bias=False), (2, 4, 5, 6)),
        (Dense(5), (3, 11)),
        (Dense(5), (0, 11)),
    ],
    ids=str,
)
def test_a_cruder_bound_is_one_of_the_sums_of_an_exact_probe(operation, shape):
    generator = np.random.default_rng(1)
    x, *parameters = (
        generator.integers(-9, 10, size).astype(np.float32)
        for size in (shape, *operation.parameter_shapes(shape[1:]).values())
    )
    parameters = dict(zip(operation.parameter_shapes(shape[1:]), parameters, strict=True))
    right = evaluate(operation, [x], parameters)
    largest = right.magnitude.max(initial=0)
    for limit in np.linspace(0, 3 * largest, 50):
        found = _evaluated(operation, [x], parameters, limit)
        assert found.magnitude is not None or largest < limit or not largest
        assert (found.value.dtype, found.value.tobytes()) == (right.value.dtype, right.value.tobytes())
    found = _evaluated(operation, [x], parameters, 2.0**24)
    assert found.magnitude is found.bound is None


def test_the_images_of_an_exact_probe_differ_everywhere():
    probe = exact_probe(get_spec("lenet_caffe"), batch=2)
    for name, array in {"image": probe.image, **probe.expected, **probe.injected}.items():
        assert not np.array_equal(array[0], array[1]), name


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_what_is_injected_stays_as_it_was(package):
    """Also where a layer works in place."""
    spec = get_spec("alexnet_mnist")
    probe = exact_probe(spec, batch=1)
    before = {name: array.copy() for name, array in probe.injected.items()}
    run(package, "alexnet_mnist", None, probe)
    assert all(np.array_equal(probe.injected[name], array) for name, array in before.items())


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
@pytest.mark.parametrize("architecture", ["lenet5", "alexnet_mnist", "resnet18"])
def test_an_implementation_has_the_bits_of_the_exact_probe(architecture, package):
    size = SIZES[architecture]
    spec = get_spec(architecture, image_size=size)
    probe = exact_probe(spec, batch=2)
    assert overall(judge(spec, probe, run(package, architecture, size, probe)), probe) == IDENTICAL


def run(package, architecture, size, probe):
    implementation = load_implementation(package)
    model = built(package, architecture, image_size=size)
    implementation.load_weights(model, probe.weights)
    return importlib.import_module(f"{package}.backend").record(model, probe.image, probe.injected)


def magnitudes():
    """The small networks in each implementation; a ResNet and an AlexNet every day in one magnitude and one."""
    for row, architecture in enumerate(SIZES):
        for column, name in enumerate(MAGNITUDES):
            for place, package in enumerate(IMPLEMENTATIONS):
                in_turn = place == column == row % len(IMPLEMENTATIONS) and architecture != "densenet121"
                quick = architecture.startswith("lenet") or in_turn
                case = (architecture, name, package)
                yield pytest.param(*case, id="-".join(case), marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("architecture", "name", "package"), list(magnitudes()))
def test_extreme_magnitudes_are_certified(architecture, name, package):
    """Also where TensorFlow flushes subnormal numbers to zero and PyTorch does not."""
    size = SIZES[architecture]
    spec = get_spec(architecture, image_size=size)
    probe = make_probe(name, spec, seed=4, batch=1, weights=None)
    largest = np.abs(probe.image).max()
    assert {"tiny": largest < 2.0**-50, "huge": largest > 2.0**40, "subnormal": 0 < largest < 2.0**-126}[name]
    assert overall(judge(spec, probe, run(package, architecture, size, probe)), probe) == CERTIFIED


@pytest.mark.parametrize(
    "shorten", [lambda array: shortened(array, 11), lambda array: cut(array)], ids=["round", "cut"]
)
def test_tf32_is_certified_as_tf32_and_not_as_float32(shorten):
    """Factors rounded or cut to 11 bits, as tensor cores may do it, on the layers that multiply."""
    spec = get_spec("lenet_caffe")
    probe = random_probe(spec, batch=2)
    recorded = {}
    for layer in spec.layers:
        inputs = [recorded.get(name, probe.image) for name in layer.inputs]
        parameters = parameters_of(layer.name, probe.weights)
        if isinstance(layer.operation, Conv | Dense):
            inputs = [shorten(array) for array in inputs]
            parameters = {name: shorten(array) if name == "weight" else array for name, array in parameters.items()}
        recorded[layer.name] = evaluate(layer.operation, inputs, parameters).value.astype(np.float32)
    verdicts = judge(spec, probe, recorded, precision=TF32)
    assert overall(verdicts, probe) == CERTIFIED
    assert {v.precision for v in verdicts if v.name in ("conv1", "conv2", "fc3", "fc4")} == {"tf32"}
    assert overall(judge(spec, probe, recorded, precision=FP32), probe) == "diverged"


def cut(array):
    """The last 13 of float32's 24 significant bits set to zero."""
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def test_the_bound_of_a_shorter_type_is_not_narrower():
    spec = get_spec("lenet_caffe")
    probe = random_probe(spec, batch=1)
    layer = spec.layers[0]
    given = [probe.image], parameters_of(layer.name, probe.weights)
    reference = evaluate(layer.operation, *given)
    assert (layer.operation.at_precision(reference, TF32, *given).bound > reference.bound).all()
    assert layer.operation.at_precision(reference, FP32, *given) is reference


def test_outputs_are_compared_end_to_end():
    one = np.array([[1, 2, 3, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0, -1]], np.float32)
    other = one.copy()
    other[0, 1] = 3.5
    found = compare("a", "b", "logits", one, other)
    assert (found.largest_absolute, found.top1, found.top5) == (1.5, 0.5, 1.0)
    assert found.largest_relative == 1.5 / 3.5
    assert found.tolerance == 1.5 / 4.5
    assert np.allclose(one, other, rtol=found.tolerance, atol=found.tolerance)
    less = found.tolerance * 0.999
    assert not np.allclose(one, other, rtol=less, atol=less)
    empty = compare("a", "b", "logits", one[:0], other[:0])
    assert (empty.largest_absolute, empty.top1) == (0.0, 1.0)


def test_a_process_sees_the_device_that_was_asked_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    on_cpu = process_environment(BACKENDS["keras-jax"])
    assert (on_cpu["CUDA_VISIBLE_DEVICES"], on_cpu["JAX_PLATFORMS"], on_cpu["KERAS_BACKEND"]) == ("-1", "cpu", "jax")
    exact = process_environment(BACKENDS["tf1"], Hardware("cuda"))
    assert (exact["CUDA_VISIBLE_DEVICES"], exact["NVIDIA_TF32_OVERRIDE"]) == ("3", "0")
    assert exact["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    short = process_environment(BACKENDS["keras-jax"], Hardware("cuda", "tf32"))
    assert short["NVIDIA_TF32_OVERRIDE"] == "1"
    assert short["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_a_gpu_that_is_not_there_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TriptychError, match="there is no NVIDIA GPU here"):
        require(Hardware("cuda"))
    with pytest.raises(TriptychError, match=r"`precision=.tf32.` needs `device=.cuda.`"):
        Hardware("cpu", "tf32")
    words = "cannot run on tpu in fp32; choose cpu or cuda or webgpu, and fp32 or tf32"
    with pytest.raises(TriptychError, match=words):
        Hardware("tpu")


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_a_framework_without_a_gpu_says_so(package):
    implementation = load_implementation(package)
    backend = importlib.import_module(f"{package}.backend")
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(TriptychError, match="sees no GPU; install a CUDA build"):
        backend.on_device(implementation.build("lenet_caffe"), "cuda", "fp32")


def test_recording_in_torch_leaves_cudnn_out_unless_tf32_is_wanted():
    load_implementation("torch_impl")
    import torch

    from torch_impl.backend import on_device, record

    model, cudnn = importlib.import_module("torch_impl").build("lenet_caffe"), torch.backends.cudnn
    seen = {"fp32": set(), "tf32": set()}
    model.conv1.register_forward_hook(lambda *_: seen[precision].add(cudnn.enabled))
    image = np.zeros((1, 1, 32, 32), np.float32)
    before = cudnn.allow_tf32, cudnn.deterministic
    try:
        for precision in seen:
            record(on_device(model, "cpu", precision), image)
            assert cudnn.enabled
    finally:
        cudnn.allow_tf32, cudnn.deterministic = before
    assert seen == {"fp32": {False}, "tf32": {True}}
