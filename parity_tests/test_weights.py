"""Layouts, weights and their files."""

import numpy as np
import pytest
from safetensors import safe_open

from common import TriptychError, layouts, random_weights, read_weights_file, write_weights_file
from common.operations import same_padding
from common.specs import get_spec
from common.weights import check_weights, map_weights_file, weights_sha256


def counting(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_layouts_are_inverses():
    image, conv, dense = counting(2, 3, 4, 5), counting(6, 3, 4, 5), counting(7, 60)
    assert (layouts.to_channels_first(layouts.to_channels_last(image)) == image).all()
    assert (layouts.conv_from_hwio(layouts.conv_to_hwio(conv)) == conv).all()
    for flattened in (None, (4, 5, 3)):
        assert (layouts.dense_from_io(layouts.dense_to_io(dense, flattened), flattened) == dense).all()


@pytest.mark.parametrize("shape", [(1, 5, 3), (70, 300, 36), (3, 7000, 129)])
def test_an_array_is_turned_tile_by_tile(shape):
    """Also where tiles do not fit evenly, numbers lie misaligned, or nothing lies in memory."""
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    misaligned = np.frombuffer(b"x" + array.tobytes(), np.float32, offset=1).reshape(shape)
    for given in (array, misaligned, array[:, ::-1], array.astype(">f4")):
        found = layouts.turned(given)
        assert found.flags.c_contiguous
        assert found.dtype == np.float32
        assert (found == given.transpose(2, 1, 0)).all()
    empty = layouts.turned(np.broadcast_to(np.float32(0), shape))
    assert (empty.shape, any(empty.strides)) == (shape[::-1], False)


def test_a_dense_layer_behind_a_flatten_is_the_same_function_in_both_layouts():
    image, dense = counting(2, 3, 4, 5), counting(7, 60)
    last = layouts.to_channels_last(image).reshape(2, -1)
    assert (last @ layouts.dense_to_io(dense, (4, 5, 3)) == image.reshape(2, -1) @ dense.T).all()
    assert (layouts.flat_to_channels_first(last, (4, 5, 3)) == image.reshape(2, -1)).all()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((224, 224), (7, 7), (2, 2), ((2, 3), (2, 3))),
        ((112, 56), (3, 3), (2, 2), ((0, 1), (0, 1))),
        ((13, 14), (5, 3), (1, 1), ((2, 2), (1, 1))),
        ((227, 227), (11, 11), (4, 4), ((4, 4), (4, 4))),
        ((6, 6), (2, 2), (3, 3), ((0, 0), (0, 0))),
    ],
)
def test_same_padding(size, kernel, stride, padding):
    assert same_padding(size, kernel, stride) == padding


def test_random_weights_depend_on_the_seed_and_the_name_only():
    first, again, other = (random_weights("lenet_caffe", seed) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["conv1/weight"] == other["conv1/weight"]).any()
    assert {name: array.shape for name, array in first.items()} == get_spec("lenet_caffe").parameter_shapes
    assert {array.dtype for array in first.values()} == {np.dtype(np.float32)}


def test_a_file_gives_back_what_went_in(tmp_path):
    weights = {"conv1/weight": counting(2, 3, 4, 5).transpose(0, 1, 3, 2), "conv1/bias": np.float32([-0.0, 1e-40])}
    write_weights_file(tmp_path / "w.safetensors", weights, metadata={"architecture": "small"})
    found = read_weights_file(tmp_path / "w.safetensors")
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_a_mapped_file_is_what_is_read_and_stays_as_it_was(tmp_path):
    write_weights_file(tmp_path / "a.safetensors", random_weights("lenet5", seed=3), metadata={"of": "a test"})
    before = (tmp_path / "a.safetensors").read_bytes()
    read, mapped = read_weights_file(tmp_path / "a.safetensors"), map_weights_file(tmp_path / "a.safetensors")
    assert read.keys() == mapped.keys()
    for name, array in read.items():
        assert (array.dtype, array.shape, array.tobytes()) == (
            mapped[name].dtype,
            mapped[name].shape,
            mapped[name].tobytes(),
        )
        mapped[name][...] = 1
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """The library's writer puts metadata in another order each time."""
    weights = random_weights("lenet5")
    metadata = {"é": "ü 漢 \x7f", "tab": '\t\n\b\x01"\\/', **{f"key {number}": str(number) for number in range(8)}}
    written = set()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        write_weights_file(path, weights, metadata=metadata)
        written.add(path.read_bytes())
        with safe_open(path, framework="numpy") as file:
            assert file.metadata() == {**metadata, "format": "triptych"}
        assert weights_sha256(read_weights_file(path)) == weights_sha256(weights)
    assert len(written) == 1


def test_nothing_half_written_is_left(tmp_path):
    with pytest.raises(TriptychError, match="cannot write"):
        write_weights_file(tmp_path / "missing" / "w.safetensors", {})
    with pytest.raises(TriptychError, match="cannot write"):
        write_weights_file(tmp_path / "w.safetensors", {"a": np.array(["text"])})
    with pytest.raises(TriptychError, match="is a folder"):
        write_weights_file(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(TriptychError, match="cannot read"):
        read_weights_file(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TriptychError, match="there is no weights file"):
        read_weights_file(tmp_path / "w.safetensors")


def test_every_problem_is_named_at_once():
    expected = {"conv1/weight": (2, 3), "conv1/bias": (2,), "fc8/weight": (4, 2), "fc8/bias": (4,), "fc9/bias": (1,)}
    weights = {
        "conv1/weight": np.zeros((3, 2), np.float32),
        "conv1/bias": np.float32([np.nan, 1]),
        "fc8/weight": np.zeros((4, 2)),
        "fc8/bais": np.zeros(4, np.float32),
    }
    with pytest.raises(TriptychError) as caught:
        check_weights(expected, weights, skip=["fc9", "fc7"])
    message = str(caught.value)
    for words in (
        "conv1/weight has shape (3, 2), expected (2, 3)",
        "conv1/bias holds 1 values that are NaN or infinite",
        "fc8/weight has dtype float64, expected float32",
        "fc8/bias is missing",
        "fc8/bais is unexpected; did you mean fc8/bias",
        "skip names fc7",
    ):
        assert words in message
    assert "fc9/bias is missing" not in message
