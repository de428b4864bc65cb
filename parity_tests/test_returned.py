"""What a model returns, and what stands between its layers: judged by numbers, named by structure, honest models left
alone."""

import numpy as np
import pytest
from conftest import load_implementation

from common import get_spec
from common.parity.judge import Between, judge, judge_structure
from common.parity.returned import ALONE, judge_deployed, judge_returned
from common.parity.verdicts import DIVERGED, first_divergence
from common.probes import exact_probe, random_probe
from common.probes.end_to_end import end_to_end_probe
from common.specs.recording import Recording
from parity_tests.injection import Mutant, imported_with
from parity_tests.mutations.returned import _KERAS_END, _KERAS_POOL, _TF1_END, _TF1_POOL, _TORCH_END, _torch_forward

HEADS = ("logits", "aux1", "aux2")


def heads_of_googlenet():
    generator = np.random.default_rng(0)
    spec = get_spec("googlenet")
    layers = {spec.outputs[name]: generator.standard_normal((2, 1000)).astype(np.float32) for name in HEADS}
    return spec, random_probe(get_spec("lenet5")), layers, {name: layers[spec.outputs[name]] for name in HEADS}


def causes(spec, probe, recording, unnamed=None):
    return {verdict.name: verdict.cause for verdict in judge_returned(spec, probe, recording, unnamed or {})}


def test_what_is_returned_must_be_what_the_last_layers_gave():
    spec, probe, layers, right = heads_of_googlenet()
    assert causes(spec, probe, Recording(layers, right, {"logits": right["logits"]})) == {}
    exchanged = {**right, "aux1": right["aux2"], "aux2": right["aux1"]}
    told = "the outputs aux1 and aux2 are exchanged"
    assert causes(spec, probe, Recording(layers, exchanged))["aux1"] == told
    twice = {**right, "logits": right["aux1"]}
    assert causes(spec, probe, Recording(layers, twice)) == {"logits": "the output logits is aux1"}
    absent = {"logits": right["logits"]}
    assert causes(spec, probe, Recording(layers, absent)) == {name: f"{name} is not returned" for name in HEADS[1:]}
    more = {**right, "aux3": right["aux1"]}
    assert causes(spec, probe, Recording(layers, more)).keys() == {"aux3"}
    alone = {"logits": right["aux1"]}
    assert causes(spec, probe, Recording(layers, right, alone)) == {"logits": f"{ALONE}the output logits is aux1"}
    a_bit = {**right, "logits": np.nextafter(right["logits"], np.float32(9))}
    told = "the output logits is not the value of loss3/classifier"
    assert list(causes(spec, probe, Recording(layers, a_bit)).values()) == [
        told.replace("loss3/classifier", spec.outputs["logits"])
    ]
    x = right["logits"].astype(np.float64)
    softmax = (np.exp(x) / np.exp(x).sum(1, keepdims=True)).astype(np.float32)
    assert causes(spec, probe, Recording(layers, {**right, "logits": softmax}))["logits"].endswith(
        "it is the softmax of that"
    )


def test_a_layer_that_was_not_reached_is_told_by_its_own_verdict():
    spec, probe, layers, right = heads_of_googlenet()
    del layers[spec.outputs["aux2"]], right["aux2"]
    assert causes(spec, probe, Recording(layers, right)) == {}


def test_behind_an_injection_what_was_injected_must_come_back():
    spec = get_spec("lenet5")
    probe = exact_probe(spec)
    value = np.zeros((2, 10), np.float32)
    probe.injected["output"] = value + 1
    assert causes(spec, probe, Recording({"output": value}, {"logits": value + 1})) == {}
    assert causes(spec, probe, Recording({"output": value}, {"logits": value})).keys() == {"logits"}


def test_what_is_returned_is_judged_as_deployed():
    spec = get_spec("lenet_caffe")
    probe = end_to_end_probe(spec)
    right = {"logits": probe.outputs["fc2"].value.astype(np.float32)}
    assert [v.verdict for v in judge_deployed(spec, probe, right, right, {})] == ["identical"]
    (verdict,) = judge_deployed(spec, probe, {"logits": right["logits"] + 1}, {}, {"logits": ["softmax (Softmax)"]})
    assert (verdict.verdict, verdict.cause) == (DIVERGED, "softmax (Softmax) stands between fc2 and the output")
    _, alone = judge_deployed(spec, probe, right, {"logits": right["logits"] + 1}, {})
    assert alone.verdict == DIVERGED
    assert alone.cause.startswith(ALONE)


_KERAS_SUBCLASSED = """class Subclassed(keras.Model):
        def call(self, x):
            x = keras.layers.Identity()(model.get_layer("conv1")(x))
            for name in ("relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc1", "relu3", "fc2"):
                x = model.get_layer(name)(x)
            return x

    model = keras.Model(image, logits)
    return Subclassed(name="lenet_caffe")"""

HONEST = {
    "torch: ReLU in place": ("torch_impl", "relu1=nn.ReLU()", "relu1=nn.ReLU(inplace=True)"),
    "torch: identities": ("torch_impl", "relu1=nn.ReLU()", "relu1=nn.ReLU(), same=nn.Identity(), drop=nn.Dropout(0.5)"),
    "torch: a forward of its own": ("torch_impl", _TORCH_END, _torch_forward()),
    "torch: a view and a copy": (
        "torch_impl",
        _TORCH_END,
        _torch_forward(
            image="x.to(memory_format=torch.channels_last)",
            after_pool1="x.contiguous()",
            returned="x.view(-1, 10).clone()",
        ),
    ),
    "torch: a second ReLU": ("torch_impl", _TORCH_END, _torch_forward(after_pool1="torch.relu(x)")),
    "torch: outputs by name": ("torch_impl", _TORCH_END, _torch_forward(returned='{"logits": x}')),
    "keras: a lambda": ("keras_impl", _KERAS_POOL, f"{_KERAS_POOL}\n    x = layers.Lambda(lambda x: x)(x)"),
    "keras: an operation": ("keras_impl", _KERAS_POOL, f"{_KERAS_POOL}\n    x = keras.ops.relu(x)"),
    "keras: a linear activation": (
        "keras_impl",
        _KERAS_END,
        _KERAS_END.replace("logits", 'layers.Activation("linear")(logits)'),
    ),
    "keras: outputs by name": ("keras_impl", _KERAS_END, _KERAS_END.replace("logits", '{"logits": logits}')),
    "keras: subclassed": ("keras_impl", _KERAS_END, _KERAS_SUBCLASSED),
    "tf1: an identity": ("tf1_style_impl", _TF1_POOL, f"{_TF1_POOL}\n    x = tf.identity(x)"),
    "tf1: a second ReLU": ("tf1_style_impl", _TF1_POOL, f"{_TF1_POOL}\n    x = tf.nn.relu(x)"),
    "tf1: outputs by name": ("tf1_style_impl", _TF1_END, '    return {"logits": fc(x, num_classes, name="fc2")}'),
}


@pytest.mark.parametrize(("package", "old", "new"), HONEST.values(), ids=HONEST)
def test_an_honest_model_that_is_written_otherwise_is_not_accused(package, old, new):
    load_implementation(package)
    spec = get_spec("lenet_caffe")
    with imported_with(Mutant(package, f"{package}/lenet.py", spec.name, "none", old, new, "", "")) as backend:
        model = backend.build(spec.name)
        assert judge_structure(spec, *backend.structure(model)) == []
        unnamed = backend.unnamed_operations(model)
        for probe in (exact_probe(spec), random_probe(spec)):
            backend.load_weights(model, probe.weights)
            found = backend.run(model, probe.image, probe.injected, unnamed)
            verdicts = judge(spec, probe, found.layers, between=Between(unnamed, found.given))
            verdicts += judge_returned(spec, probe, found, unnamed)
            assert first_divergence(verdicts) is None
            assert backend.predict(model, probe.image).keys() == {"logits"}


@pytest.mark.parametrize(
    ("package", "old", "new"),
    [
        ("torch_impl", _TORCH_END, _torch_forward(returned="(x, x)")),
        ("keras_impl", _KERAS_END, _KERAS_END.replace("logits", "[logits, logits]")),
    ],
)
def test_outputs_without_names_are_refused(package, old, new):
    load_implementation(package)
    with imported_with(Mutant(package, f"{package}/lenet.py", "lenet_caffe", "none", old, new, "", "")) as backend:
        model = backend.build("lenet_caffe")
        for run in (backend.run, backend.predict_heads):
            with pytest.raises(ValueError, match="several outputs come back in a dict, by name"):
                run(model, np.zeros((1, 1, 32, 32), np.float32))


@pytest.mark.parametrize(
    ("package", "old"),
    [
        ("torch_impl", "fc2=nn.Linear(500, num_classes)"),
        ("keras_impl", 'layers.Dense(num_classes, name="fc2")'),
        ("tf1_style_impl", 'fc(x, num_classes, name="fc2")'),
    ],
)
def test_a_last_layer_of_another_name_is_missing_and_no_crash(package, old):
    load_implementation(package)
    mutant = Mutant(
        package, f"{package}/lenet.py", "lenet_caffe", "none", old, old.replace("fc2", "last"), "", "", None
    )
    with imported_with(mutant) as backend:
        problems = judge_structure(get_spec("lenet_caffe"), *backend.structure(backend.build("lenet_caffe")))
    assert problems[0].name == "fc2"
    assert "fc2 is missing" in problems[0].cause
