"""Porting: what others write comes out bit for bit, in every target; what does not fit is told, all at once."""

import io
import json
import pickle
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import daily, load_implementation
from hostile_files import npy

from common import TriptychError, get_spec, list_architectures, random_weights, write_weights_file
from common.layouts import conv_to_hwio, dense_to_io, per_channel_to_hwc
from common.porting.conventions import CONVENTIONS
from common.porting.formats import read_source
from common.porting.known import known_file
from common.porting.matching import Reading, understand
from common.porting.port import port
from common.porting.proof import prove
from common.porting.source import Source
from common.porting.targets import Target
from parity_tests.commands import run

DATA = Path(__file__).parent / "data"
sys.path.insert(0, str(DATA))

import make_npy  # noqa: E402


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("python2_*")))
def test_files_of_python_2(name, tmp_path):
    """Written by CPython 2.7.18 with NumPy 1.16.6; recognised under any name."""
    path = tmp_path / "weights"
    path.write_bytes((DATA / name).read_bytes())
    found = read_source(path).tensors
    assert len(found) == 2 * len(make_npy.SHAPES)
    for layer, weights, biases in make_npy.arrays():
        for kind, array in (("weight", weights), ("bias", biases)):
            assert found[f"{layer}/{kind}"].shape == array.shape
            assert found[f"{layer}/{kind}"].tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("keys", [str, str.encode])
@pytest.mark.parametrize("as_dict", [False, True])
def test_files_of_python_3(protocol, keys, as_dict, tmp_path):
    layers = {
        keys(layer): {keys("weights"): weights, keys("biases"): biases} if as_dict else [weights, biases]
        for layer, weights, biases in make_npy.arrays()
    }
    (tmp_path / "a.npy").write_bytes(npy(pickle.dumps(np.array(layers, dtype=object), protocol)))
    found = read_source(tmp_path / "a.npy").tensors
    for layer, weights, biases in make_npy.arrays():
        assert found[f"{layer}/weight"].tobytes() == weights.tobytes()
        assert found[f"{layer}/bias"].tobytes() == biases.tobytes()


def lenet_npy(path, seed=3, num_classes=10):
    """LeNet-5 in the format of bvlc_alexnet.npy, written by NumPy; its canonical weights."""
    weights = random_weights("lenet5", seed, num_classes=num_classes)
    layers = {}
    for name, array in weights.items():
        turn = {4: conv_to_hwio, 3: per_channel_to_hwc, 2: dense_to_io, 1: np.asarray}[array.ndim]
        layers.setdefault(name.split("/")[0], []).append(np.ascontiguousarray(turn(array)))
    np.save(path, np.array(layers, dtype=object))
    return weights


GREY = get_spec("lenet5").preprocessing
STATED = Reading(preprocessing=GREY.as_json())
"""A file of NumPy does not say how photographs are prepared for a LeNet; the user does."""

TARGETS = (
    ("safetensors", "a.safetensors"),
    ("torch", "a.pth"),
    ("keras", "a.keras"),
    ("keras", "a.weights.h5"),
    ("tf1", "checkpoint"),
    ("onnx", "a.onnx"),
)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "keras", "tf1", "onnx"])
def test_a_full_disk_is_told_before_anything_is_written(kind, tmp_path, monkeypatch):
    write_weights_file(tmp_path / "w.safetensors", random_weights("lenet5"))
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    path = tmp_path / f"a.{kind}"
    with pytest.raises(TriptychError, match=rf"cannot write {path}: it takes up to 1\.3 MB, and 0\.3 MB are free"):
        port(tmp_path / "w.safetensors", Target(kind, path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_what_a_framework_raises_when_it_cannot_write_is_a_sentence(tmp_path, monkeypatch):
    """PyTorch raises a RuntimeError on a full disk."""
    load_implementation("torch_impl")
    import torch

    def failing(state, path):
        raise RuntimeError("basic_ios::clear: iostream error\nmore")

    write_weights_file(tmp_path / "w.safetensors", random_weights("lenet5"))
    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(TriptychError, match=r"^cannot write a\.pth with torch: basic_ios::clear: iostream error$"):
        port(tmp_path / "w.safetensors", Target("torch", tmp_path / "a.pth"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_round_trips_through_every_target(tmp_path):
    """From each target into the next, all in a row: bit for bit, with the metadata."""
    load_implementation("torch_impl")
    path = tmp_path / "lenet.npy"
    weights = lenet_npy(path)
    for kind, name in (*TARGETS, TARGETS[0]):
        folder = tmp_path / f"{kind}_{name}"
        folder.mkdir(exist_ok=True)
        reading = STATED if path.suffix == ".npy" else None
        report = port(path, Target(kind, folder / name), reading=reading, verify=False)
        path = folder / name
        network = understand(read_source(path))
        assert network.spec.name == report.architecture == "lenet5"
        assert {n: a.tobytes() for n, a in network.weights.items()} == {n: a.tobytes() for n, a in weights.items()}
        assert network.source.metadata["verification"] == "none: --no-verify"
        assert network.preprocessing == get_spec("lenet5").preprocessing
        assert not any(parameter.error for parameter in network.parameters)


@pytest.mark.parametrize("kind", daily("keras", of=["torch", "keras", "tf1", "onnx"]))
def test_the_proof(kind, tmp_path, monkeypatch, capsys):
    """Through the command line; the report lists every tensor with its digest."""
    import hashlib

    weights, name = lenet_npy(tmp_path / "lenet.npy"), dict(TARGETS)[kind] if kind != "keras" else "a.keras"
    monkeypatch.setattr(sys, "argv", ["triptych", "port", str(tmp_path / "lenet.npy"), "--to", kind, "--json",
                                      "--out", str(tmp_path / name)])  # fmt: skip
    from common import cli

    with pytest.raises(SystemExit) as end:
        cli.main()
    report = json.loads(capsys.readouterr().out)
    assert end.value.code in (None, 0)
    assert report["proof"]["tensors"] == len(weights)
    assert report["proof"]["verdict"] in ("identical", "certified")
    assert report["source_sha256"] == hashlib.sha256((tmp_path / "lenet.npy").read_bytes()).hexdigest()
    assert {tensor["name"]: tensor["sha256"] for tensor in report["tensors"]} == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in weights.items()
    }
    assert "compared bit by bit" in read_source(tmp_path / name).metadata["verification"]


def test_one_changed_bit_is_found(tmp_path):
    load_implementation("torch_impl")
    weights = lenet_npy(tmp_path / "lenet.npy")
    weights["c3/weight"].view(np.uint32)[1, 2, 3, 4] ^= 1
    write_weights_file(tmp_path / "a.safetensors", weights)
    options = {"architecture": None, "skip": [], "num_classes": None}
    with pytest.raises(TriptychError, match=r"the target has other weights than the source: c3/weight$"):
        prove(tmp_path / "lenet.npy", options, Target("safetensors", tmp_path / "a.safetensors"))


def test_fine_tuning(tmp_path):
    """A skipped layer is initialised from its seed, with the number of classes that is asked for."""
    load_implementation("torch_impl")
    weights = lenet_npy(tmp_path / "lenet.npy")
    target = Target("torch", tmp_path / "a.pth")
    port(tmp_path / "lenet.npy", target, skip=["output"], num_classes=7, verify=False)
    found = understand(read_source(tmp_path / "a.pth")).weights
    expected = random_weights("lenet5", 0, num_classes=7)
    for name, array in found.items():
        assert array.tobytes() == (expected if name.startswith("output/") else weights)[name].tobytes()
    with pytest.raises(TriptychError, match="output/weight has shape 84×10, expected 84×7"):
        port(tmp_path / "lenet.npy", target, num_classes=7, verify=False)
    with pytest.raises(TriptychError, match="fc8, which is to be skipped, has no weights"):
        port(tmp_path / "lenet.npy", target, skip=["fc8"], verify=False)


def test_every_problem_is_told(tmp_path):
    weights = random_weights("alexnet_bvlc")
    weights["conv1/weight"] = weights["conv1/weight"].transpose(0, 2, 3, 1)
    weights["conv2/weight"] = np.zeros((256, 96, 5, 5), np.float32)
    weights["conv3/bias"][[1, 7]] = np.nan, np.inf
    weights["fc8/wieght"] = weights.pop("fc8/weight")
    with pytest.raises(TriptychError) as caught:
        understand(Source(tmp_path / "a", "safetensors", ("canonical",), weights), "alexnet_bvlc")
    message = str(caught.value)
    for words in (
        "conv1/weight has shape 96×11×11×3, expected 96×3×11×11: it looks transposed",
        "conv2/weight has shape 256×96×5×5, expected 256×48×5×5",
        "each filter reads 96 channels, not 48, as with 2 groups",
        "conv3/bias holds 2 values that are NaN or infinite",
        "fc8/weight is missing, expected 1000×4096",
        "fc8/wieght is unexpected; did you mean fc8/weight",
    ):
        assert words in message
    assert "\n" not in message


def empty(spec, convention):
    """A file of the right names and shapes, which takes no memory."""
    names = convention.names(spec)
    return {
        name: np.broadcast_to(np.float32(0), shape[::-1] if convention.channels_last and len(shape) == 2 else shape)
        for (parameter, shape), name in zip(spec.parameter_shapes.items(), names.values(), strict=True)
    }


@pytest.mark.parametrize("name", list_architectures())
def test_names_are_injective(name):
    spec = get_spec(name)
    for convention in CONVENTIONS.values():
        if name in convention.architectures:
            assert len(set(convention.names(spec).values())) == len(spec.parameter_shapes)


def test_what_fits_several_networks_has_to_be_named(tmp_path):
    source = Source(
        tmp_path / "a", "safetensors", ("canonical",), empty(get_spec("resnet18"), CONVENTIONS["canonical"])
    )
    assert understand(source).spec.name == "resnet18"
    source = replace(source, tensors=empty(get_spec("resnet50"), CONVENTIONS["canonical"]))
    with pytest.raises(TriptychError, match="fits resnet50, resnet50_v1_5, which have the same parameters"):
        understand(source)
    assert understand(source, "resnet50_v1_5").spec.name == "resnet50_v1_5"
    assert understand(replace(source, metadata={"architecture": "resnet50_v1_5"})).spec.name == "resnet50_v1_5"


def test_names_of_caffes_resnets():
    names = {name: set(CONVENTIONS["caffe"].names(get_spec(name)).values()) for name in ("resnet50", "resnet152")}
    for name in ("res4f_branch2c/weight", "bn3d_branch2a/mean", "scale2a_branch1/gamma", "bn_conv1/variance"):
        assert name in names["resnet50"]
    for name in ("res3b7_branch2a/weight", "scale4b35_branch2b/beta", "bn4a_branch1/mean", "res5c_branch2c/weight"):
        assert name in names["resnet152"]
    assert "fc1000/bias" in names["resnet50"] & names["resnet152"]


class TestCaffe:
    """Files made with the protobuf library, from a schema of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def schema(cls):
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
        field = descriptor_pb2.FieldDescriptorProto
        messages = {
            "BlobShape": [("dim", 1, field.TYPE_INT64, "packed", None)],
            "BlobProto": [
                *((name, i, field.TYPE_INT32, "optional", None)
                  for i, name in enumerate(("num", "channels", "height", "width"), 1)),
                ("data", 5, field.TYPE_FLOAT, "packed", None),
                ("diff", 6, field.TYPE_FLOAT, "packed", None),
                ("shape", 7, field.TYPE_MESSAGE, "optional", "BlobShape"),
            ],
            "LayerParameter": [
                ("name", 1, field.TYPE_STRING, "optional", None),
                ("type", 2, field.TYPE_STRING, "optional", None),
                ("bottom", 3, field.TYPE_STRING, "repeated", None),
                ("blobs", 7, field.TYPE_MESSAGE, "repeated", "BlobProto"),
            ],
            "V1LayerParameter": [
                ("bottom", 2, field.TYPE_STRING, "repeated", None),
                ("name", 4, field.TYPE_STRING, "optional", None),
                ("type", 5, field.TYPE_INT32, "optional", None),
                ("blobs", 6, field.TYPE_MESSAGE, "repeated", "BlobProto"),
            ],
            "NetParameter": [
                ("name", 1, field.TYPE_STRING, "optional", None),
                ("layers", 2, field.TYPE_MESSAGE, "repeated", "V1LayerParameter"),
                ("layer", 100, field.TYPE_MESSAGE, "repeated", "LayerParameter"),
            ],
        }  # fmt: skip
        for message, fields in messages.items():
            described = file.message_type.add(name=message)
            for name, number, kind, label, type_name in fields:
                entry = described.field.add(name=name, number=number, type=kind)
                entry.label = field.LABEL_OPTIONAL if label == "optional" else field.LABEL_REPEATED
                if label == "packed":
                    entry.options.packed = True
                if type_name:
                    entry.type_name = f".caffe.{type_name}"
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in messages}

    def test_googlenet(self, schema, tmp_path):
        """With the names of models/bvlc_googlenet, its auxiliary heads included."""
        weights = random_weights("googlenet", 5)
        spelled = CONVENTIONS["caffe"].names(get_spec("googlenet"))
        net = schema["NetParameter"](name="GoogleNet")
        layers = {}
        for name, array in weights.items():
            layer = spelled[name].rpartition("/")[0]
            kind = "Convolution" if weights[f"{name.rpartition('/')[0]}/weight"].ndim == 4 else "InnerProduct"
            if layer not in layers:
                layers[layer] = net.layer.add(name=layer, type=kind, bottom=["data"])
            blob = layers[layer].blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.reshape(-1))
        assert {"conv1/7x7_s2", "inception_4e/5x5_reduce", "loss2/fc", "loss3/classifier"} <= layers.keys()
        (tmp_path / "x").write_bytes(net.SerializeToString())
        network = understand(read_source(tmp_path / "x"))
        assert (network.spec.name, network.convention) == ("googlenet", "caffe")
        assert all(network.weights[name].tobytes() == array.tobytes() for name, array in weights.items())

    def test_old_layers(self, schema, tmp_path):
        """`layers`, whose types are numbers, with blobs of four numbers."""
        net = schema["NetParameter"](name="AlexNet")
        for name, kind, shapes in (
            ("conv1", 4, [(4, 3, 5, 2), (1, 1, 1, 4)]),
            ("fc6", 14, [(1, 1, 5, 7), (1, 1, 1, 5)]),
        ):
            layer = net.layers.add(name=name, type=kind)
            for n, c, h, w in shapes:
                blob = layer.blobs.add(num=n, channels=c, height=h, width=w)
                blob.data.extend(np.arange(n * c * h * w))
        (tmp_path / "x").write_bytes(net.SerializeToString())
        found = read_source(tmp_path / "x").tensors
        assert {name: array.shape for name, array in found.items()} == {
            "conv1/weight": (4, 3, 5, 2), "conv1/bias": (4,), "fc6/weight": (5, 7), "fc6/bias": (5,)
        }  # fmt: skip
        assert (found["fc6/weight"] == np.arange(35).reshape(5, 7)).all()

    def test_statistics_times_a_factor(self):
        """Caffe's BatchNorm keeps sums and the factor that they are to be divided by; conv1 of ResNet-50 has a bias."""
        spec = get_spec("resnet50")
        tensors = {name: np.array(array) for name, array in empty(spec, CONVENTIONS["caffe"]).items()}
        generator = np.random.default_rng(0)
        mean, variance, bias = (generator.random(64, np.float32) + np.float32(0.5) for _ in range(3))
        tensors |= {"bn_conv1/mean": mean, "bn_conv1/variance": variance, "conv1/bias": bias}
        tensors["bn_conv1/scale_factor"] = np.float32([999.98236])
        network = understand(Source(Path("a"), "Caffe model", ("caffe",), tensors))
        factor = np.float64(np.float32(999.98236))
        assert (network.weights["bn1/mean"] == (mean / factor - bias).astype(np.float32)).all()
        assert (network.weights["bn1/variance"] == (variance / factor).astype(np.float32)).all()
        errors = {parameter.name: parameter.error for parameter in network.parameters if parameter.error}
        assert errors.keys() == {"bn1/mean", "bn1/variance"}
        assert max(errors.values()) <= 2**-24


class TestTorch:
    @pytest.fixture(scope="class")
    @classmethod
    def torch(cls):
        load_implementation("torch_impl")
        return pytest.importorskip("torch")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_what_weights_only_reads(self, torch, zipped, tmp_path):
        storage = torch.arange(24.0)
        state = {
            "a": storage.reshape(2, 3, 4),
            "b": storage.reshape(4, 6).t()[1:, ::2],
            "c": torch.nn.Parameter(storage[5:9]),
            "d": torch.tensor(3),
            "e": torch.tensor(2.5),
        }
        path = tmp_path / "weights"
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        expected = torch.load(path, weights_only=True)
        found = read_source(path).tensors
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].shape == tuple(tensor.shape)
            assert found[name].tobytes() == tensor.detach().numpy().tobytes()

    def test_checkpoints_of_training(self, torch, tmp_path):
        state = {f"module.{name}": torch.ones(2) for name in ("a.weight", "a.bias")}
        torch.save({"epoch": 3, "state_dict": state}, tmp_path / "x")
        assert read_source(tmp_path / "x").tensors.keys() == {"a.weight", "a.bias"}

    @pytest.mark.parametrize("name", ["alexnet", "vgg11", "googlenet", "resnet18", "resnet50", "densenet121"])
    def test_torchvision(self, torch, name, tmp_path):
        """Its networks with random weights; ours compute the very same numbers."""
        torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
        import torch_impl

        options = {"init_weights": False} if name == "googlenet" else {}
        theirs = getattr(torchvision.models, name)(weights=None, **options).eval()
        torch.save(theirs.state_dict(), tmp_path / "x.pth")
        network = understand(read_source(tmp_path / "x.pth"))
        assert network.convention == "torchvision"
        ours = torch_impl.build(network.spec.name)
        torch_impl.load_weights(ours, network.weights)
        images = torch.randn(2, 3, 224, 224)
        with torch.no_grad():
            assert torch.equal(ours(images), theirs(images))
        target = Target("torch", tmp_path / "y.pth", "torchvision")
        port(tmp_path / "x.pth", target, verify=False)
        theirs.load_state_dict(torch.load(tmp_path / "y.pth", weights_only=True))  # strictly

    def test_torchvisions_names(self, torch):
        """As torchvision's files have them, for where it is not installed."""

        def names(architecture):
            return set(CONVENTIONS["torchvision"].names(get_spec(architecture)).values())

        assert {"features.10.weight", "classifier.6.bias"} <= names("alexnet_owt")
        assert {"features.28.weight", "classifier.3.bias"} <= names("vgg16")
        assert {"layer3.22.bn3.running_var", "layer4.0.downsample.1.weight"} <= names("resnet101_v1_5")
        assert {"inception4d.branch3.1.bn.running_mean", "conv3.conv.weight", "aux2.fc1.bias"} <= names("googlenet_bn")
        assert {
            "features.denseblock4.denselayer16.norm2.running_mean", "features.transition3.conv.weight",
            "features.norm5.bias", "classifier.weight",
        } <= names("densenet121")  # fmt: skip


@pytest.mark.slow
def test_keras_applications(tmp_path):
    """ResNet-50: biases into the means and eps into the variances, to the nearest float32; the rest bit for bit."""
    load_implementation("keras_impl")
    import keras

    model = keras.applications.ResNet50(weights=None, input_shape=(64, 96, 3), classes=11, classifier_activation=None)
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith(("moving_variance", "gamma")):
            variable.assign(generator.uniform(0.01, 2, variable.shape))
        elif variable.path.endswith(("bias", "beta", "moving_mean")):
            variable.assign(generator.normal(0, 1, variable.shape))
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    network = understand(read_source(tmp_path / "a.keras"))
    again = understand(read_source(tmp_path / "a.weights.h5"))
    assert (network.spec.name, network.convention, network.spec.num_classes) == ("resnet50", "keras.applications", 11)
    assert all((network.weights[name] == array).all() for name, array in again.weights.items())
    conv, norm = model.get_layer("conv3_block1_0_conv"), model.get_layer("conv3_block1_0_bn")
    kernel, bias = (np.asarray(variable) for variable in conv.variables)
    gamma, beta, mean, variance = (np.asarray(variable) for variable in norm.variables)
    found = {name.rpartition("/")[2]: a for name, a in network.weights.items() if "conv3_block1/shortcut_bn" in name}
    assert (network.weights["conv3_block1/shortcut_conv/weight"] == kernel.transpose(3, 2, 0, 1)).all()
    assert (found["gamma"] == gamma).all()
    assert (found["beta"] == beta).all()
    assert (found["mean"] == (mean.astype(np.float64) - bias).astype(np.float32)).all()
    assert (found["variance"] == (variance + (np.float64(1.001e-5) - 1e-5)).astype(np.float32)).all()
    rounded = {parameter.name.rpartition("/")[2] for parameter in network.parameters if parameter.error}
    assert rounded == {"mean", "variance"}
    assert max(parameter.error for parameter in network.parameters) <= 2**-24


class TestOnnx:
    @pytest.mark.parametrize(
        ("name", "architecture"),
        [
            ("light_bvlc_alexnet", "alexnet_bvlc"),
            ("light_inception_v1", "googlenet"),
            ("light_resnet50", "resnet50_v1_5"),
            ("light_densenet121", "densenet121"),
        ],
    )
    def test_graphs_of_the_onnx_package(self, name, architecture):
        """Those of the Model Zoo, with constants for weights."""
        onnx = pytest.importorskip("onnx")
        path = Path(onnx.__path__[0]) / "backend" / "test" / "data" / "light" / f"{name}.onnx"
        network = understand(read_source(path))
        assert network.spec.name == architecture
        if architecture == "alexnet_bvlc":  # the zoo's takes 224×224
            assert any("conv1" in note or "MaxPool" in note for note in network.notes), network.notes

    @pytest.mark.parametrize("architecture", ["lenet5", "resnet18", "resnet50_v1_5"])
    def test_names_do_not_matter(self, architecture, tmp_path):
        """Our own export, every name in it made meaningless, and the metadata taken away."""
        onnx = pytest.importorskip("onnx")
        torch_impl = load_implementation("torch_impl")
        weights = random_weights(architecture, 2)
        model = torch_impl.build(architecture)
        torch_impl.load_weights(model, weights)
        torch_impl.export_onnx(model, tmp_path / "a.onnx")
        proto = onnx.load(tmp_path / "a.onnx")
        del proto.metadata_props[:], proto.graph.value_info[:]
        names = {}
        for values in [t for n in proto.graph.node for t in (n.input, n.output)]:
            values[:] = [names.setdefault(value, f"v{len(names)}") for value in values]
        for entry in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
            entry.name = names[entry.name]
        for number, node in enumerate(proto.graph.node):
            node.name = str(number)
        proto.graph.name = "g"
        (tmp_path / "b").write_bytes(proto.SerializeToString())
        network = understand(read_source(tmp_path / "b"))
        assert network.spec.name == architecture
        assert all(network.weights[name].tobytes() == array.tobytes() for name, array in weights.items())

    def test_folded_batch_norms_carry_their_shift(self, tmp_path):
        """A convolution's bias becomes the shift of a normalisation whose scale is exactly 1."""
        from common.onnx.options import ExportOptions

        torch_impl = load_implementation("torch_impl")
        weights = random_weights("resnet18", 3, num_classes=5)
        model = torch_impl.build("resnet18", num_classes=5)
        torch_impl.load_weights(model, weights)
        torch_impl.export_onnx(model, tmp_path / "a.onnx", ExportOptions(fold=True))
        network = understand(read_source(tmp_path / "a.onnx"))
        found, double = network.weights, {name: array.astype(np.float64) for name, array in weights.items()}
        scale = double["bn1/gamma"] / np.sqrt(double["bn1/variance"] + np.float64(np.float32(1e-5)))
        folded = (double["conv1/weight"] * scale[:, None, None, None]).astype(np.float32)
        assert (found["conv1/weight"] == folded).all()
        assert (found["bn1/beta"] == (double["bn1/beta"] - double["bn1/mean"] * scale).astype(np.float32)).all()
        assert (found["bn1/gamma"] / np.sqrt(found["bn1/variance"] + np.float32(1e-5)) == 1).all()
        assert not found["bn1/mean"].any()
        assert any("folded" in note for note in network.notes)


def test_classify(tmp_path, monkeypatch, capsys):
    """The same five classes, in the same order, from PyTorch and from its export, out of a file of any format."""
    from importlib.resources import files

    from common import cli

    load_implementation("torch_impl")
    lenet_npy(tmp_path / "lenet.npy")
    (tmp_path / "labels").write_text("\n".join(f"digit {i}" for i in range(10)))
    image = str(files("skimage.data") / "chelsea.png")
    answers = {}
    for backend in ("torch", "onnx-torch"):
        given = ["--weights", tmp_path / "lenet.npy", "--backend", backend, "--labels", tmp_path / "labels"]
        given += ["--preprocessing", GREY.as_json()]
        monkeypatch.setattr(sys, "argv", list(map(str, ["triptych", "classify", image, *given, "--json"])))
        with pytest.raises(SystemExit):
            cli.main()
        answers[backend] = json.loads(capsys.readouterr().out)
    first, second = (answer["images"][0]["classes"] for answer in answers.values())
    assert [guess["number"] for guess in first] == [guess["number"] for guess in second]
    assert len(first) == 5
    assert first[0]["label"] == f"digit {first[0]['number']}"
    assert sum(guess["probability"] for guess in first) <= 1
    (tmp_path / "labels").write_text("one\ntwo")
    assert (
        run(monkeypatch, "classify", image, "--weights", tmp_path / "lenet.npy", "--labels", tmp_path / "labels") == 2
    )
    assert "has 2 labels, but lenet5 has 10 classes" in capsys.readouterr().err


def test_preprocessing_follows_the_origin():
    specs = {name: get_spec(name) for name in ("vgg16", "resnet18", "densenet121", "googlenet_bn", "alexnet_bvlc")}
    recipes = {
        (convention, name): CONVENTIONS[convention].recipe(specs[name])
        for convention, name in (("torchvision", "vgg16"), ("torchvision", "resnet18"), ("caffe", "vgg16"),
                                 ("keras.applications", "vgg16"), ("tensorflow", "alexnet_bvlc"))
    }  # fmt: skip
    assert recipes["torchvision", "vgg16"] == recipes["torchvision", "resnet18"] == specs["densenet121"].preprocessing
    assert recipes["caffe", "vgg16"] == recipes["keras.applications", "vgg16"]
    assert recipes["caffe", "vgg16"].channels == recipes["tensorflow", "alexnet_bvlc"].channels == "BGR"
    assert recipes["torchvision", "vgg16"].channels == "RGB"


def test_public_files():
    assert known_file("397923af" + "0" * 56) == "vgg16-397923af.pth of torchvision"
    assert known_file("6b0da9510f27f234ee96a85dc3809dd210150fdefad87f6850f9788513216945") is not None
    assert known_file("0" * 64) is None


def test_shape_in_a_header_of_python_2(tmp_path):
    """Python 2 put an L after a long integer."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + np.arange(6, dtype="<f4").tobytes()
    buffer = io.BytesIO()
    import zipfile

    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("fc6_W.npy", content)
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert read_source(tmp_path / "x").tensors["fc6/weight"].shape == (2, 3)
