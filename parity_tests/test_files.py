"""Files as people have them: checkpoints of trainings, other names, other dtypes, other preparations."""

import argparse
import importlib
import json
import re
import shlex
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import load_implementation
from hostile_files import caffe, field
from test_hostile import DATA

from common import TriptychError, get_spec, list_architectures, random_weights, write_weights_file
from common.cli.flags import with_flags
from common.errors import Damaged
from common.layouts import conv_to_hwio
from common.porting.conventions import CONVENTIONS
from common.porting.formats import HDF5, read_source
from common.porting.matching import understand
from common.porting.port import port
from common.porting.preparation import NAMED
from common.porting.reading import Reading
from common.porting.source import Source
from common.porting.targets import Target
from common.process import ProcessFailure
from common.specs.architecture import Preprocessing
from parity_tests.commands import run

ROOT = Path(__file__).parents[1]
SMALL = "lenet_caffe"
WEIGHTS = random_weights(SMALL, 4)
NAMES = {parameter: parameter.replace("/", ".") for parameter in WEIGHTS}


@pytest.fixture(scope="module")
def torch():
    load_implementation("torch_impl")
    return pytest.importorskip("torch")


def state(torch, prefix="", part="", dtype="float32"):
    """A state dict of the small network, with something in front of the names, or of one layer's."""
    return {
        f"{prefix}{part if name.startswith('conv1') else ''}{name}": torch.from_numpy(WEIGHTS[parameter]).to(
            getattr(torch, dtype)
        )
        for parameter, name in NAMES.items()
    }


def is_ours(network):
    assert network.spec.name == SMALL
    assert {name: array.tobytes() for name, array in network.weights.items()} == {
        name: array.tobytes() for name, array in WEIGHTS.items()
    }
    return network


def source(architecture, convention, **options):
    """A file with the names of a convention, which takes no memory."""
    spec = get_spec(architecture, **options)
    tensors = {
        name: np.broadcast_to(np.float32(0.5), expected.shapes[0])
        for name, expected in _candidate(convention, architecture, spec.num_classes).expected.items()
    }
    return Source(Path("a"), "a file", (convention,), tensors)


def _candidate(convention, architecture, classes):
    from common.porting.candidates import candidate_of

    return candidate_of(convention, architecture, classes)


class TestCheckpoints:
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adagrad"])
    def test_what_training_leaves(self, torch, optimizer, zipped, tmp_path):
        """Moments keyed by integers, a scheduler, arguments, NumPy's numbers and a generator's state."""
        parameters = [torch.nn.Parameter(tensor) for tensor in state(torch).values()]
        options = {"momentum": 0.9} if optimizer == "SGD" else {}
        optimiser = getattr(torch.optim, optimizer)(parameters, lr=0.1, **options)
        scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 30)
        sum(parameter.square().sum() for parameter in parameters).backward()
        content = {
            "epoch": 3,
            "args": argparse.Namespace(lr=0.1, nested={"a": Path("b")}),
            "best": np.float64(0.5),
            "seen": {1, 2},
            "rng": np.random.default_rng(0).bit_generator.state,
            "big": 2**100,
            "model_state_dict": state(torch),
        }
        optimiser.step()
        scheduler.step()
        content |= {"optimizer": optimiser.state_dict(), "scheduler": scheduler.state_dict()}
        torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        network = is_ours(understand(read_source(tmp_path / "x")))
        assert any("model_state_dict" in note for note in network.notes)

    @pytest.mark.parametrize(
        ("prefix", "part"),
        [("module.", ""), ("_orig_mod.", ""), ("model.", ""), ("net.encoder.", ""), ("module._orig_mod.", ""),
         ("", "module."), ("model.", "module."), ("learner.student.", "")],
    )  # fmt: skip
    def test_prefixes(self, torch, prefix, part, tmp_path):
        torch.save({"net": state(torch, prefix, part)}, tmp_path / "x")
        is_ours(understand(read_source(tmp_path / "x")))

    def test_strangers_are_told(self, torch, tmp_path):
        content = state(torch, "module.") | {"n_averaged": torch.tensor(3), "queue": torch.ones(2, 3)}
        torch.save(content, tmp_path / "x")
        network = is_ours(understand(read_source(tmp_path / "x")))
        assert any("n_averaged, queue (2 tensors)" in note for note in network.notes)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_counters_before_1_6(self, torch, zipped, tmp_path):
        """Storages of eight bytes a number, one level down."""
        content = state(torch, "module.") | {"module.bn.num_batches_tracked": torch.tensor(7)}
        torch.save({"state_dict": content}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        is_ours(understand(read_source(tmp_path / "x")))

    def test_several_networks(self, torch, tmp_path):
        other = {name: tensor + 1 for name, tensor in state(torch).items()}
        torch.save({"student": state(torch), "teacher": {"model": other}}, tmp_path / "x")
        with pytest.raises(TriptychError, match=r"several networks: 'student' .*'teacher.model' .*`entry`"):
            understand(read_source(tmp_path / "x"))
        is_ours(understand(read_source(tmp_path / "x"), reading=Reading(entry="student")))
        with pytest.raises(TriptychError, match="has no entry 'ema'"):
            understand(read_source(tmp_path / "x"), reading=Reading(entry="ema"))

    @pytest.mark.parametrize(
        ("first", "second"), [("net.", "ema."), ("module.encoder_q.", "module.encoder_k."), ("", "ema.module.")]
    )
    def test_several_networks_in_one_dict(self, torch, first, second, tmp_path):
        """A network and its moving average, as a LightningModule keeps them: neither is taken in silence."""
        other = {f"{second}{name}": tensor + 1 for name, tensor in state(torch).items()}
        torch.save({"state_dict": other | state(torch, first)}, tmp_path / "x")
        with pytest.raises(TriptychError, match=r"several networks: .*; say which with `prefix`") as caught:
            understand(read_source(tmp_path / "x"))
        told = re.findall(r"begin with '(.*?)'", str(caught.value))
        assert len(told) == 2
        assert all(one.endswith(two) for one, two in zip(sorted((first, second)), told, strict=True))
        reading = Reading(prefix=told[0] if first < second else told[1], ignore=() if first else (f"{second}*",))
        is_ours(understand(read_source(tmp_path / "x"), reading=reading))

    def test_a_network_in_a_wrapper_beside_itself(self, torch, tmp_path):
        """What stands before and after `DataParallel`: of two that have the same names, neither is taken in silence."""
        other = {name: tensor + 1 for name, tensor in state(torch, "module.").items()}
        for content in (state(torch) | other, other | state(torch)):
            torch.save(content, tmp_path / "x")
            with pytest.raises(TriptychError, match=r"with '', .* with 'module.'; say which with `prefix`"):
                understand(read_source(tmp_path / "x"))
            is_ours(understand(read_source(tmp_path / "x"), reading=Reading(prefix="")))
            network = understand(read_source(tmp_path / "x"), reading=Reading(prefix="module."))
            assert (network.weights["fc1/bias"] == WEIGHTS["fc1/bias"] + 1).all()

    @pytest.mark.parametrize("wrapped", ["module.conv1.weight", "conv1.module.weight", "module._orig_mod.fc2.bias"])
    def test_a_part_in_a_wrapper_beside_itself(self, torch, wrapped, tmp_path):
        """Nor of a single tensor; and a wrapper's tensors do not fill the gaps of what stands beside it."""
        content = state(torch)
        name = wrapped.replace("module.", "").replace("_orig_mod.", "")
        torch.save(content | {wrapped: content[name] + 1}, tmp_path / "x")
        with pytest.raises(TriptychError, match=rf"has '{name}' both with .* and without; `ignore=") as caught:
            understand(read_source(tmp_path / "x"))
        (pattern,) = re.findall(r"`ignore=\W+(\S+?)'", str(caught.value))
        is_ours(understand(read_source(tmp_path / "x"), reading=Reading(ignore=(pattern,))))
        del content["fc1.weight"]
        torch.save(content | {wrapped: content[name], "module.fc1.weight": torch.ones(500, 800)}, tmp_path / "x")
        if wrapped.startswith("module.conv1"):
            with pytest.raises(TriptychError, match=r"is not lenet_caffe .*fc1.weight is missing"):
                understand(read_source(tmp_path / "x"))

    def test_a_list_of_states(self, torch, tmp_path):
        torch.save([state(torch), {"lr": 0.1, "moments": [torch.ones(3)] * 9}], tmp_path / "x")
        is_ours(understand(read_source(tmp_path / "x")))

    def test_whole_modules(self, torch, tmp_path):
        """Saved as objects, and compiled by TorchScript: what was trained, without running a line of it."""

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1, self.conv2 = torch.nn.Conv2d(1, 20, 5), torch.nn.Conv2d(20, 50, 5)
                self.fc1, self.fc2 = torch.nn.Linear(3200, 500), torch.nn.Linear(500, 10)

            def forward(self, x):
                return x

        net = Net()
        net.load_state_dict(state(torch))
        torch.jit.save(torch.jit.trace(net, torch.ones(1)), tmp_path / "script")
        is_ours(understand(read_source(tmp_path / "script")))
        Net.__qualname__ = "Net"
        sys.modules[__name__].Net = Net
        torch.save({"model": net}, tmp_path / "whole")
        is_ours(understand(read_source(tmp_path / "whole")))


class TestDtypes:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("kind", ["pth", "safetensors"])
    def test_widened_exactly(self, torch, dtype, kind, tmp_path):
        content = state(torch, dtype=dtype)
        if kind == "pth":
            torch.save(content, tmp_path / "x")
        else:
            pytest.importorskip("safetensors.torch").save_file(content, tmp_path / "x")
        network = understand(read_source(tmp_path / "x"))
        for parameter, name in NAMES.items():
            assert network.weights[parameter].dtype == np.float32
            assert (network.weights[parameter] == content[name].float().numpy()).all()
        assert not any(parameter.error for parameter in network.parameters)

    @pytest.mark.parametrize("kind", ["pth", "npy", "npz", "safetensors", "h5"])
    def test_float64_is_rounded_only_if_asked(self, torch, kind, tmp_path):
        exact = {name: array + np.float64(1e-12) for name, array in WEIGHTS.items()}
        path = tmp_path / f"x.{kind}"
        if kind == "pth":
            torch.save({NAMES[name]: torch.from_numpy(array) for name, array in exact.items()}, path)
        elif kind == "safetensors":
            pytest.importorskip("safetensors.numpy").save_file(exact, path)
        else:
            turned = {
                n: conv_to_hwio(a) if a.ndim == 4 else _dense(n, a) if a.ndim == 2 else a for n, a in exact.items()
            }
            _write_channels_last(kind, path, turned)
        with pytest.raises(TriptychError, match=r"`round=True` rounds float64.*has dtype float64"):
            understand(read_source(path))
        network = understand(read_source(path), reading=Reading(round=True))
        for name, array in exact.items():
            assert (network.weights[name] == array.astype(np.float32)).all()
        assert 0 < max(parameter.error for parameter in network.parameters) <= 2**-24
        assert any("float64 were rounded" in note for note in network.notes)

    def test_float64_that_is_float32_is_exact(self, torch, tmp_path, monkeypatch, capsys):
        torch.save(state(torch, dtype="float64"), tmp_path / "x")
        network = is_ours(understand(read_source(tmp_path / "x"), reading=Reading(round=True)))
        assert not any("rounded" in note for note in network.notes)
        assert any(f"{len(WEIGHTS)} tensors of float64" in note and "exact" in note for note in network.notes)


def _dense(name, array):
    if name == "fc1/weight":
        return np.ascontiguousarray(array.reshape(500, 50, 8, 8).transpose(2, 3, 1, 0).reshape(3200, 500))
    return np.ascontiguousarray(array.T)


def _write_channels_last(kind, path, turned):
    names = {"weight": "kernel", "bias": "bias"}
    if kind == "npy":
        layers = {}
        for name, array in turned.items():
            layers.setdefault(name.split("/")[0], []).append(np.ascontiguousarray(array))
        np.save(path, np.array(layers, dtype=object))
    elif kind == "npz":
        np.savez(path, **{f"{n.split('/')[0]}_{'W' if 'weight' in n else 'b'}": np.ascontiguousarray(a)
                          for n, a in turned.items()})  # fmt: skip
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            for name, array in turned.items():
                layer, kind = name.split("/")
                file[f"{layer}/{layer}/{names[kind]}:0"] = np.ascontiguousarray(array)


class TestHeads:
    @pytest.mark.parametrize("theirs", ["fc.1", "dense", "classifier.1.1", "head"])
    def test_a_head_that_fits_is_taken(self, theirs):
        found = source("resnet18", "torchvision", num_classes=7)
        tensors = {name.replace("fc.", f"{theirs}.") if name.startswith("fc.") else name: array
                   for name, array in found.tensors.items()}  # fmt: skip
        network = understand(replace(found, tensors=tensors))
        assert (network.spec.name, network.spec.num_classes) == ("resnet18", 7)
        assert any(f"{theirs} is taken for the head" in note for note in network.notes)

    def test_what_stands_in_its_place_is_excused(self):
        found = source("resnet18", "torchvision")
        tensors = {name: array for name, array in found.tensors.items() if not name.startswith("fc.")}
        two = {"fc.0.weight": np.zeros((64, 512), "f4"), "fc.0.bias": np.zeros(64, "f4"),
               "fc.2.weight": np.zeros((3, 64), "f4"), "fc.2.bias": np.zeros(3, "f4")}  # fmt: skip
        for more in ({}, two):  # of which neither is the head by itself
            with pytest.raises(TriptychError, match=r"`skip=\[.fc.\]` would leave fc"):
                understand(replace(found, tensors=tensors | more))
        for more in ({}, two, {name.replace("fc", "head"): array for name, array in two.items()}):
            network = understand(replace(found, tensors=tensors | more), skip=["fc"], num_classes=3)
            assert network.spec.num_classes == 3
            assert [p.name for p in network.parameters if p.source is None] == ["fc/weight", "fc/bias"]

    def test_their_names_can_be_skipped(self):
        found = source("vgg11", "torchvision")
        tensors = {name: array for name, array in found.tensors.items() if not name.startswith("classifier.6")}
        with pytest.raises(TriptychError, match=r"`skip=\[.fc8.\]` would leave fc8 \(here classifier.6\)"):
            understand(replace(found, tensors=tensors))
        for name in ("fc8", "classifier.6"):
            assert understand(replace(found, tensors=tensors), skip=[name]).spec.name == "vgg11"

    def test_caffes_heads(self):
        """fc8_flickr, as one renames what is to be learned anew."""
        found = source("alexnet_bvlc", "caffe", num_classes=20)
        tensors = {name.replace("fc8", "fc8_flickr"): array for name, array in found.tensors.items()}
        network = understand(replace(found, tensors=tensors))
        assert (network.spec.name, network.spec.num_classes) == ("alexnet_bvlc", 20)

    def test_edits(self, tmp_path):
        tensors = {f"x.{name}": WEIGHTS[parameter] for parameter, name in NAMES.items()}
        tensors = {name.replace("x.conv2.", "second."): array for name, array in tensors.items()}
        tensors |= {"y.extra.weight": np.zeros(3, "f4")}
        found = Source(tmp_path / "a", "a file", ("torch",), tensors)
        is_ours(understand(found, reading=Reading(rename=("second=x.conv2",), ignore=("y.*",))))
        is_ours(understand(found, reading=Reading(rename=("second=x.conv2",), prefix="x.")))
        behind = {f"x.{name.replace('conv2.', 'second.')}": WEIGHTS[parameter] for parameter, name in NAMES.items()}
        with pytest.raises(TriptychError, match=r"`rename=\[.x\.second=x\.conv2.\]` would") as caught:
            understand(replace(found, tensors=behind))
        told = re.search(r"rename=\['(\S+)'", str(caught.value))[1]
        is_ours(understand(replace(found, tensors=behind), reading=Reading(rename=(told,))))
        for reading, words in (
            (Reading(rename=("third=conv2",)), "has no 'third'"),
            (Reading(rename=("third",)), "expected OLD=NEW"),
            (Reading(ignore=("z*",)), "matches no tensor"),
            (Reading(rename=("second=x.conv1",)), "the same name"),
        ):
            with pytest.raises(TriptychError, match=words):
                understand(found, reading=reading)


@pytest.mark.parametrize(
    ("convention", "architecture"),
    [
        ("torchvision before 0.1.8", "vgg11"),
        ("torchvision", "vgg11_bn"),
        ("torchvision before 0.1.8", "vgg13_bn"),
        ("timm", "vgg16"),
        ("timm", "vgg19_bn"),
        ("caffe", "lenet_bvlc"),
        ("tensorflow", "lenet_bvlc"),
        ("transformers", "resnet18"),
        ("transformers", "resnet50_v1_5"),
        ("caffe-tensorflow", "googlenet"),
        ("caffe-tensorflow", "resnet50"),
        ("slim", "vgg16"),
        ("keras.applications before 2.2.5", "resnet50"),
        ("keras.applications for Theano", "vgg16"),
    ],
)
def test_names_of_others(convention, architecture):
    """With a head of another size; dense layers that are convolutions, too."""
    found = source(architecture, convention, num_classes=4)
    network = understand(found)
    assert (network.spec.name, network.spec.num_classes) == (architecture, 4)
    assert network.preprocessing is not None
    shapes = {name: expected.shapes[-1] for name, expected in _candidate(convention, architecture, 4).expected.items()}
    tensors = {name: np.broadcast_to(np.float32(0.5), shape) for name, shape in shapes.items()}
    assert understand(replace(found, tensors=tensors)).spec.name == architecture


def test_spelled_as_in_their_files():
    def names(convention, architecture):
        return set(CONVENTIONS[convention].names(get_spec(architecture)).values())

    assert {"classifier.1.weight", "classifier.4.bias", "classifier.6.weight"} <= names(
        "torchvision before 0.1.8", "vgg11"
    )
    assert {"pre_logits.fc1.weight", "head.fc.bias", "features.28.weight"} <= names("timm", "vgg16")
    assert {
        "resnet.encoder.stages.3.layers.2.layer.2.normalization.running_var",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
    } <= names("transformers", "resnet50_v1_5")
    assert {"inception_3a_5x5_reduce/weight", "conv1_7x7_s2/bias"} <= names("caffe-tensorflow", "googlenet")
    assert {"Mixed_5b/Branch_2/Conv2d_0a_3x3/weight", "Mixed_4b/Branch_3/Conv2d_0b_1x1/BatchNorm/beta"} <= names(
        "slim", "googlenet_bn"
    )
    assert {"block4/unit_3/bottleneck_v1/conv3/BatchNorm/gamma", "logits/bias"} <= names("slim", "resnet50_v1_5")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_any_network_may_be_named(convention):
    """`--arch` tries what nobody published under these names, too: each parameter has one of its own there."""
    for name in list_architectures():
        spec = get_spec(name)
        names = CONVENTIONS[convention].names(spec)
        assert names.keys() == spec.parameter_shapes.keys()
        assert len(set(names.values())) == len(names)


def test_the_network_of_a_dict_of_layers_can_be_named():
    """The file of BVLC's AlexNet, which may be CaffeNet; or neither."""
    found = replace(source("caffenet", "tensorflow"), conventions=read_source(DATA / "python2_list.npy").conventions)
    for name in ("alexnet_bvlc", "caffenet"):
        assert understand(found, name).spec.name == name
    for name in ("vgg16", "densenet121", "lenet5"):
        with pytest.raises(TriptychError, match=f"is not {name} as|no tensors of {name}"):
            understand(found, name)


def test_tensorpack(tmp_path):
    """Its names, with the numbers that training leaves between them; how it pads and strides they do not tell."""
    found = source("resnet50_v1_5", "tensorpack", num_classes=3)
    assert {"conv0/bn/gamma", "group3/block2/conv3/weight", "group1/block0/convshortcut/bn/mean", "linear/bias"} <= set(
        found.tensors
    )
    with pytest.raises(TriptychError, match=r"another network .*: it is tensorpack's ResNet"):
        understand(found)
    network = understand(found, "resnet50_v1_5", reading=Reading(force=True))
    assert network.preprocessing is None
    arrays = {"conv0/W:0": np.ones((7, 7, 3, 64), "f4"), "conv0/bn/variance/EMA:0": np.ones(64, "f4")}
    np.savez(tmp_path / "a.npz", **arrays, **{"global_step:0": np.int64(7), "learning_rate:0": np.float32(0.1)})
    read = read_source(tmp_path / "a.npz")
    assert sorted(read.tensors) == ["conv0/bn/variance", "conv0/weight"]
    assert read.notes == ("left aside, being numbers of no layer: global_step:0, learning_rate:0",)


def test_another_network_is_not_ported_as_one(tmp_path, monkeypatch, capsys):
    """slim's ResNet strides elsewhere; CaffeNet pools before it normalises. With --force, every use says so again."""
    found = source("resnet50_v1_5", "slim", num_classes=3)
    with pytest.raises(
        TriptychError, match=r"another network .`architecture='resnet50_v1_5'` `force=True` .*: it is slim's ResNet v1"
    ):
        understand(found)
    with pytest.raises(TriptychError, match="`force=True`"):
        understand(found, "resnet50_v1_5")
    network = understand(found, "resnet50_v1_5", reading=Reading(force=True))
    assert any("taken by force" in note for note in network.notes)
    small = replace(
        Source(tmp_path / "a", "a file", ("torch",), {NAMES[name]: array for name, array in WEIGHTS.items()}),
        departures=("it is another",),
    )
    from common.porting import port as porting

    monkeypatch.setattr(porting, "read_source", lambda path: small)
    out = tmp_path / "b.safetensors"
    with pytest.raises(TriptychError, match="it is another"):
        port(tmp_path / "a", Target("safetensors", out), verify=False)
    assert not out.exists()
    port(tmp_path / "a", Target("safetensors", out), architecture=SMALL, reading=Reading(force=True), verify=False)
    again = understand(read_source(out))
    assert any("by force" in note and "it is another" in note for note in again.notes)
    monkeypatch.undo()
    assert run(monkeypatch, "show", out, "--json") in (0, None)
    assert any("it is another" in note for note in json.loads(capsys.readouterr().out)["notes"])


class TestCaffeNet:
    """It has the parameters of BVLC's AlexNet, and pools before it normalises, where that normalises first."""

    @pytest.mark.parametrize("order", [("norm1", "pool1"), ("pool1", "norm1")])
    def test_the_layers_of_a_caffemodel_tell_them_apart(self, order, tmp_path):
        layers = {"norm1": "LRN", "pool1": "Pooling", "pool2": "Pooling"}
        (tmp_path / "x").write_bytes(
            caffe(field(7, field(1, 3)) + field(5, bytes(12)))
            + b"".join(field(100, field(1, n.encode()) + field(2, layers[n].encode())) for n in (*order, "pool2"))
        )
        shown = {"architecture": "caffenet" if order[0] == "pool1" else "alexnet_bvlc"}
        assert read_source(tmp_path / "x").metadata == shown
        found = replace(source("caffenet", "caffe"), metadata=shown)
        network = understand(found)
        assert network.spec.name == shown["architecture"]
        assert network.preprocessing == network.spec.preprocessing
        assert not any("unless the architecture is named" in note for note in network.notes)

    def test_what_a_file_shows_is_not_overruled_without_force(self):
        found = replace(source("caffenet", "caffe"), metadata={"architecture": "caffenet"})
        with pytest.raises(
            TriptychError, match=r"`architecture=.alexnet_bvlc.` `force=True` .*: it is caffenet, which has the same"
        ):
            understand(found, "alexnet_bvlc")
        network = understand(found, "alexnet_bvlc", reading=Reading(force=True))
        assert any("taken by force, though it is caffenet" in note for note in network.notes)

    @pytest.mark.parametrize("convention", ["tensorflow", "caffe"])
    def test_where_nothing_tells_them_apart_it_is_said(self, convention):
        network = understand(source("caffenet", convention))
        assert network.spec.name == "alexnet_bvlc"
        assert any("nothing in it distinguishes alexnet_bvlc from caffenet" in note for note in network.notes)
        for name in ("alexnet_bvlc", "caffenet"):
            network = understand(source("caffenet", convention), name)
            assert (network.spec.name, network.notes) == (name, ())

    def test_what_was_presumed_is_said_of_the_ported_file_too(self, tmp_path):
        """Whatever it becomes, and once more from there."""
        before = tmp_path / "a.npz"
        np.savez(before, **source("caffenet", "tensorflow").tensors)
        for number in range(2):
            after = Target("safetensors", tmp_path / f"{number}.safetensors")
            report = port(before, after, verify=False)
            assert sum("nothing in it distinguishes alexnet_bvlc from caffenet" in note for note in report.notes) == 1
            before = after.path
        notes = understand(read_source(before)).notes
        assert sum("were ported from: nothing in it distinguishes alexnet_bvlc from" in note for note in notes) == 1


@pytest.mark.parametrize(("folded", "taken_for"), [(True, "vgg11"), (False, "vgg11_bn")])
def test_a_folded_vgg_is_a_vgg(folded, taken_for):
    """Both skeletons fit, and so does the function; that without batch normalisations is what the file has."""
    from common.porting.graph_matches import identify
    from common.porting.skeletons import skeleton

    match = identify(Path("a"), "ONNX model", [skeleton(get_spec("vgg11_bn"), "fc8", folded=folded)], None)
    assert (match.spec.name, match.alternatives) == (taken_for, ())


@pytest.mark.parametrize("convention", ["torchvision", "timm"])
def test_a_folded_vgg_is_told_by_its_names(convention):
    from common.porting.graph_matches import identify
    from common.porting.onnx_files import _carried
    from common.porting.skeletons import skeleton

    told = []
    for name in ("vgg11_bn", "vgg11"):
        spec = get_spec(name)
        node = head = skeleton(spec, "fc8", folded=True)
        while node.kind != "image":
            node.name = CONVENTIONS[convention].layer(spec, node.name)
            node.parameters = {"weight": (f"{node.name}.weight", None)}
            (node,) = node.inputs
        told.append(_carried(identify(Path("a"), "ONNX model", [head], None)))
    assert [len(notes) for notes in told] == [1, 0]
    assert "those of vgg11_bn" in told[0][0]
    assert "ported as vgg11" in told[0][0]


def test_the_nearest_resnet_strides_in_kernels_of_the_same_size():
    """Slim's ResNet strides in the last block of a stage, with a kernel of 3×3, as v1.5 does in the first."""
    from common.porting.graph_matches import identify
    from common.porting.skeletons import pairs, skeleton

    head = skeleton(get_spec("resnet50_v1_5"), "fc")
    for mine, node in pairs(head, head):
        block = re.fullmatch(r"conv(\d)_block(\d)/(conv2|shortcut_conv)", mine.name)
        if block:
            last = block[3] == "conv2" and (block[1], block[2]) in (("2", "3"), ("3", "4"), ("4", "6"))
            node.numbers = ((2, 2) if last else (1, 1), node.numbers[1])
    match = identify(Path("a"), "frozen TensorFlow graph", [head], None)
    assert match.spec.name == "resnet50_v1_5"
    assert match.departures


class TestPreparation:
    def test_it_is_never_guessed(self, tmp_path, monkeypatch, capsys):
        """Neither by classify nor in what is ported; what the user says is kept."""
        from importlib.resources import files

        write_weights_file(tmp_path / "a.safetensors", WEIGHTS)
        image = str(files("skimage.data") / "chelsea.png")
        assert run(monkeypatch, "classify", image, "--weights", tmp_path / "a.safetensors") == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "state the preprocessing: torchvision|caffe|keras-torch|keras-tf" in err
        for target in (Target("safetensors", tmp_path / "b.safetensors"), Target("onnx", tmp_path / "b.onnx")):
            report = port(tmp_path / "a.safetensors", target, verify=False)
            assert report.preprocessing is None
            assert any("nothing says how to prepare photographs" in note for note in report.notes)
            assert "preprocessing" not in read_source(target.path).metadata
        recipe = Preprocessing("L", (1.0,), (2.0,))
        port(tmp_path / "a.safetensors", target, reading=Reading(preprocessing=recipe.as_json()), verify=False)
        assert understand(read_source(target.path)).preprocessing == recipe
        assert run(monkeypatch, "classify", image, "--weights", target.path, "--json") in (0, None)
        answer = json.loads(capsys.readouterr().out)
        assert answer["preprocessing"] == {"channels": "L", "mean": [1.0], "scale": [2.0]}
        assert isinstance(answer["notes"], list)

    @pytest.mark.parametrize(
        ("architecture", "convention", "expected"),
        [
            ("vgg11", "torchvision", "torchvision"),
            ("resnet18", "transformers", "torchvision"),
            ("vgg16", "keras.applications", "caffe"),
            ("densenet121", "keras.applications", "keras-torch"),
            ("googlenet_bn", "torchvision", None),
            ("vgg16", "canonical", None),
            ("resnet18", "torch", None),
            ("resnet18", "keras", None),
            ("lenet5", "tensorflow", None),
            ("resnet18", "tensorpack", None),
            ("vgg19_bn", "timm", "torchvision"),
        ],
    )
    def test_what_names_prove(self, architecture, convention, expected):
        recipe = CONVENTIONS[convention].recipe(get_spec(architecture))
        assert recipe == (NAMED[expected] if expected else None)

    @pytest.mark.parametrize("text", ["torchvison", "{", '{"channels": "RGB", "mean": [0, 0, NaN], "scale": [1, 1, 1]}',
                                      '{"channels": "L", "mean": [0], "scale": [1]}'])  # fmt: skip
    def test_what_is_no_preparation_is_refused(self, text):
        with pytest.raises(TriptychError):
            understand(source("resnet18", "torchvision"), reading=Reading(preprocessing=text))

    def test_a_grey_network_takes_no_colours(self):
        with pytest.raises(TriptychError, match="takes L"):
            understand(source(SMALL, "canonical"), reading=Reading(preprocessing="torchvision"))


class TestOnnxImages:
    """A normalisation inside the graph becomes the preparation, exactly, or the file is refused."""

    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, tmp_path_factory):
        onnx = pytest.importorskip("onnx")
        torch_impl = load_implementation("torch_impl")
        path = tmp_path_factory.mktemp("onnx") / "a.onnx"
        torch_impl.export_onnx(torch_impl.build("resnet18", num_classes=3), path)
        model = onnx.load(path)
        del model.metadata_props[:]
        return model

    def read(self, exported, tmp_path, *steps):
        """The model with nodes in front of the first: (operator, constant), (operator, constant first)."""
        import onnx
        from onnx import helper, numpy_helper

        model = onnx.ModelProto.FromString(exported.SerializeToString())
        x = "image"
        nodes = []
        for number, (operator, constant, *attributes) in enumerate(steps):
            model.graph.initializer.append(numpy_helper.from_array(constant, f"c{number}"))
            nodes.append(helper.make_node(operator, [x, f"c{number}"], [f"x{number}"], **dict(attributes)))
            x = f"x{number}"
        (first,) = (node for node in model.graph.node if node.op_type == "Conv" and node.input[0] == "image")
        first.input[0] = x
        kept = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *kept])
        (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
        return read_source(tmp_path / "b.onnx")

    MEAN = np.array([0.485, 0.456, 0.406], "f4").reshape(3, 1, 1)
    STD = np.array([0.229, 0.224, 0.225], "f4").reshape(1, 3, 1, 1)

    def test_pixels(self, exported, tmp_path):
        found = self.read(exported, tmp_path, ("Div", np.float32(255)), ("Sub", self.MEAN), ("Div", self.STD))
        recipe = understand(found).preprocessing
        assert recipe.channels == "RGB"
        assert recipe.mean == pytest.approx([float(m) * 255 for m in self.MEAN.ravel()], rel=1e-15)
        assert recipe.scale == pytest.approx([float(s) * 255 for s in self.STD.ravel()], rel=1e-15)

    def test_colours_of_caffe(self, exported, tmp_path):
        mean = np.array([103.939, 116.779, 123.68], "f4").reshape(3, 1, 1)
        recipe = understand(self.read(exported, tmp_path, ("Sub", mean))).preprocessing
        assert (recipe.channels, recipe.scale) == ("BGR", (1.0, 1.0, 1.0))
        flip = ("Gather", np.array([2, 1, 0]), ("axis", 1))
        assert understand(self.read(exported, tmp_path, flip, ("Sub", mean))).preprocessing == recipe

    @pytest.mark.parametrize("steps", [[("Mul", np.float32(1 / 127.5)), ("Sub", np.float32(1))],
                                       [("Sub", np.full((3, 1, 1), 0.5, "f4"))]])  # fmt: skip
    def test_what_is_not_proved_has_to_be_stated(self, exported, tmp_path, steps):
        found = self.read(exported, tmp_path, *steps)
        with pytest.raises(TriptychError, match=r"prepares the image itself.*state a preprocessing"):
            understand(found)
        assert understand(found, reading=Reading(preprocessing="keras-tf")).preprocessing == NAMED["keras-tf"]

    def test_what_is_no_preparation_makes_another_network(self, exported, tmp_path):
        found = self.read(exported, tmp_path, ("Pow", np.float32(2)))
        with pytest.raises(TriptychError, match=r"another network .*: before conv1 it has Pow"):
            understand(found)


def test_what_a_graph_shows_is_believed():
    """Keras' ResNet-50 has biases, as the tutorial's has; the graph shows which it is."""
    found = source("resnet50", "canonical")
    biases = {name.replace("weight", "bias"): np.zeros(len(array), "f4")
              for name, array in found.tensors.items() if array.ndim == 4}  # fmt: skip
    found = replace(found, tensors={**found.tensors, **biases}, metadata={"architecture": "resnet50"})
    assert understand(found).spec.name == "resnet50"


def test_words(tmp_path, monkeypatch, capsys):
    """A fresh copy helps only where bytes are missing; a message is one line of at most 400 characters."""
    (tmp_path / "text").write_text("not weights")
    with pytest.raises(TriptychError) as caught:
        read_source(tmp_path / "text")
    assert not isinstance(caught.value, Damaged)
    assert "fresh copy" not in str(caught.value)
    write_weights_file(tmp_path / "a", WEIGHTS)
    (tmp_path / "cut").write_bytes((tmp_path / "a").read_bytes()[:-100])
    with pytest.raises(Damaged, match="fresh copy"):
        read_source(tmp_path / "cut")
    write_weights_file(
        tmp_path / "b", {name: array[:, :1] if array.ndim > 1 else array for name, array in WEIGHTS.items()}
    )
    arguments = ("port", tmp_path / "b", "--arch", "resnet152", "--to", "safetensors", "--out", tmp_path / "c")
    write_weights_file(tmp_path / "b", {"conv1/weight": np.zeros((64, 3, 7, 7), "f4"), "x/weight": np.zeros(2, "f4")})
    assert run(monkeypatch, *arguments) == 2
    short = capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--verbose") == 2
    whole = capsys.readouterr().err
    assert len(short.strip()) == 400 < len(whole)
    assert short.strip().endswith("(--verbose tells the rest)")
    assert short.count("\n") == whole.count("\n") == 1


@pytest.mark.parametrize("reader", ["keras_files", "checkpoint_files"])
def test_a_reader_that_was_ended_says_nothing_of_the_file(reader, tmp_path, monkeypatch):
    """Out of time or of memory, as on a busy machine, it is no damage; a crash of the library is."""
    module = importlib.import_module(f"common.porting.{reader}")
    path = tmp_path / "a"
    path.write_bytes(HDF5 if reader == "keras_files" else b"")
    (tmp_path / "a.index").write_bytes(b"")
    read = module.read_checkpoint if reader == "checkpoint_files" else read_source
    for failure, damaged in (
        (ProcessFailure("no answer within 300 s"), False),
        (ProcessFailure("the process was killed by SIGKILL (out of memory?)", status=-9), False),
        (ProcessFailure("the process was killed by SIGSEGV", status=-11), True),
    ):
        monkeypatch.setattr(module, "ask", Mock(side_effect=failure))
        with pytest.raises(TriptychError, match=f"failed on it: {re.escape(str(failure))}") as caught:
            read(path)
        assert isinstance(caught.value, Damaged) == ("fresh copy" in str(caught.value)) == damaged


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "Git LFS keeps"),
        (b"<!DOCTYPE html><html>404", "a web page"),
        (b'node {\n  name: "x"\n  op: "Placeholder"\n}', "TensorFlow as text"),
        (b'name: "a"\nlayer { name: "conv1" }', "a prototxt"),
        (b"\x12\x01" + bytes(200), "no format that is known here"),  # MXNet's: no layer of Caffe's has no name
    ],
)
def test_what_has_no_weights(content, words, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(TriptychError, match=words) as caught:
        read_source(tmp_path / "a")
    assert not isinstance(caught.value, Damaged)


def test_a_checkpoint_of_the_first_version(tmp_path):
    """One file, as slim's released ones are, or several; its name is no pattern, and no other checkpoint's prefix."""
    tf = pytest.importorskip("tensorflow").compat.v1
    weights = random_weights("lenet_caffe", seed=3)
    path = tmp_path / "x[1].ckpt"
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=array, use_resource=False) for name, array in weights.items()]
        variables.append(tf.get_variable("global_step", initializer=np.int64(7), use_resource=False))
        session.run(tf.global_variables_initializer())
        for name, sharded in ((path, False), (tmp_path / "parts", True)):
            saver = tf.train.Saver(variables, write_version=tf.train.SaverDef.V1, sharded=sharded)
            saver.save(session, str(name), write_meta_graph=False, write_state=False)
    path.with_name(f"{path.name}.index").write_bytes(b"the index of another checkpoint")
    for file in (path, tmp_path / "parts-00000-of-00001"):
        source = read_source(file)
        assert source.files == (file,)
        assert set(source.tensors) == set(weights)
        assert all(np.array_equal(source.tensors[name], weights[name]) for name in weights)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for damaged in (content[: len(content) // 2], bytes(changed)):
        path.write_bytes(damaged)
        with pytest.raises(Damaged, match=r"^cannot read .*x\[1\]\.ckpt: .*; get a fresh copy of the file$") as caught:
            read_source(path)
        assert "triptych-" not in str(caught.value)
    part = (tmp_path / "parts-00000-of-00001").rename(tmp_path / "parts-00000-of-00002")
    with pytest.raises(TriptychError, match=r"no file .*parts-00001-of-00002"):
        read_source(part)


def test_a_header_of_any_length(tmp_path):
    """One in 32 safetensors begins with the byte that pickles begin with, as the length of its header has it."""
    header = json.dumps(
        {"__metadata__": {"a": "b"}, "a/weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    )
    content = header.ljust(0x180).encode()
    (tmp_path / "a").write_bytes(len(content).to_bytes(8, "little") + content + bytes(4))
    assert read_source(tmp_path / "a").format == "safetensors"


def test_a_bias_that_an_exporter_left_out_is_0(torch, tmp_path):
    """The new exporter of PyTorch drops biases that are 0, as they are in a VGG that was not trained."""
    onnx = pytest.importorskip("onnx")
    torch_impl = load_implementation("torch_impl")
    model = torch_impl.build(SMALL)
    torch_impl.load_weights(model, {n: a if n.endswith("weight") else np.zeros_like(a) for n, a in WEIGHTS.items()})
    torch_impl.export_onnx(model, tmp_path / "a.onnx")
    exported = onnx.load(tmp_path / "a.onnx")
    for node in exported.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            del node.input[2:]
    onnx.save(exported, tmp_path / "a.onnx")
    network = understand(read_source(tmp_path / "a.onnx"))
    for name, array in WEIGHTS.items():
        assert (network.weights[name] == (array if name.endswith("weight") else 0)).all()
    assert {each.change for each in network.parameters if each.name.endswith("bias")} == {"no bias: 0"}


def test_the_nearest_network_is_chosen_by_structure():
    """A ResNet under strange names is not a GoogLeNet, though the first convolutions are the same."""
    found = source("resnet50_v1_5", "torchvision")
    tensors = {name if name.startswith("conv1.") else f"a{i}.b.c": array
               for i, (name, array) in enumerate(found.tensors.items())}  # fmt: skip
    conventions = ("torch", "torchvision")
    with pytest.raises(TriptychError, match="the shapes of resnet50"):
        understand(replace(found, tensors=tensors, conventions=conventions))


ROWS = dict(
    re.findall(r"^\| `([^`]+)` \|.*\| (?:`([^`]+)` )?\|$", (ROOT / "docs" / "porting.md").read_text(), re.MULTILINE)
)
"""Of the table in docs/porting.md: the file, and what to add to the command."""


class TestTheTable:
    """docs/porting.md: each row a file that is made here, and read with the options that the row gives."""

    @staticmethod
    def of_torch(torch, path):
        name, second = path.name, {n.replace("conv2.", "second."): t for n, t in state(torch).items()}
        other = {n: t + 1 for n, t in state(torch).items()}
        content = {
            "model.pth": state(torch, "module."),
            "model_best.pth.tar": {"epoch": 1, "state_dict": state(torch, "module."), "args": argparse.Namespace(a=1)},
            "ema.pth": {"student": other, "teacher": state(torch)},
            "average.pth": {f"net.{n}": t for n, t in other.items()} | state(torch, "ema."),
            "double.pth": state(torch, dtype="float64"),
            "backbone.pth": {n: t for n, t in state(torch).items() if not n.startswith("fc2")},
            "renamed.pth": second,
            "extra.pth": state(torch) | {"conv9.weight": torch.ones(2, 2)},
        }[name]
        torch.save(content, path, _use_new_zipfile_serialization=name != "model_best.pth.tar")

    def make(self, torch, path):
        turned = {n: conv_to_hwio(a) if a.ndim == 4 else _dense(n, a) if a.ndim == 2 else a for n, a in WEIGHTS.items()}
        if path.suffix in (".pth", ".tar"):
            self.of_torch(torch, path)
        elif path.name == "whole.pt":
            net = torch.nn.Module()
            for layer in ("conv1", "conv2", "fc1", "fc2"):
                inner = torch.nn.Module()
                for kind in ("weight", "bias"):
                    inner.register_parameter(kind, torch.nn.Parameter(torch.from_numpy(WEIGHTS[f"{layer}/{kind}"])))
                net.add_module(layer, inner)
            torch.save(net, path)
        elif path.suffix in (".npy", ".npz"):
            _write_channels_last(path.suffix[1:], path, turned)
        elif path.name == "model.safetensors":
            write_weights_file(path, WEIGHTS)
        elif path.name == "half.safetensors":
            pytest.importorskip("safetensors.torch").save_file(state(torch, dtype="bfloat16"), path)
        elif path.name == "model.h5":
            _write_channels_last("h5", path, turned)
        elif path.name == "vgg16_notop.h5":
            found = source("vgg16", "keras.applications for Theano")
            with pytest.importorskip("h5py").File(path, "w") as file:
                for name, array in found.tensors.items():
                    layer, kind = name.split("/")
                    if layer.startswith("block"):
                        file[f"{layer}/{layer}_{'W' if kind == 'weight' else 'b'}"] = np.ascontiguousarray(array)
        elif path.name == "googlenet.caffemodel":
            self.of_caffe(path)
        else:
            kind = {"model.keras": "keras", "model.onnx": "onnx", "run": "tf1", "frozen.pb": "tf1"}[path.name]
            (path.parent / "w.safetensors").write_bytes(b"")
            write_weights_file(path.parent / "w.safetensors", WEIGHTS)
            if path.name == "frozen.pb":
                self.of_tensorflow(path)
                return
            if kind == "tf1":
                path.mkdir()
            target = path / "step" if kind == "tf1" else path
            port(path.parent / "w.safetensors", Target(kind, target), verify=False)

    @staticmethod
    def of_tensorflow(path):
        implementation = load_implementation("tf1_style_impl")
        from test_frozen import frozen, written

        written(frozen(implementation.backend.tf, SMALL, WEIGHTS), path)

    @staticmethod
    def of_caffe(path):
        layers = {}
        for name, array in source("googlenet", "caffe", num_classes=2).tensors.items():
            shape = b"".join(field(1, length) for length in array.shape)
            blob = field(7, field(7, shape) + field(5, array.tobytes()))
            layers.setdefault(name.rpartition("/")[0], [array.ndim]).append(blob)
        kinds = {4: b"Convolution", 2: b"InnerProduct"}
        path.write_bytes(
            field(1, b"GoogleNet")
            + b"".join(
                field(100, field(1, layer.encode()) + field(2, kinds[ndim]) + b"".join(blobs))
                for layer, (ndim, *blobs) in layers.items()
            )
        )

    @pytest.mark.parametrize("name", ROWS)
    def test_row(self, torch, name, tmp_path):
        path = tmp_path / name
        self.make(torch, path)
        words = shlex.split(ROWS[name])
        options = {option: [b for a, b in pairwise([*words, ""]) if a == f"--{option}"] for option in
                   ("skip", "entry", "prefix", "rename", "ignore")}  # fmt: skip
        reading = Reading(
            entry=next(iter(options["entry"]), None),
            prefix=next(iter(options["prefix"]), None),
            rename=tuple(options["rename"]),
            ignore=tuple(options["ignore"]),
            round="--round" in words,
        )
        if words:
            with pytest.raises(TriptychError) as caught:
                understand(read_source(path))
            assert words[0] in with_flags(caught.value)
        network = understand(read_source(path), skip=options["skip"], reading=reading)
        assert network.spec.name == {"googlenet.caffemodel": "googlenet", "vgg16_notop.h5": "vgg16"}.get(name, SMALL)
        if network.spec.name == SMALL:
            for parameter, array in network.weights.items():
                if parameter.split("/")[0] not in options["skip"]:
                    assert np.allclose(array, WEIGHTS[parameter], rtol=2**-8 if name.startswith("half") else 0, atol=0)
