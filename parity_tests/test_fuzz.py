"""10,000 random corruptions of valid files: refused in one sentence, or read as an independent reader reads them."""

import io
import pickle
import random
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hostile_files import caffe, field, valid_npy

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


FILES = {
    "npy": (valid_npy(), reference_npy, 4000),
    "npz": (npz(), reference_npz, 2000),
    "safetensors": (safetensors.numpy.save(flat_weights()), safetensors.numpy.load, 3000),
    "caffe": (caffe_net(), reference_caffe, 1000),
}


@pytest.mark.parametrize("kind", FILES)
def test_corruptions(kind, tmp_path):
    content, reference, count = FILES[kind]
    generator = random.Random(kind)
    accepted = alone = 0
    for number in range(count):
        path = tmp_path / f"{number}"
        corrupted = corrupt(content, generator)
        path.write_bytes(corrupted)
        found, sentence = read(path)
        path.unlink()
        if found is None:
            assert "\n" not in sentence
            assert len(sentence) < 1000
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
    assert kind == "caffe" or alone <= count // 1000


def test_there_are_ten_thousand():
    assert sum(count for _, _, count in FILES.values()) == 10_000


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
