"""What is published of the exact probe: kept true, compared with, never changed silently; and the probe as a folder."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from common import TriptychError, get_spec, list_architectures
from common.parity.backends import select
from common.parity.results import Plan
from common.parity.runner import run_parity
from common.porting.portable import write_probe
from common.probes import exact_probe, published, random_probe
from common.probes.exact import SIGNED, VERSION, WEIGHTS, drawn
from parity_tests.commands import ROOT, finish, run_here, triptych

SMALL = ("lenet5", "lenet5_sparse", "lenet_caffe", "alexnet_mnist")


def test_every_network_is_published():
    content = published.published()
    assert content["version"] == VERSION
    assert list(content["networks"]) == list_architectures()
    numbers = {entry["sha256"] for entry in content["networks"].values()}
    assert len(numbers) == len(list_architectures())
    for name, entry in content["networks"].items():
        assert list(entry["layers"]) == [layer.name for layer in get_spec(name).layers]


@pytest.mark.parametrize("architecture", SMALL)
def test_what_is_published_is_true(architecture):
    spec = get_spec(architecture)
    assert published.compare(spec, exact_probe(spec), 0) == published.Compared(True)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", list_architectures())
def test_all_that_is_published_is_true(architecture):
    spec = get_spec(architecture)
    assert published.compare(spec, exact_probe(spec), 0) == published.Compared(True)


def test_the_hash_is_of_the_bytes_that_are_described():
    array = np.array([[1, -0.0, 3], [-4, 5, 0.5]], np.float32)
    by_hand = b"a/b float32 2,3\n" + bytes.fromhex("0000803f 00000000 00004040 000080c0 0000a040 0000003f")
    assert published.digest({"a/b": array}) == sha256(by_hand).hexdigest()
    assert published.digest({"a/b": array}) == published.digest({"a/b": np.asfortranarray(array)})
    assert published.digest({"a/b": array}) != published.digest({"a/b": array.reshape(3, 2)})
    assert published.digest({"a/b": array}) == published.digest({"a/b": array.astype(">f4")})


def test_the_numbers_are_those_of_a_standard_stream():
    """By hand, from SHAKE128's own bytes; none of NumPy's generators is used."""
    from hashlib import shake_128

    stream = shake_128(b"triptych exact 1 7 conv1/weight").digest(30)
    assert drawn(7, "conv1/weight", WEIGHTS, (2, 15)).ravel().tolist() == [WEIGHTS[byte % 8] for byte in stream]
    assert set(drawn(0, "image", SIGNED, (1000,))) == set(range(-8, 9)) - {0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: p.weights["conv2/weight"],
            "what is given to conv2 (weights, injected integers) is not as published",
        ),
        (lambda p: p.weights["fc1/bias"], "what is given to fc1 (weights, injected integers) is not as published"),
        (lambda p: p.injected["pool2"], "what is given to pool2 (weights, injected integers) is not as published"),
        (lambda p: p.expected["relu3"], "relu3's output is not as published"),
        (lambda p: p.image, "the image is not as published"),
    ],
)
def test_one_bit_is_seen_and_its_layer_named(change, words):
    spec = get_spec("lenet_caffe")
    probe = exact_probe(spec)
    array = change(probe)
    place = np.unravel_index(array.size // 3, array.shape)
    array[place] = np.nextafter(array[place], np.float32(np.inf))
    assert published.compare(spec, probe, 0) == published.Compared(False, words)


def test_there_is_nothing_to_compare_other_probes_with():
    spec = get_spec("lenet_caffe")
    probe = exact_probe(spec)
    for other in (exact_probe(spec, batch=3), random_probe(spec), replace(probe, name="sparse")):
        assert published.compare(spec, other, 0) == published.Compared(None)
    assert published.compare(spec, probe, 1) == published.Compared(None)
    seven = get_spec("lenet_caffe", num_classes=7)
    assert published.compare(seven, exact_probe(seven), 0) == published.Compared(None)
    theirs = replace(spec, name="mine")
    assert published.compare(theirs, probe, 0) == published.Compared(None)


def test_a_published_version_never_changes(tmp_path, monkeypatch, capsys):
    file = tmp_path / "published.json"
    content = json.loads(published.FILE.read_text())
    right = content["networks"]["lenet_caffe"]
    content["networks"] = {"lenet_caffe": right | {"layers": right["layers"] | {"relu1": {"answer": "0" * 64}}}}
    content["networks"]["lenet_caffe"]["sha256"] = "another"
    file.write_text(json.dumps(content))
    before = file.read_bytes()
    monkeypatch.setattr(published, "FILE", file)
    published.published.cache_clear()
    try:
        assert not published.check(["lenet_caffe", "lenet5"], write=True)
        assert file.read_bytes() == before
        assert "lenet_caffe: relu1's output is not as published" in (said := capsys.readouterr().out)
        assert "need a new VERSION" in said
        assert not published.check(["lenet5"], write=False)
        assert "lenet5: it is not in the file" in capsys.readouterr().out
        content["networks"] = {"lenet_caffe": right}
        file.write_text(json.dumps(content))
        published.published.cache_clear()
        assert published.check(["lenet5"], write=True)
        assert json.loads(file.read_text())["networks"].keys() == {"lenet5", "lenet_caffe"}
    finally:
        published.published.cache_clear()


# The command


def test_a_run_says_whether_it_is_as_published():
    options = ("--backend=torch", "--backend=onnx-torch", "--probe=exact", "--probe=random")
    code, out, err = run_here("parity", "lenet_caffe", *options, "--json")
    assert code == 0, err
    exact, random = json.loads(out)["runs"]
    assert (exact["published"], exact["unpublished"]) == (True, None)
    assert [row["published"] for row in exact["backends"]] == [True, True]
    assert (random["published"], random["unpublished"]) == (None, None)
    code, out, _ = run_here("parity", "lenet_caffe", "--backend=torch", "--probe=exact", "--seed=3")
    assert (code, "published" in out) == (0, False)
    code, out, _ = run_here("parity", "lenet_caffe", "--backend=torch", "--probe=exact")
    assert (code, "The exact probe is as published." in out) == (0, True)


def test_a_backend_with_another_bit_is_not_as_published(tmp_path):
    for package in ("common", "torch_impl"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    backend = tmp_path / "torch_impl" / "backend.py"
    right = 'tensor.copy_(torch.from_numpy(np.require(weights[name], requirements=("C", "W"))))'
    assert right in backend.read_text()
    wrong = f'{right}\n        parameters["fc1/weight"][3, 5] *= 1 + 2**-10'
    backend.write_text(backend.read_text().replace(right, wrong))
    options = ("--backend=torch", "--probe=exact")
    code, out, _ = finish(triptych("parity", "lenet_caffe", *options, cwd=tmp_path))
    assert code == 1
    assert "The exact probe is not as published: fc1's output is not as published." in out


def test_a_probe_that_is_not_as_published_is_one_in_every_backend(monkeypatch):
    from common.probes import exact

    monkeypatch.setattr(exact, "WEIGHTS", (-3, -2, -1, -1, 1, 1, 2, 2))
    (run,) = run_parity(get_spec("lenet5"), Plan(select(["torch"]), probes=["exact"]))
    assert (run.verdict, run.published) == ("identical", False)
    assert run.unpublished == "what is given to c1 (weights, injected integers) is not as published"


# The probe as a folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("probes") / "lenet5"
    code, out, err = run_here("probe", "lenet5", "--out", path, "--json")
    assert code == 0, err
    written = json.loads(out)
    assert (written["architecture"], written["version"], written["published"]) == ("lenet5", VERSION, True)
    assert written["sha256"] == published.published()["networks"]["lenet5"]["sha256"]
    assert written["bytes"] == sum(file.stat().st_size for file in path.iterdir())
    assert [entry.name for entry in path.parent.iterdir()] == ["lenet5"]
    return path


def run_example(folder):
    """The example in the folder's own page, as it stands there, without this project in reach."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert {"numpy", "onnxruntime"} == set(re.search("import (.*)", code)[1].split(", "))
    found = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in found.stderr
    return found.returncode, (found.stdout + found.stderr).strip()


def test_the_page_of_a_probe_says_how_to_compare(folder):
    assert run_example(folder) == (0, "all 12 layers are right")
    published_numbers = published.published()["networks"]["lenet5"]
    assert json.loads((folder / "hashes.json").read_text()) == {
        "architecture": "lenet5",
        "version": VERSION,
        **published_numbers,
    }


def test_a_probe_holds_what_its_hashes_say(folder):
    given, expected = (dict(np.load(folder / f"{name}.npz")) for name in ("given", "expected"))
    layers = published.published()["networks"]["lenet5"]["layers"]
    for name, hashes in layers.items():
        if "answer" in hashes:
            assert published.digest({name: expected[name]}) == hashes["answer"]
    assert given.keys() == {"image"} | {f"{name}/injected" for name in exact_probe(get_spec("lenet5")).injected}


@pytest.mark.parametrize("tensor", ["c3/weight", "f6/bias"])
def test_a_wrong_number_in_the_file_is_found_by_the_example(folder, tensor, tmp_path):
    import onnx
    from onnx import numpy_helper

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    model = onnx.load(copy / "probe.onnx")
    (initializer,) = [entry for entry in model.graph.initializer if entry.name == tensor]
    array = numpy_helper.to_array(initializer).copy()
    array.flat[7] *= np.float32(1 + 2**-10)
    initializer.CopyFrom(numpy_helper.from_array(array, tensor))
    onnx.save(model, copy / "probe.onnx")
    code, said = run_example(copy)
    assert (code, said) == (1, f"{tensor.partition('/')[0]} is the first layer that differs")


def test_what_cannot_be_written_is_one_sentence_and_nothing_is_left(tmp_path):
    def refused(words, *arguments):
        code, out, err = run_here("probe", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err

    (tmp_path / "there").mkdir()
    refused("did you mean lenet5", "lenet6", "--out", tmp_path / "new")
    refused("there exists already; name a new folder", "lenet5", "--out", tmp_path / "there")
    refused("cannot write", "lenet5", "--out", tmp_path / "missing" / "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("where", ["savez", "write_text"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, where):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((np, "savez") if where == "savez" else (Path, "write_text")), full)
    with pytest.raises(TriptychError, match="No space left on device"):
        write_probe(get_spec("lenet5"), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["keras", "tf1"])
def test_every_framework_can_write_it(framework, tmp_path):
    """With a flatten, whose order they have otherwise."""
    pytest.importorskip("onnxruntime")
    code, _, err = run_here("probe", "lenet_caffe", "--from", framework, "--out", tmp_path / "new")
    assert code == 0, err
    assert run_example(tmp_path / "new") == (0, "all 10 layers are right")
