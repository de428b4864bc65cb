"""The proof of models as they are deployed, with nothing but their outputs asked for."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import daily

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from common import TriptychError  # noqa: E402
from common.prove import optimised  # noqa: E402
from common.prove.api import prove  # noqa: E402
from common.prove.deployed import AsDeployed  # noqa: E402
from common.prove.judging import Expected  # noqa: E402
from common.prove.results import judged  # noqa: E402
from common.prove.runtimes import ONNX_RUNTIMES, Recorded, Runtime, record  # noqa: E402
from common.prove.subject import Subject  # noqa: E402
from parity_tests.commands import run_here  # noqa: E402
from parity_tests.test_prove import MODELS, RNG, Builder, feeds_of, normal  # noqa: E402


def statistics(channels):
    return normal(channels) + 1, normal(channels), normal(channels), RNG.uniform(0.5, 1.5, channels).astype(np.float32)


def fused():
    """What ONNX Runtime fuses, folds and moves to blocks of channels: odd sizes, 19 channels, a sum, activations."""
    add = Builder(3, 3, 13, 17)
    x = add("Pad", "p", "x", np.array([0, 0, 1, 2, 0, 0, 0, 1]))
    c = add("Conv", "c", x, normal(19, 3, 3, 3))
    relu = add("Relu", "r", add("BatchNormalization", "b", c, *statistics(19)))
    depthwise = add("Conv", "d", relu, normal(19, 1, 3, 3), normal(19), group=19, pads=[1, 1, 1, 1])
    s = add("Relu", "t", add("Add", "s", depthwise, relu))
    e = add("Conv", "e", s, normal(40, 19, 1, 1), normal(40))
    gated = add("Mul", "g", e, add("Sigmoid", "i", e))
    pooled = add("MaxPool", "m", gated, kernel_shape=[3, 3], strides=[2, 2])
    k = add(
        "Add", "a", add("Mul", "u", add("Conv", "k", pooled, normal(7, 40, 3, 3)), normal(7, 1, 1)), normal(7, 1, 1)
    )
    mean = add("ReduceMean", "mean", k, np.array([2, 3]), keepdims=0)
    return add.model(add("Gemm", "fc", mean, normal(5, 7), normal(5), transB=1))


def channels_last():
    """As Keras' exports: every convolution between two transpositions."""
    add = Builder(2, 11, 14, 3)
    value, channels = "x", 3
    for number, size in enumerate((18, 23)):
        turned = add("Transpose", f"to{number}", value, perm=[0, 3, 1, 2])
        c = add("Conv", f"c{number}", turned, normal(size, channels, 3, 3), pads=[1, 0, 1, 0])
        back = add("Transpose", f"from{number}", c, perm=[0, 2, 3, 1])
        value, channels = add("Relu", f"r{number}", add("Add", f"a{number}", back, normal(size))), size
    return add.model(add("ReduceMean", "mean", value, np.array([1, 2]), keepdims=0))


def deep():
    """Eight convolutions, after which a carried bound says nothing."""
    add = Builder(1, 16, 9, 7)
    value = "x"
    for number in range(8):
        value = add("Relu", f"r{number}", add("Conv", f"c{number}", value, normal(16, 16, 3, 3), pads=[1, 1, 1, 1]))
    return add.model(add("Gemm", "head", add("Flatten", "f", value), normal(1008, 3)))


def scaled_after():
    """A batch normalisation that is multiplied into a product two nodes before it; the values between keep a name."""
    add = Builder(4, 9)
    m = add("MatMul", "m", "x", normal(9, 7))
    turned = add("Transpose", "t", add("Reshape", "q", m, np.array([4, 1, 7])), perm=[0, 2, 1])
    return add.model(add("Flatten", "f", add("Relu", "r", add("BatchNormalization", "b", turned, *statistics(7)))))


FILES = {"fused": fused(), "channels last": channels_last(), "scaled after": scaled_after(), **MODELS}


class Tampered(Subject):
    """A file whose optimised graph, as ONNX Runtime deploys it, was changed."""

    def record(self, runtime, feeds, only=None):
        if only is None:
            return super().record(runtime, feeds)
        found = self.optimised(feeds)
        return Recorded({name: found.values[name] for name in self.graph.outputs} if only == () else {})


def deployed(subject, feeds, runtime=ONNX_RUNTIMES[1]):
    """The row of a runtime."""
    names = {name: name for name in (*subject.graph.makers(), *subject.graph.outputs)}
    proof = AsDeployed(subject, feeds, subject.graph, feeds, names)
    recorded = subject.record(runtime, feeds)
    proof.remember(runtime, recorded, judged(runtime, subject.graph, feeds, recorded, Expected()))
    return proof._row(runtime)


def saved(model, folder):
    onnx.save(model, folder / "mine.onnx")
    return folder / "mine.onnx"


@pytest.mark.parametrize("name", daily("fused", "scaled after", of=FILES))
def test_the_values_of_an_optimised_graph_are_those_of_the_file(tmp_path, name):
    """All of them, whether or not the recorded run has the same bits."""
    model, feeds = FILES[name], feeds_of(FILES[name])
    subject = Subject("mine.onnx", saved(model, tmp_path), tmp_path)
    assert deployed(subject, feeds).verdict == "certified"
    found = subject.optimised(feeds)
    row = judged(ONNX_RUNTIMES[1], subject.graph, feeds, found, Expected(), widest=0.5)
    assert row.verdict == "certified", row.likely_cause
    right = record(ONNX_RUNTIMES[0], tmp_path / "mine.onnx", feeds, tmp_path).values
    for value, array in found.values.items():
        assert np.abs(array - right[value]).max() <= 1e-5 * np.abs(right[value]).max()
    written = onnx.load(tmp_path / "optimised.onnx").graph
    named = [node.name for node in written.node if not node.op_type.startswith(("Reorder", "Transpose"))]
    assert len(found.values) >= len(named) - 2 * (name == "scaled after")


def other_weight(model):
    """One number of the last convolution or product of the optimised graph, by one part in a hundred."""
    node = [node for node in model.graph.node if node.op_type in ("Conv", "FusedConv", "Gemm", "MatMul")][-1]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[np.abs(array).argmax()] *= np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def no_activation(model):
    """A convolution that leaves out the activation that was fused with it."""
    node = next(node for node in model.graph.node if any(a.name == "activation" for a in node.attribute))
    kept = [attribute for attribute in node.attribute if not attribute.name.startswith("activation")]
    del node.attribute[:]
    node.attribute.extend(kept)


def other_pads(model):
    """A padding that was moved into a convolution, its ends exchanged."""
    node = next(node for node in model.graph.node if any(a.name == "pads" and sum(a.ints) == 4 for a in node.attribute))
    pads = next(attribute for attribute in node.attribute if attribute.name == "pads")
    pads.ints[:] = [*pads.ints[2:], *pads.ints[:2]]


@pytest.mark.parametrize(
    ("name", "tamper", "where"),
    [
        ("fused", other_weight, "fc"),
        ("fused", no_activation, "r"),
        ("fused", other_pads, "r"),
        ("channels last", other_weight, "c1"),
        ("transformer", other_weight, "head"),
    ],
)
def test_a_wrong_optimisation_is_found_where_it_is(tmp_path, monkeypatch, name, tamper, where):
    """The deployed session and the graph that it writes have the fault; nothing else differs from the recorded run."""

    def load(path, *arguments, **options):
        model = original(path, *arguments, **options)
        tamper(model)
        return model

    original = optimised.load
    monkeypatch.setattr(optimised, "load", load)
    subject = Tampered("mine.onnx", saved(FILES[name], tmp_path), tmp_path)
    row = deployed(subject, feeds_of(FILES[name]))
    assert (row.verdict, row.first_divergence) == ("diverged", where), row.note
    assert "judged at the values of the graph that ONNX Runtime makes of it" in row.note


class Compiled(Subject):
    """A file in a compiler that fuses less if more than `most` values are asked for, and whose outputs have other bits
    then."""

    most, wrong, runtimes = 2, 0.0, (Runtime("compiler", True),)

    def record(self, runtime, feeds, only=None):
        found = super().record(ONNX_RUNTIMES[0], feeds)
        few = only is not None and len(only) <= self.most
        for name in self.graph.outputs:
            found.values[name] = found.values[name] * np.float32(1 + 2.0**-22 * few + self.wrong * (only == ()))
        seen = {*(found.values if only is None else only), *self.graph.outputs}
        found.values = {name: array for name, array in found.values.items() if name in seen}
        return found


def of_compiler(tmp_path, model, most=2, wrong=0.0):
    subject = Compiled("mine.onnx", saved(model, tmp_path), tmp_path)
    subject.most, subject.wrong = most, wrong
    return deployed(subject, feeds_of(model), subject.runtimes[0])


def test_a_compiler_is_asked_for_few_values_so_that_it_fuses_as_it_is_deployed(tmp_path):
    """Four products on the way: with two values asked for, the bits are those of the deployed run."""
    row = of_compiler(tmp_path, FILES["fused"])
    assert row.verdict == "certified"
    assert "its outputs are up to 4 ULP from those of the recorded run" in row.note
    assert "judged at 3 values; it gives the same bits when they are asked for" in row.note
    assert [layer.name for layer in row.layers] == ["d", "k", "fc"]


def test_values_that_are_asked_for_in_several_runs_make_the_regions_short(tmp_path):
    """One value of eight convolutions says too little."""
    row = of_compiler(tmp_path, deep(), most=1)
    assert row.verdict == "certified"
    assert re.search("judged at [3-7] values; it gives .* asked for, in [2-6] runs", row.note)


def test_what_nothing_is_known_of_is_not_called_certified(tmp_path):
    row = of_compiler(tmp_path, MODELS["transformer"], most=-1)
    assert row.verdict == "certified"
    assert row.note == "the bits of the recorded run"
    row = of_compiler(tmp_path, FILES["fused"], most=0)
    assert row.verdict == "certified"
    assert re.search(r"nothing between .* is known; fc: the bound carried to it is 0.0\d+, its largest", row.note)
    row = of_compiler(tmp_path, deep(), most=0)
    assert row.verdict == "incomplete"
    (layer,) = row.layers
    assert (layer.name, layer.verdict) == ("head", "unproved")
    assert re.search(r"is [\d.e+]+, wider than 0.5 of its largest number, [\d.e+]+; .* up to \d ULP", layer.cause)


def test_outputs_with_the_bits_of_another_runtime_are_proved_by_it(tmp_path):
    """If that one is proved."""
    model, (runtime, plain) = FILES["fused"], (Compiled.runtimes[0], ONNX_RUNTIMES[0])
    subject, feeds = Compiled("mine.onnx", saved(model, tmp_path), tmp_path), feeds_of(model)
    subject.most = -1
    proof = AsDeployed(subject, feeds, subject.graph, feeds, {name: name for name in subject.graph.makers()})
    right = subject.record(runtime, feeds)
    row = judged(plain, subject.graph, feeds, right, Expected())
    proof.remember(plain, right, row)
    others = {name: array * np.float32(1.5) for name, array in right.values.items()}
    proof.remember(runtime, Recorded(others), judged(runtime, subject.graph, feeds, Recorded(others), Expected()))
    found = proof._row(runtime)
    assert (found.backend, found.verdict) == ("compiler", "certified")
    assert found.note == "the bits of the recorded run of onnxruntime"
    proof.remember(plain, right, replace(row, verdict="diverged"))
    assert "the bits of the recorded run of" not in proof._row(runtime).note


def test_a_wrong_weight_in_the_deployed_run_alone_is_seen(tmp_path):
    """Beyond a carried bound it has diverged; within a wide one it is unproved, and never certified."""
    row = of_compiler(tmp_path, FILES["scaled after"], wrong=1e-3)
    assert (row.verdict, row.first_divergence) == ("diverged", "f")
    row = of_compiler(tmp_path, deep(), wrong=1e-3)
    assert row.verdict == "incomplete"
    row = of_compiler(tmp_path, deep(), wrong=1e6)
    assert row.verdict == "diverged"


def test_the_command_and_its_report(tmp_path):
    saved(FILES["fused"], tmp_path)
    command = ("prove", tmp_path / "mine.onnx", "--deployed")
    code, out, err = run_here(*command, "--probe", "random", "--report", tmp_path / "report", "--json")
    assert code == 0, err
    runs = json.loads(out)["runs"]
    assert [(run["probe"], run["verdict"]) for run in runs] == [("random", "certified"), ("deployed", "certified")]
    assert runs[1]["backends"][0]["backend"] == "onnxruntime-optimised"
    assert "ULP from those of the recorded run; judged at the values" in runs[1]["backends"][0]["note"]
    assert "deployed" in (tmp_path / "report" / "junit.xml").read_text()
    assert "deployed" in (tmp_path / "report" / "index.html").read_text()
    code, _, err = run_here(*command, "--probe", "exact")
    assert code == 2
    assert "as deployed, a model runs on random numbers" in err


def test_an_export_of_a_model_is_judged_by_it_as_it_is_deployed(tmp_path):
    """By the names of the model's graph, whatever its own are."""
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    model = FILES["fused"]
    onnx.save(model, one)
    named = onnx.ModelProto.FromString(model.SerializeToString())
    for node in named.graph.node:
        node.input[:] = [f"{name}/other" if name.endswith("_out") else name for name in node.input]
        node.output[:] = [f"{name}/other" for name in node.output]
    named.graph.output[0].name += "/other"
    onnx.save(named, other)
    report = prove(one, other, deployed=True)
    assert [(run.model, run.probe, run.verdict) for run in report.runs] == [
        (str(path), probe, "certified") for path in (one, other) for probe in ("random", "deployed")
    ]
    with pytest.raises(TriptychError, match="two networks are not compared as deployed"):
        prove(one, other, deployed=True, weights="own")


def test_a_convolution_that_starts_from_what_is_added_is_not_accused(tmp_path):
    """Every partial sum then has what is added, which is a thousand times the products."""
    add = Builder(1, 320, 5, 7)
    large = add("MaxPool", "m", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    d = add("Conv", "d", "x", normal(320, 320, 3, 3) * np.float32(1e-5), pads=[1, 1, 1, 1])
    model = add.model(add("Relu", "r", add("Add", "s", large, d)))
    subject, feeds = Subject("mine.onnx", saved(model, tmp_path), tmp_path), feeds_of(model)
    row = deployed(subject, feeds)
    assert row.verdict == "certified", row.likely_cause
    bounded = judged(ONNX_RUNTIMES[1], subject.graph, feeds, subject.optimised(feeds), Expected(), widest=0.5)
    assert bounded.verdict == "certified", bounded.likely_cause
    wrong = subject.optimised(feeds)
    wrong.values["r_out"] = wrong.values["r_out"] * np.float32(1 + 1e-3)
    assert judged(ONNX_RUNTIMES[1], subject.graph, feeds, wrong, Expected(), widest=0.5).first_divergence == "r"
