"""10,000 random corruptions of valid files: refused in one sentence, or read as an independent reader reads them."""

import argparse
import collections
import io
import pickle
import random
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hostile_files import AXIS, CONV, IMAGE, KERNEL, caffe, field, tf_node, valid_npy

from common import TriptychError
from common.porting.formats import read_source

LAYERS = ("conv1", "conv2", "fc8")


def corrupt(content, generator):
    """Flip bits, overwrite, delete, insert, repeat or cut off, once or a few times."""
    content = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        place = generator.randrange(len(content))
        length = generator.choice((1, 1, 2, 4, 8, 64))
        kind = generator.randrange(7)
        if kind <= 1:
            content[place] ^= 1 << generator.randrange(8)
        elif kind == 2:
            content[place : place + length] = generator.randbytes(length)
        elif kind == 3:
            del content[place : place + length]
        elif kind == 4:
            content[place:place] = generator.randbytes(length)
        elif kind == 5:
            content[place:place] = content[place : place + length]
        else:
            del content[place:]
        if not content:
            return b"\0"
    return bytes(content)


def flat_weights():
    return {
        f"{layer}/{kind}": np.arange(12, dtype=np.float32).reshape(shape) + number
        for number, layer in enumerate(LAYERS)
        for kind, shape in (("weight", (2, 3, 2)), ("bias", (12,)))
    }


def read(path):
    """The tensors, or the sentence of the refusal."""
    try:
        return read_source(path).tensors, ""
    except TriptychError as error:
        return None, str(error)


def read_by(reference, content):
    """What another reader makes of a file; nothing if it fails."""
    try:
        return reference(content)
    except (TypeError, ValueError):
        return {}


class Unpickler(pickle._Unpickler):
    """Python's own, in Python, which may call only what rebuilds arrays."""

    def find_class(self, module, name):
        allowed = {"_reconstruct": np._core.multiarray._reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module not in ("numpy", "numpy.core.multiarray") or name not in allowed:
            raise pickle.UnpicklingError(name)
        return allowed[name]


def reference_npy(content):
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    layers = Unpickler(file, encoding="latin1").load().reshape(-1)[0]
    return {f"{k}/{kind}": a for k, pair in layers.items() for kind, a in zip(("weight", "bias"), pair, strict=False)}


def reference_npz(content):
    names = {"W": "weight", "b": "bias"}
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {f"{name[:-2]}/{names[name[-1]]}": file[name] for name in file.files}


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, **{name.replace("/weight", "_W").replace("/bias", "_b"): a for name, a in flat_weights().items()})
    return buffer.getvalue()


def caffe_net():
    shape = b"".join(field(1, length) for length in (2, 3, 2, 1))
    return caffe(field(7, shape) + field(5, np.arange(12, dtype="<f4").tobytes()))


def reference_caffe(content):
    """None that could be had here; the test looks for the weights in the file instead."""
    return {}


def frozen_graph():
    return b"".join((IMAGE, KERNEL, CONV, AXIS, tf_node("z", "Relu", "y")))


FILES = {
    "npy": (valid_npy(), reference_npy, 4000),
    "npz": (npz(), reference_npz, 1000),
    "safetensors": (safetensors.numpy.save(flat_weights()), safetensors.numpy.load, 2500),
    "caffe": (caffe_net(), reference_caffe, 1000),
}
CHECKPOINTS = {"pickle": 600, "legacy": 700}
GRAPHS = 200


def read_or_refused(path, corrupted):
    """The tensors in these bytes, or None where they are refused, in a sentence."""
    path.write_bytes(corrupted)
    found, sentence = read(path)
    path.unlink()
    if found is None:
        assert "\n" not in sentence
        assert len(sentence) < 1000
    return found


@pytest.mark.parametrize("kind", FILES)
def test_corruptions(kind, tmp_path):
    content, reference, count = FILES[kind]
    generator = random.Random(kind)
    accepted = alone = 0
    for number in range(count):
        corrupted = corrupt(content, generator)
        found = read_or_refused(tmp_path / f"{number}", corrupted)
        if found is None:
            continue
        accepted += 1
        expected = read_by(reference, corrupted)
        if not expected:  # no reference, or one that stumbles over what no tensor is made of
            alone += 1
            assert all(array.tobytes() in corrupted or array.T.tobytes() in corrupted for array in found.values())
            continue
        assert found.keys() == expected.keys(), number
        for name, array in found.items():
            assert array.shape == expected[name].shape, (number, name)
            assert array.dtype == expected[name].dtype, (number, name)
            assert array.tobytes() == expected[name].tobytes(), (number, name)
    assert accepted < count  # corruptions of the numbers themselves leave a valid file, most others do not
    assert reference is reference_caffe or alone <= count // 1000


class Trap:
    """What runs if a pickle is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def checkpoint(torch, path, zipped):
    """What training leaves: weights, an optimiser's moments by number, arguments, and something that means harm."""
    state = collections.OrderedDict((name, torch.from_numpy(array)) for name, array in flat_weights().items())
    content = {
        "epoch": 3,
        "state_dict": state,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "args": argparse.Namespace(lr=0.1, parts={1, 2}),
        "best": np.float64(0.5),
        "trap": Trap(path.with_name("touched")),
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


def with_pickle(content, change):
    """A zip file of PyTorch whose pickle is changed, and its checksum with it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


class Inert(dict):
    """Stands for every class, and only keeps what is put in."""

    __hash__ = object.__hash__

    def __init__(self, *arguments):
        super().__init__()

    def __call__(self, *arguments):
        return Inert()

    def __setstate__(self, state):
        pass

    def append(self, value):
        pass

    add = append


class InertUnpickler(pickle._Unpickler):
    """Python's own, in Python, which makes tensors and dicts, and nothing of everything else."""

    storage = staticmethod(lambda key: b"")

    def find_class(self, module, name):
        return {"_rebuild_tensor_v2": self.tensor, "OrderedDict": collections.OrderedDict}.get(name, Inert)

    def persistent_load(self, reference):
        return np.frombuffer(self.storage(reference[2]), "<f4")

    def tensor(self, array, offset, shape, strides, *rest):
        steps = [4 * stride for stride in strides]
        return np.lib.stride_tricks.as_strided(array[offset:], shape, steps, writeable=False)


def reference_pickle(content):
    """Every dict of tensors in a zip file of PyTorch."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("data.pkl"))
        unpickler = InertUnpickler(io.BytesIO(archive.read(name)), encoding="utf-8")
        unpickler.storage = lambda key: archive.read(f"{name.removesuffix('data.pkl')}data/{key}")
        found, waiting = [], [unpickler.load()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found.append({name: each for name, each in value.items() if isinstance(each, np.ndarray)})
            waiting += value.values()
    return found


def test_frozen_graphs(tmp_path):
    """A graph of TensorFlow that is no network of the catalogue, in whatever way it is broken."""
    content, generator = frozen_graph(), random.Random("frozen")
    sentences = set()
    for _ in range(GRAPHS):
        (tmp_path / "a").write_bytes(corrupt(content, generator))
        found, sentence = read(tmp_path / "a")
        assert found is None
        assert "\n" not in sentence
        assert len(sentence) < 1000
        sentences.add(sentence)
    assert len(sentences) > 10


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints(kind, tmp_path):
    """Never a traceback, never more memory than is due, nothing run; and what is read is what another reader reads."""
    torch = pytest.importorskip("torch")
    content = checkpoint(torch, tmp_path / "valid", zipped=kind == "pickle")
    valid = read_source(tmp_path / "valid").tensors
    assert {name: array.tobytes() for name, array in flat_weights().items()} == {
        name: array.tobytes() for name, array in valid.items()
    }
    generator = random.Random(kind)
    accepted = alone = 0
    tracemalloc.start()
    for number in range(CHECKPOINTS[kind]):
        if kind == "pickle":
            corrupted = with_pickle(content, lambda data: corrupt(data, generator))
        else:
            corrupted = corrupt(content, generator)
        found = read_or_refused(tmp_path / "corrupted", corrupted)
        if found is None:
            continue
        accepted += 1
        if kind == "legacy":
            assert all(array.tobytes() in corrupted for array in found.values() if array.flags.c_contiguous), number
            continue
        try:
            collections_of_tensors = reference_pickle(corrupted)
        except Exception:  # whatever Python stumbles over
            alone += 1
            continue
        as_bytes = {name: (array.shape, array.tobytes()) for name, array in found.items() if array.dtype == np.float32}
        assert as_bytes in [
            {name: (array.shape, array.tobytes()) for name, array in each.items() if name in as_bytes}
            for each in collections_of_tensors
        ], number
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < accepted < CHECKPOINTS[kind]
    assert alone <= accepted // 5
    assert peak < 40_000_000
    assert not (tmp_path / "touched").exists()


def test_there_are_ten_thousand():
    assert sum(count for _, _, count in FILES.values()) + sum(CHECKPOINTS.values()) + GRAPHS == 10_000


def test_the_files_are_valid(tmp_path):
    for kind, (content, reference, _) in FILES.items():
        path = tmp_path / kind
        path.write_bytes(content)
        found = read_source(path).tensors
        for name, array in reference(content).items():
            assert found[name].tobytes() == array.tobytes()


def test_a_zip_entry_is_checked_against_its_checksum(tmp_path):
    content = bytearray(npz())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        place = archive.getinfo("conv1_W.npy").header_offset + 200
    content[place] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(TriptychError, match="checksum"):
        read_source(tmp_path / "a.npz")
