"""The backward pass: the oracle against autograd, the backends against the oracle, traps."""

import importlib

import numpy as np
import pytest
from conftest import IMPLEMENTATIONS, load_implementation

from common import get_spec
from common import operations as ops
from common.errors import TriptychError
from common.operations import backward
from common.operations.loss import cross_entropy
from common.parity.backends import BACKENDS, select_differentiable, select_trainable
from common.parity.gradients import by_layer, gradient_probes, judge_gradients
from common.parity.verdicts import first_divergence, overall


def functional(name):
    import torch.nn.functional

    return getattr(torch.nn.functional, name)


def parameters(operation, *shapes, seed=0):
    generator = np.random.default_rng(seed)
    found = operation.parameter_shapes(*shapes)
    arrays = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in found.items()}
    return arrays | ({"variance": np.abs(arrays["variance"]) + 1} if "variance" in arrays else {})


OPERATIONS = {
    "conv": (
        ops.Conv((3, 2), stride=(2, 1), padding=((1, 1), (2, 2)), filters=6, groups=2),
        lambda p, x: functional("conv2d")(x, p["weight"], p["bias"], stride=(2, 1), padding=(1, 2), groups=2),
    ),
    "max_pool": (ops.MaxPool(3, stride=2, padding=1), lambda p, x: functional("max_pool2d")(x, 3, 2, 1)),
    "average_pool": (ops.AveragePool((2, 3), stride=2), lambda p, x: functional("avg_pool2d")(x, (2, 3), 2)),
    "global_average": (ops.GlobalAveragePool(), lambda p, x: x.mean((2, 3), keepdim=True)),
    "adaptive": (ops.AdaptiveAveragePool(3), lambda p, x: functional("adaptive_avg_pool2d")(x, 3)),
    "relu": (ops.ReLU(), lambda p, x: functional("relu")(x)),
    "sigmoid": (ops.Sigmoid(), lambda p, x: x.sigmoid()),
    "tanh": (ops.ScaledTanh(1.7, 0.6), lambda p, x: 1.7 * (0.6 * x).tanh()),
    "lrn": (ops.LRN(5, 0.3, 0.75, 2.0), lambda p, x: functional("local_response_norm")(x, 5, 0.3, 0.75, 2.0)),
    "sub_sampling": (
        ops.SubSampling(),
        lambda p, x: 4 * functional("avg_pool2d")(x, 2) * p["weight"] + p["bias"],
    ),
    "batch_norm": (
        ops.BatchNorm(1e-3),
        lambda p, x: functional("batch_norm")(x, p["mean"], p["variance"], p["gamma"], p["beta"], False, 0.1, 1e-3),
    ),
    "batch_norm_training": (
        ops.BatchNorm(1e-3),
        lambda p, x: functional("batch_norm")(x, None, None, p["gamma"], p["beta"], True, 0.1, 1e-3),
    ),
    "select": (ops.SelectChannels((3, 0)), lambda p, x: x[:, [3, 0]]),
    "flatten": (ops.Flatten(), lambda p, x: x.flatten(1)),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_oracle_agrees_with_autograd_in_float64_and_float32_with_its_bound(name, batch):
    import torch

    operation, compute = OPERATIONS[name]
    training = name.endswith("training")
    generator = np.random.default_rng(7)
    x = generator.standard_normal((batch, 4, 7, 9)).astype(np.float32)
    given = parameters(operation, (4, 7, 9))
    found = {}
    for dtype in (torch.float64, torch.float32):
        stored = ("mean", "variance")
        tensors = {k: torch.tensor(a, dtype=dtype, requires_grad=k not in stored) for k, a in given.items()}
        image = torch.tensor(x, dtype=dtype, requires_grad=True)
        y = compute(tensors, image)
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
        trained = {key: tensor for key, tensor in tensors.items() if key not in stored}
        grads = torch.autograd.grad(y, [image, *trained.values()], torch.tensor(dy, dtype=dtype))
        found[dtype] = dict(zip(["", *trained], (g.numpy() for g in grads), strict=True))
    gradients = backward(operation, [x], given, dy, training=training)
    for key, gradient in {"": gradients.inputs[0], **gradients.parameters}.items():
        np.testing.assert_allclose(gradient.value, found[torch.float64][key], rtol=1e-11, atol=1e-12, err_msg=key)
        error = np.abs(found[torch.float32][key] - gradient.value)
        assert (error <= gradient.bound).all(), key
        assert (gradient.bound < 1e-2 * np.abs(gradient.value).max() + 1e-6).all(), "a bound that says nothing"


def test_the_gradient_of_the_cross_entropy():
    import torch

    logits, labels = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32) * 9, np.array([0, 6, 2])
    for dtype in (torch.float64, torch.float32):
        tensor = torch.tensor(logits, dtype=dtype, requires_grad=True)
        torch.nn.functional.cross_entropy(tensor, torch.tensor(labels)).backward()
        gradient = cross_entropy(logits, labels)
        error = np.abs(tensor.grad.numpy() - gradient.value)
        assert (error <= (1e-15 if dtype == torch.float64 else gradient.bound)).all()


def test_a_tie_in_a_max_pool_may_go_to_any_of_the_largest_and_nowhere_else():
    x = np.zeros((1, 1, 2, 4), np.float32)
    x[0, 0, 0, 3] = 1  # the left window is all zeros, the right one is not
    dy = np.array([5, 3], np.float32).reshape(1, 1, 1, 2)
    (gradient,) = backward(ops.MaxPool(2, 2), [x], {}, dy).inputs

    def explained(*places):
        routed = np.zeros(x.shape)
        for place, value in zip(places, dy.ravel(), strict=True):
            routed[0, 0][place] = value
        return bool((np.abs(routed - gradient.value) <= gradient.bound + gradient.choice).all())

    assert explained((0, 0), (0, 3))
    assert explained((1, 1), (0, 3))
    assert not explained((1, 1), (1, 3))
    assert not explained((0, 2), (0, 3))


def judged(implementation, architecture, record=None, **options):
    """What an implementation recorded of each probe of a network."""
    spec = get_spec(architecture, **options)
    record = record or importlib.import_module(f"{implementation.__name__}.gradients").record_gradients
    model = implementation.build(architecture, **options)
    for probe in gradient_probes(spec, batch=3):
        implementation.load_weights(model, probe.weights)
        arrays = {"injected": probe.injected, "drives": probe.drives, "labels": probe.labels}
        yield spec, probe, record(model, probe.image, training=probe.training, **arrays)


def differentiated():
    """LeNet in each implementation; the other networks every day in one of them."""
    in_turn = {"lenet5": "keras_impl", "lenet5_sparse": "tf1_style_impl", "resnet18": "torch_impl"}
    for package in IMPLEMENTATIONS:
        for name in ("lenet_caffe", *in_turn):
            marks = [] if in_turn.get(name, package) == package else pytest.mark.slow
            yield pytest.param(package, name, id=f"{package}-{name}", marks=marks)


@pytest.mark.parametrize(("implementation", "architecture"), list(differentiated()), indirect=["implementation"])
def test_every_gradient_is_identical_or_certified(implementation, architecture):
    modes, options = [], {"image_size": (32, 64)} if architecture == "resnet18" else {}
    for spec, probe, recorded in judged(implementation, architecture, num_classes=5, **options):
        verdicts = judge_gradients(spec, probe, recorded)
        assert [verdict for verdict in verdicts if verdict.verdict == "diverged"] == []
        trainable = {name for name in spec.parameter_shapes if not name.endswith(("/mean", "/variance"))}
        assert trainable | {"image"} <= {verdict.what for verdict in verdicts}
        modes.append((probe.name, probe.mode))
        if probe.name == "exact":
            kinds = {layer.name: layer.operation.kind for layer in spec.layers}
            exact = [v for v in verdicts if kinds.get(v.name) in ("Conv", "Dense", "ReLU", "MaxPool", "Add")]
            assert len(exact) > 10
            assert {verdict.verdict for verdict in exact} == {"identical"}
            rounding = {"BatchNorm", "GlobalAveragePool", "ScaledTanh", "Sigmoid"}
            assert {kinds[verdict.name] for verdict in verdicts if not verdict.exact} <= rounding
            assert {verdict.name for verdict in verdicts if not verdict.exact} == set(probe.bounded)
        assert overall(by_layer(verdicts), probe) == ("identical" if probe.name == "exact" else "certified")
        assert by_layer(verdicts)[0].name == "loss"
        assert sum(sum(verdict.ulp_histogram) for verdict in by_layer(verdicts)) > 1000
    assert len(modes) == (4 if architecture == "resnet18" else 2)


@pytest.mark.slow  # its compilation takes 14 s
def test_a_compiled_backward_pass_has_the_bits_of_float64_on_integers():
    if BACKENDS["torch-compile"].missing:
        pytest.skip(BACKENDS["torch-compile"].how_to_install)
    record = importlib.import_module("torch_impl.compiled").record_gradients_compiled
    spec, probe, recorded = next(judged(load_implementation("torch_impl"), "lenet_caffe", record))
    assert probe.name == "exact"
    assert {verdict.verdict for verdict in judge_gradients(spec, probe, recorded)} == {"identical"}


@pytest.mark.slow
def test_a_compiled_backward_pass_reaches_through_a_max_pool_behind_a_relu():
    """Inductor of PyTorch 2.13 lost it as long as the ReLU's output, with a gradient, was among the results."""
    if BACKENDS["torch-compile"].missing:
        pytest.skip(BACKENDS["torch-compile"].how_to_install)
    spec, model = get_spec("resnet18", image_size=(32, 32)), load_implementation("torch_impl").build("resnet18")
    probe = next(probe for probe in gradient_probes(spec) if probe.name == "random")
    load_implementation("torch_impl").load_weights(model, probe.weights)
    record = importlib.import_module("torch_impl.compiled").record_gradients_compiled
    recorded = record(model, probe.image, injected={}, drives={}, labels=probe.labels, training=False)
    assert recorded["gradients"]["image"].any()
    assert [v for v in judge_gradients(spec, probe, recorded) if v.verdict == "diverged"] == []


def test_a_backend_that_cannot_be_differentiated_is_refused_by_name_and_left_out_of_all():
    differentiable = [name for name in BACKENDS if not name.startswith("onnx")]
    assert [backend.name for backend in select_differentiable(None)] == differentiable
    assert {backend.name for backend in select_trainable(None)} <= {*differentiable} - {"torch-compile"}
    with pytest.raises(TriptychError, match="onnx-tf1 cannot be differentiated; leave it out"):
        select_differentiable(["torch", "onnx-tf1"])
    with pytest.raises(TriptychError, match="torch-compile cannot train; leave it out"):
        select_trainable(["torch-compile"])


@pytest.mark.parametrize(
    ("kind", "name", "change", "layer"),
    [
        ("parameters", "conv2/weight", lambda g: g[:, :, ::-1], "conv2"),
        ("parameters", "fc1/bias", lambda g: g / 3, "fc1"),
        ("parameters", "conv1/weight", lambda g: g + 1, "conv1"),
        ("gradients", "image", lambda g: g * np.float32(1.25), "conv1"),
        ("gradients", "relu3", lambda g: np.roll(g, 1, axis=1), "fc2"),
        ("gradients", "fc2", lambda g: -g, "loss"),
    ],
)
def test_a_wrong_gradient_is_named(kind, name, change, layer):
    for spec, probe, recorded in judged(load_implementation("torch_impl"), "lenet_caffe"):
        damaged = {**recorded, kind: recorded[kind] | {name: change(recorded[kind][name])}}
        wrong = first_divergence(by_layer(judge_gradients(spec, probe, damaged)))
        assert wrong.name == layer
        assert name in wrong.cause


def test_statistics_that_are_biased_are_named():
    for spec, probe, recorded in judged(load_implementation("torch_impl"), "resnet18", image_size=(32, 32)):
        if probe.name == "random":
            continue
        name = "conv2_block1/bn2/variance"
        changed = recorded["weights"][name] * np.float32(0.999)
        damaged = {**recorded, "weights": recorded["weights"] | {name: changed}}
        wrong = [v for v in judge_gradients(spec, probe, damaged) if v.verdict == "diverged"]
        assert [verdict.what for verdict in wrong] == [name]


# Traps


def test_where_the_learning_rate_stands():
    load_implementation("torch_impl")
    import keras
    import torch

    rates = [0.1, 0.1, 0.01]
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.item() == pytest.approx(-0.3171)
    variable = keras.Variable([0.0])
    inside = keras.optimizers.SGD(1.0, momentum=0.9)
    for rate in rates:
        inside.learning_rate = rate
        inside.apply([keras.ops.ones(1)], [variable])
    assert float(variable[0]) == pytest.approx(-0.471, rel=1e-6)


def test_what_decays_and_how():
    load_implementation("torch_impl")
    import keras
    import torch

    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    decoupled, variable = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.5), keras.Variable([1.0])
    for _ in range(2):
        weight.grad = torch.zeros(1)
        optimizer.step()
        decoupled.apply([keras.ops.zeros(1)], [variable])
    assert weight.item() == pytest.approx(1 - 0.1 * 0.5 - 0.1 * (0.9 * 0.5 + 0.5 * 0.95))
    assert float(variable[0]) == pytest.approx(0.95 * 0.95)
    assert float(keras.regularizers.L2(0.5)(keras.ops.ones(1) * 3)) == 0.5 * 9


def test_frameworks_may_route_ties_differently_and_the_probe_has_none():
    spec = get_spec("lenet_caffe")
    probe = gradient_probes(spec, batch=3)[0]
    for pool, source in (("pool1", "relu1"), ("pool2", "relu2")):
        assert pool in spec.shapes
        array = probe.injected[source]
        windows = np.lib.stride_tricks.sliding_window_view(array, (2, 2), axis=(2, 3)).reshape(-1, 4)
        assert (np.diff(np.sort(windows, axis=1)) > 0).all()
