"""The harness as a user meets it: `triptych parity`, in processes of its own."""

import json
import shutil
from itertools import combinations
from math import prod

import numpy as np
import pytest
from conftest import daily

from common import get_spec, random_weights, write_weights_file
from common.parity import backends
from common.parity.judge import judge, judge_structure
from common.parity.results import BackendResult, Run, compared_with_cpu, worst
from common.parity.verdicts import DIVERGED, IDENTICAL, overall
from common.probes import exact_probe
from parity_tests.commands import ROOT, finish, run_here, triptych

BACKENDS = ["torch", "keras-tensorflow", "tf1", "onnx-torch", "onnx-keras", "onnx-tf1"]
"""Those that an AlexNet is run in; the others run a smaller network."""

BATCH = 1

OPTIONS = [f"--backend={name}" for name in BACKENDS]


@pytest.fixture(scope="module", params=daily("lenet_caffe", of=["lenet_caffe", "alexnet_mnist", "alexnet_bvlc"]))
def spec(request):
    return get_spec(request.param)


@pytest.fixture(scope="module")
def report(spec):
    code, out, err = run_here("parity", spec.name, f"--batch={BATCH}", "--json", *OPTIONS)
    assert code == 0, err
    return json.loads(out)


def test_six_backends_are_one_function(report, spec):
    assert report["verdict"] == "certified"
    assert {run["probe"]: run["verdict"] for run in report["runs"]} == {
        "exact": "identical",
        "random": "certified",
        "photo": "certified",
    }
    for run in report["runs"]:
        assert (run["architecture"], run["device"], run["precision"]) == (spec.name, "cpu", "fp32")
        assert [row["backend"] for row in run["backends"]] == BACKENDS
        for row in run["backends"]:
            assert (row["status"], row["reason"], row["first_divergence"], row["likely_cause"]) == ("ok",) + (None,) * 3
            assert row["seconds"] > 0


def test_of_exports_that_are_the_same_file_the_first_is_run_and_the_others_say_so(report):
    for run in report["runs"]:
        exports = [row for row in run["backends"] if row["backend"].startswith("onnx-")]
        (ran,) = (row for row in exports if row["timing"]["run"])
        assert ran["note"] is None
        same = f"its file is that of {ran['backend']}, but for the line that names the framework: it ran once for both"
        for row in exports:
            assert row is ran or (row["note"], row["layers"]) == (same, ran["layers"])


def test_the_other_backends_are_the_same_function():
    others = ["torch-compile", "keras-jax", "keras-torch"]
    assert set(BACKENDS) | set(others) == set(backends.BACKENDS)
    code, out, err = run_here("parity", "lenet_caffe", "--json", *(f"--backend={name}" for name in others))
    assert code == 0, err
    found = {
        run["probe"]: (run["verdict"], [row["status"] for row in run["backends"]]) for run in json.loads(out)["runs"]
    }
    assert found == {
        "exact": ("identical", ["ok"] * 3),
        "random": ("certified", ["ok"] * 3),
        "photo": ("certified", ["ok"] * 3),
    }


def test_outputs_are_compared_and_resources_reported(report, spec):
    for run in report["runs"]:
        pairs = {(comparison["left"], comparison["right"]) for comparison in run["comparisons"]}
        assert pairs == set(combinations(BACKENDS, 2))
        assert all(comparison["top1"] == 1 for comparison in run["comparisons"])
        for row in run["backends"]:
            assert row["memory"] > 1e8
            assert row["timing"].keys() == {"import", "load", "run", "judge"}
            elements = sum(BATCH * prod(spec.shapes[layer["name"]]) for layer in row["layers"])
            assert sum(sum(layer["ulp_histogram"]) for layer in row["layers"]) == elements


def test_every_layer_is_reported(report, spec):
    layers = {layer.name: layer.operation.kind for layer in spec.layers}
    for run in report["runs"]:
        for row in run["backends"]:
            wanted = [name for name in layers if not (row["backend"].startswith("onnx") and name.startswith("drop"))]
            assert [layer["name"] for layer in row["layers"]] == wanted
            for layer in row["layers"]:
                assert 0 <= layer["bound_ratio"] <= 1
                assert layer["precision"] == "fp32"
                rounds = layers[layer["name"]] == "LRN" or (
                    run["probe"] != "exact" and layers[layer["name"]] in ("Conv", "Dense")
                )
                assert layer["verdict"] == ("certified" if rounds else "identical")


def test_the_exact_probe_says_which_layers_it_cannot_hold_to_the_bit(report, spec):
    assert {run["probe"]: list(run["bounded"]) for run in report["runs"]} == {
        "exact": ["norm1", "norm2"] if spec.name == "alexnet_bvlc" else [],
        "random": [],
        "photo": [],
    }


def test_the_environment_is_in_the_report(report):
    assert {"python", "numpy", "torch", "keras", "tensorflow", "onnxruntime"} <= set(report["environment"]["versions"])


@pytest.mark.slow
def test_the_backward_pass_on_weights_and_pictures_that_are_given_is_reported_like_the_forward_pass(tmp_path):
    from common.specs.photographs import photograph

    photograph(1).save(tmp_path / "cat.jpg")
    write_weights_file(tmp_path / "w.safetensors", random_weights("lenet_caffe", seed=9))
    options = ("--weights", tmp_path / "w.safetensors", "--probe", "exact", "--probe", tmp_path / "cat.jpg")
    command = ("parity", "lenet_caffe", "--gradients", "--backend=torch", "--report", tmp_path / "report", *options)
    code, out, err = run_here(*command, "--json")
    assert code == 0, err
    runs = json.loads(out)["runs"]
    found = [(run["probe"], run["gradients"], run["verdict"]) for run in runs]
    assert found == [("exact", "inference", "identical"), (str(tmp_path / "cat.jpg"), "inference", "certified")]
    layers = ["loss", *(layer.name for layer in reversed(get_spec("lenet_caffe").layers))]
    for run in runs:
        assert [layer["name"] for layer in run["backends"][0]["layers"]] == layers
        assert all(0 <= layer["bound_ratio"] <= 1 for layer in run["backends"][0]["layers"])
    page = (tmp_path / "report" / "index.html").read_text()
    assert all(f'<th scope="col">{name}' in page for name in ("exact, inference", "cat.jpg, inference"))
    before = [row["seconds"] for run in runs for row in run["backends"]]
    code, out, _ = run_here(*command, "--resume", "--json")
    assert [row["seconds"] for run in json.loads(out)["runs"] for row in run["backends"]] == before


@pytest.mark.slow
def test_one_wrong_gradient_is_found_by_the_command(tmp_path):
    """In a copy of the project, whose network in TensorFlow 1 learns nothing before its last layer."""
    for package in ("common", "tf1_style_impl"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    model = tmp_path / "tf1_style_impl" / "lenet.py"
    right = 'fc(x, num_classes, name="fc2")'
    assert right in model.read_text()
    model.write_text(model.read_text().replace(right, right.replace("x,", "tf.stop_gradient(x),", 1)))
    options = ("--gradients", "--backend=tf1", "--probe", "random")
    code, out, _ = finish(triptych("parity", "lenet_caffe", *options, cwd=tmp_path))
    assert code == 1
    assert "fc2 is the first layer from the loss backwards that differs; the gradient with respect to relu3\n" in out


def test_a_gpu_is_compared_with_the_cpu_backend_by_backend():
    def run(device, **outputs):
        rows = [
            BackendResult(name, "ok", "certified", outputs={"logits": np.array([values], np.float32)})
            for name, values in outputs.items()
        ]
        return Run("lenet5", "random", {}, rows, device)

    on_gpu, on_cpu = run("cuda", torch=[1, 2, 4], tf1=[0, 1, 2]), run("cpu", torch=[1, 2, 3.5])
    (comparison,) = compared_with_cpu(on_gpu, on_cpu).across_devices
    assert (comparison.left, comparison.right) == ("torch on the CPU", "torch on cuda")
    assert (comparison.largest_absolute, comparison.top1) == (0.5, 1.0)


def test_weights_from_a_file(tmp_path):
    write_weights_file(tmp_path / "w.safetensors", random_weights("lenet5", seed=9))
    options = ("--backend", "torch", "--probe", "random", "--batch", 1)
    code, out, _ = run_here("parity", "lenet5", "--weights", tmp_path / "w.safetensors", *options)
    assert code == 0
    assert "certified" in out
    assert "\x1b" not in out  # plain text where there is no terminal


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parity", "alexnet_bvcl"], "did you mean alexnet_bvlc"),
        (["parity", "inception*"], "no architecture matches 'inception*'"),
        (["parity", "--backend", "tensorflow"], "did you mean keras-tensorflow"),
        (["parity", "lenet5", "--weights", "nowhere.safetensors"], "there is no weights file nowhere.safetensors"),
        (["parity", "lenet5", "--gradients", "--probe", "tiny"], "there are no gradients on the tiny probe; use exact"),
        (["parity", "lenet5", "--gradients", "--precision", "tf32"], "judged by the bounds of fp32, not of tf32"),
        (["parity", "lenet5", "--steps", "3", "--gradients"], "--steps cannot be combined with --gradients, --probe"),
        (["parity", "lenet5", "--plot", "divergence"], "give its length with --steps"),
        (["parity", "--probe", "foto"], "'foto' is neither a probe nor an image file; probes are exact, random, photo"),
        (["show", "alexnet"], "did you mean alexnet_bvlc"),
        (["export", "alexnet_bvlc", "--from", "torch", "--out", "missing/a.onnx"], "cannot write missing/a.onnx"),
        (["export", "alexnet_bvlc", "--from", "caffe", "--out", "a.onnx"], "'caffe' is not one of"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(arguments, words):
    code, out, err = run_here(*arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_weights_of_another_network_are_refused_before_anything_runs(tmp_path):
    write_weights_file(tmp_path / "w.safetensors", {"conv1/weight": np.zeros((6, 1, 5, 5), np.float32)})
    code, _, err = run_here("parity", "alexnet_bvlc", "--weights", tmp_path / "w.safetensors")
    assert code == 2
    assert "conv1/weight has shape (6, 1, 5, 5), expected (96, 3, 11, 11); conv1/bias is missing" in err


@pytest.mark.parametrize(
    ("architecture", "framework"),
    [
        ("lenet_caffe", "keras"),
        *(pytest.param("alexnet_bvlc", name, marks=pytest.mark.slow) for name in ("torch", "keras", "tf1")),
    ],
)
def test_export_writes_what_onnx_runtime_runs(architecture, framework, tmp_path):
    import onnxruntime

    path, spec = tmp_path / "a.onnx", get_spec(architecture)
    code, out, err = run_here("export", architecture, "--from", framework, "--out", path)
    assert code == 0, err
    assert str(path) in out
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 3):
        (logits,) = session.run(["logits"], {"image": np.zeros((batch, *spec.input_shape), np.float32)})
        assert logits.shape == (batch, spec.num_classes)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.slow
def test_one_wrong_number_is_found_by_the_command(tmp_path):
    """End to end, in a copy of the project with one edit; the other mistakes are in test_mutants.py."""
    for package in ("common", "torch_impl", "tf1_style_impl"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    model = tmp_path / "tf1_style_impl" / "alexnet.py"
    model.write_text(model.read_text().replace("alpha=2e-5", "alpha=1e-4", 1))
    options = ("--backend=torch", "--backend=tf1", "--backend=onnx-tf1", "--probe=exact", "--batch=1", "--json")
    code, out, _ = finish(triptych("parity", "alexnet_bvlc", *options, cwd=tmp_path))
    assert code == 1
    report = json.loads(out)
    assert report["verdict"] == DIVERGED
    rows = {row["backend"]: (row["status"], row["first_divergence"]) for row in report["runs"][0]["backends"]}
    assert rows == {"torch": ("ok", None), "tf1": ("diverged", "norm1"), "onnx-tf1": ("diverged", "norm1")}


@pytest.fixture(scope="module")
def exact():
    return exact_probe(get_spec("alexnet_bvlc"), batch=1)


def answered(probe):
    """What a perfect backend records on an exact probe."""
    from common.operations import evaluate

    recorded = dict(probe.expected)
    for layer in get_spec("alexnet_bvlc").layers:
        if layer.name in probe.bounded:
            (before,) = layer.inputs
            given = probe.injected.get(before, recorded[before])
            recorded[layer.name] = evaluate(layer.operation, [given], {}).value.astype(np.float32)
    return recorded


def test_a_perfect_backend_is_identical(exact):
    verdicts = judge(get_spec("alexnet_bvlc"), exact, answered(exact))
    assert overall(verdicts, exact) == IDENTICAL
    assert {verdict.verdict for verdict in verdicts} == {IDENTICAL}


@pytest.mark.parametrize("damage", ["one bit", "nan", "infinity", "missing", "shape"])
def test_damage_to_one_element_is_seen(exact, damage):
    recorded = answered(exact)
    array = recorded["conv3"] = recorded["conv3"].copy()
    place = np.unravel_index(np.argmax(array), array.shape)
    if damage == "missing":
        del recorded["conv3"]
    elif damage == "shape":
        recorded["conv3"] = array[:, :, :, :-1]
    else:
        array[place] = {
            "one bit": np.nextafter(array[place], np.float32(np.inf)),
            "nan": np.nan,
            "infinity": np.inf,
        }[damage]
    divergence = next(v for v in judge(get_spec("alexnet_bvlc"), exact, recorded) if v.verdict == DIVERGED)
    assert divergence.name == "conv3"


def test_a_wrong_structure_is_named():
    spec = get_spec("alexnet_bvlc")
    shapes, parameters = dict(spec.shapes), dict(spec.parameter_shapes)
    assert judge_structure(spec, shapes, parameters) == []
    shapes["pool2"] = (256, 12, 13)
    del parameters["fc7/bias"]
    parameters["fc9/weight"] = (3, 4)
    found = {verdict.name: verdict.cause for verdict in judge_structure(spec, shapes, parameters)}
    assert found == {
        "pool2": "pool2 has shape 256×12×13, expected 256×13×13",
        "fc7": "fc7/bias is missing",
        "fc9": "fc9/weight is not in the specification",
    }


def test_the_worst_verdict_counts():
    assert worst(["identical", "certified", "skipped"]) == "certified"
    assert worst(["identical", "incomplete", "diverged"]) == "diverged"
    assert worst(["certified", "incomplete"]) == "incomplete"
    assert worst(["skipped"]) == "incomplete"
