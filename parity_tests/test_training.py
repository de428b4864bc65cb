"""Training: the same pixels, the same trajectory, nothing lost on the way."""

import gzip
import importlib
import json
import os
import re
import resource
import shutil
import signal
import struct
import time
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from conftest import IMPLEMENTATIONS, daily, in_daily, load_implementation
from PIL import Image

from common import TriptychError, get_spec, list_architectures, random_weights, read_weights_file, write_weights_file
from common.training.batches import Batches
from common.training.data import Data, Split, digits, read_data
from common.training.recipe import Recipe, starting_weights
from common.training.run import Monitor
from parity_tests.commands import ROOT, finish, run, run_here, triptych


def some_digits(count=50, tested=20):
    """The first digits, as many of each class."""
    data = digits()
    train, test = (
        split.take(
            np.sort(np.concatenate([np.flatnonzero(split.labels == digit)[: size // 10] for digit in range(10)]))
        )
        for split, size in ((data.train, count), (data.test, tested))
    )
    return Data(data.name, train, test, data.classes)


def photographs(count=6, size=(41, 53)):
    """Noise in colour, whose channels go together, in three classes."""
    generator = np.random.default_rng(1)
    grey = generator.integers(0, 200, (count, *size, 1))
    pictures = (grey + generator.integers(0, 50, (count, *size, 3))).astype(np.uint8)
    split = Split(pictures, np.arange(count) % 3)
    return Data("noise", split, split, ("a", "b", "c"))


def started(implementation, architecture, seed=0, **options):
    """A model with the weights that a training starts from."""
    spec = get_spec(architecture, **options)
    model = implementation.build(architecture, **options)
    implementation.load_weights(model, starting_weights(spec, seed))
    return model


def same_bits(left, right):
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


class StopAt(Monitor):
    """Interrupts a training as Ctrl-C would."""

    def __init__(self, epoch, step):
        self.place = (epoch, step)

    def step(self, step):
        if (step.epoch, step.step) == self.place:
            raise KeyboardInterrupt


# Data


def pixels_of(implementation, plan, split, batch):
    """What each framework's own pipeline makes of a batch, (N, C, H, W)."""
    module = importlib.import_module(f"{implementation.__name__}.train")
    if implementation.__name__ == "torch_impl":
        ((images, labels),) = module.loader(split, plan, [batch])
        return images.numpy(), labels.numpy()
    if implementation.__name__ == "keras_impl":
        images, labels = module.Pictures(split, plan, [batch])[0]
        return images.transpose(0, 3, 1, 2), labels
    with module.tf.Graph().as_default(), module.tf.Session() as session:
        source = module.Input(plan)
        (feed,) = source.feeds(split, [batch])
        return session.run(source.pixels, feed).transpose(0, 3, 1, 2), feed[source.labels]


def test_the_three_pipelines_give_the_same_pixels():
    data = photographs()
    spec = get_spec("resnet50_v1_5", image_size=(32, 40), num_classes=3)
    plan = Batches(spec, data, Recipe(batch_size=5, augment=("crop", "flip", "colour"), seed=3))
    (batch,) = plan.batches(0)
    assert 0 < batch.flips.sum() < 5
    assert len(set(batch.tops.tolist())) > 1 < len(set(batch.lefts.tolist()))
    # Written once more, one pixel at a time.
    expected = np.empty((5, 3, 32, 40), np.float32)
    for row, index in enumerate(batch.indices):
        picture = plan.picture(data.train, index)
        assert picture.shape == (37, 46, 3)
        for y, x in np.ndindex(32, 40):
            column = 39 - x if batch.flips[row] else x
            pixel = picture[batch.tops[row] + y, batch.lefts[row] + column].astype(np.float32)
            expected[row, :, y, x] = (pixel + batch.shifts[row] - plan.mean) / plan.scale
    for name in IMPLEMENTATIONS:
        images, labels = pixels_of(load_implementation(name), plan, data.train, batch)
        assert images.dtype == np.float32
        assert images.tobytes() == expected.tobytes(), name
        assert labels.tolist() == data.train.labels[batch.indices].tolist()


def test_the_plan_depends_on_seed_and_epoch_only():
    data, spec = photographs(), get_spec("resnet18", image_size=(32, 40))
    recipe = Recipe(batch_size=2, augment=("crop", "flip", "colour"))
    plan = Batches(spec, data, recipe)
    epochs = [[batch.indices.tolist() for batch in plan.batches(epoch)] for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(chain(*epochs[0])) == sorted(chain(*epochs[1])) == list(range(6))
    parts = [plan.batches(0)[0].part(rank, 2).indices.tolist() for rank in (0, 1)]
    assert sorted(chain(*parts)) == sorted(epochs[0][0])


def test_colours_shift_along_their_principal_components():
    data, spec = photographs(count=6), get_spec("resnet18_tutorial", image_size=(32, 40))
    plan = Batches(spec, data, Recipe(augment=("colour",)))
    pixels = np.concatenate([plan.picture(data.train, i).reshape(-1, 3) for i in range(6)])
    covariance = np.cov(pixels.T.astype(float), bias=True)
    np.testing.assert_allclose(plan.colours.T @ plan.colours, covariance, rtol=1e-9)
    directions = plan.colours / np.linalg.norm(plan.colours, axis=1, keepdims=True)
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-12)  # and across each other


def idx(array, *, kind=8):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder like MNIST's: 30 training and 6 test images of 5×7, three classes, half of the files compressed."""
    pictures = np.random.default_rng(0).integers(0, 256, (30, 5, 7))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(pictures))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(30) % 3)))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pictures[:6])))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(6) % 3))
    return tmp_path


def test_idx_files(mnist):
    data = read_data(mnist)
    assert data.train.pictures.shape == (30, 5, 7)
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.test.pictures == data.train.pictures[:6]).all()
    assert data.classes == ("0", "1", "2")
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"):
        (mnist / name).unlink()
    data = read_data(mnist)
    assert [len(data.train), len(data.test)] == [24, 6]
    assert sorted(data.test.labels.tolist()) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte", idx(np.zeros((30, 5, 7)))[:-1], "says that it holds 30×5×7 bytes, but holds 1,049"),
        ("train-images-idx3-ubyte", idx(np.zeros((29, 5, 7))), "has 29 images, but train-labels-idx1-ubyte.gz has 30"),
        ("train-images-idx3-ubyte", idx(np.zeros((30, 5, 7)), kind=13), "is not an IDX file of unsigned bytes"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(idx(np.arange(30) % 3), mtime=0)[:-9], "is a damaged gzip file"),
        ("train-labels-idx1-ubyte.gz", None, "has no labels beside it"),
        ("train-labels-idx1-ubyte.gz", idx(np.arange(30) % 3 * 2), "no training image of class '1', '3'"),
        ("t10k-labels-idx1-ubyte", idx([0, 1, 2, 3, 0, 0]), "test image 3 has label 3, but labels go from 0 to 2"),
        ("train-images.idx3-ubyte", idx(np.zeros((30, 5, 7))), "has both train-images-idx3-ubyte and"),
    ],
)
def test_bad_idx_files_are_named(mnist, name, content, words):
    (mnist / name).write_bytes(content) if content is not None else (mnist / name).unlink()
    with pytest.raises(TriptychError, match=re.escape(words)):
        read_data(mnist)


@pytest.fixture
def folders(tmp_path):
    """Class folders: 5 cats, 4 dogs, of several sizes and formats."""
    generator = np.random.default_rng(0)
    for name, count in (("cat", 5), ("dog", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            array = generator.integers(0, 256, (20 + number, 31, 3), np.uint8)
            Image.fromarray(array).save(tmp_path / name / f"{number}.{'png' if number % 2 else 'jpg'}")
    return tmp_path


def test_class_folders(folders):
    data = read_data(folders)
    assert data.classes == ("cat", "dog")
    assert [len(data.train), len(data.test)] == [7, 2]
    assert sorted(data.test.labels.tolist()) == [0, 1]
    shown = {path for split in (data.train, data.test) for path in split.pictures.paths}
    assert len(shown) == 9
    for split in (data.train, data.test):
        assert [data.classes[label] for label in split.labels] == [path.parent.name for path in split.pictures.paths]
    assert data.train.pictures[0].shape[1:] == (31, 3)


def test_class_folders_that_are_split_already(folders):
    (folders / "train").mkdir()
    for name in ("cat", "dog"):
        (folders / name).rename(folders / "train" / name)
    shutil.copytree(folders / "train", folders / "val")
    data = read_data(folders)
    assert [len(data.train), len(data.test)] == [9, 9]
    (folders / "val" / "bird").mkdir()
    with pytest.raises(TriptychError, match=r"val has a class 'bird' that .*train does not have"):
        read_data(folders)


def test_bad_images_are_named_and_refused_or_skipped(folders):
    whole = (folders / "cat" / "0.jpg").read_bytes()
    (folders / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (folders / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(TriptychError, match=r"cat/0\.jpg.*and 1 more such files.*`bad_files=.skip.`"):
        read_data(folders)
    data = read_data(folders, bad_files="skip")
    assert len(data.train) + len(data.test) == 8
    assert [re.search(r"\w+/\w+\.\w+", sentence)[0] for sentence in data.skipped] == ["cat/0.jpg", "dog/notes.txt"]


def test_an_empty_class_is_named(folders):
    (folders / "emu").mkdir()
    with pytest.raises(TriptychError, match="no training image of class 'emu'"):
        read_data(folders)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.train.labels.__setitem__(3, 10), "training image 3 has label 10, but labels go from 0 to 9"),
        (lambda data: data.test.labels.__setitem__(2, -1), "test image 2 has label -1"),
        (lambda data: data.train.labels.__setitem__(data.train.labels == 4, 5), "no training image of class '4'"),
    ],
)
def test_bad_labels_are_refused_before_anything_is_changed(implementation, change, words):
    data = some_digits()
    change(data)
    model = started(implementation, "lenet5")
    with pytest.raises(TriptychError, match=words):
        implementation.train(model, data)
    assert same_bits(implementation.read_weights(model), starting_weights(get_spec("lenet5"), 0))


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (np.zeros((50, 8, 8, 4), np.uint8), "training image 0 has shape 8×8×4, expected height×width or"),
        (np.zeros((50, 8, 0), np.uint8), "training image 0 has shape 8×0"),
        (np.zeros((50, 8, 8), np.float32), "training image 0 has dtype float32, expected uint8"),
        (np.zeros((49, 8, 8), np.uint8), "has 49 training images but 50 labels"),
    ],
)
def test_what_is_no_picture_is_refused(pictures, words):
    data = some_digits()
    with pytest.raises(TriptychError, match=words):
        Data("odd", Split(pictures, data.train.labels), data.test, data.classes).check(10)


# Training


@pytest.fixture(scope="module")
def histories():
    """The same training in each framework: what came of it, and the weights."""
    found = {}
    for name in IMPLEMENTATIONS:
        implementation = load_implementation(name)
        model = started(implementation, "lenet_caffe")
        recipe = Recipe(epochs=3, batch_size=7, milestones=(1, 2), augment=("crop",))
        found[name] = implementation.train(model, some_digits(), recipe), implementation.read_weights(model)
    return found


def test_three_idioms_one_trajectory(histories):
    first, weights = histories["torch_impl"]
    assert [epoch.learning_rate for epoch in first] == [0.01, 0.001, 0.0001]
    assert first[2].loss < first[0].loss
    for history, others in histories.values():
        for epoch, expected in zip(history, first, strict=True):
            np.testing.assert_allclose(epoch.losses, expected.losses, rtol=1e-4)
            assert epoch.test_loss == pytest.approx(expected.test_loss, rel=1e-4)
            assert (epoch.top1, epoch.top5) == (expected.top1, expected.top5)
        for name, array in weights.items():
            np.testing.assert_allclose(others[name], array, atol=1e-5, err_msg=name)


def resumed():
    """Every day momentum, the plan and the rate in one implementation, and ResNet's statistics in another."""
    in_turn = {"lenet_caffe": "tf1_style_impl", "resnet18": "torch_impl", "alexnet_mnist": None}
    sizes = {"lenet_caffe": (32, 32), "resnet18": (32, 32), "alexnet_mnist": (28, 28)}
    for name, size in sizes.items():
        for package in IMPLEMENTATIONS:
            marks = [] if in_turn.get(name, package) == package else pytest.mark.slow
            yield pytest.param(package, name, size, id=f"{package}-{name}", marks=marks)


@pytest.mark.parametrize(("implementation", "architecture", "size"), list(resumed()), indirect=["implementation"])
def test_a_resumed_training_is_the_same_to_the_bit(architecture, size, implementation, tmp_path):
    """With all that a training remembers: momentum, ResNet's statistics, AlexNet's dropout, the plan, the rate."""
    augment = ("crop", "flip", "colour") if architecture == "resnet18" else ("crop", "flip")
    options = {"num_classes": 10, "image_size": size}
    recipe = Recipe(epochs=2, batch_size=20, milestones=(1,), learning_rate=0.001, augment=augment)
    data = some_digits(count=20, tested=10)
    whole = started(implementation, architecture, **options)
    expected = implementation.train(whole, data, recipe)
    stopped = started(implementation, architecture, **options)
    with pytest.raises(KeyboardInterrupt):
        implementation.train(stopped, data, recipe, folder=tmp_path / "run", monitor=StopAt(epoch=2, step=1))
    again = started(implementation, architecture, seed=1, **options)
    history = implementation.train(again, data, recipe, folder=tmp_path / "run", resume=True)
    assert history == expected
    assert same_bits(implementation.read_weights(again), implementation.read_weights(whole))
    left = {re.sub(r"\.v2|tfevents.*", "", path.name) for path in (tmp_path / "run").iterdir()}
    assert not [name for name in left if name.startswith(("checkpoint-0001", "."))]


@pytest.mark.slow
def test_dropout_drops_and_can_be_turned_off(implementation):
    """Without it two trainings differ from one with it, and are alike whatever the masks would have been."""
    data, results = some_digits(count=10, tested=10), []
    for recipe in (Recipe(epochs=1, batch_size=10), Recipe(epochs=1, batch_size=10, dropout=False)):
        model = started(implementation, "alexnet_mnist", num_classes=10)
        results.append(implementation.train(model, data, recipe)[0].losses)
    assert results[0] != results[1]


def test_the_seeds_of_dropout_fit_into_every_backend_of_keras():
    """On PyTorch Keras holds them as int32; a larger one ended the training of GoogLeNet there."""
    load_implementation("keras_impl")
    make = importlib.import_module("keras_impl.train").dropout_seed
    layers = {layer.name for name in list_architectures() for layer in get_spec(name).layers}
    seeds = {make(seed, layer) for seed in range(10) for layer in layers}
    assert len(seeds) > 9.9 * len(layers)
    assert max(seeds) <= np.iinfo(np.int32).max


@in_daily("torch_impl")
def test_a_loss_that_is_not_finite_stops_and_names_step_and_layer(implementation, tmp_path):
    data, recipe = some_digits(count=20), Recipe(epochs=2, batch_size=10)
    model = started(implementation, "lenet_caffe")
    implementation.train(model, data, Recipe(epochs=1, batch_size=10), folder=tmp_path)
    weights = starting_weights(get_spec("lenet_caffe"), 0)
    weights["conv2/weight"][3] = 3e38  # overflows in the forward pass
    implementation.load_weights(model, weights)
    with pytest.raises(TriptychError, match=r"step 1 of epoch 1 cannot .* begins in layer conv2; try"):
        implementation.train(model, data, recipe)
    model = started(implementation, "lenet_caffe")
    wild = Recipe(epochs=3, batch_size=10, learning_rate=1e20)
    with pytest.raises(TriptychError, match=r"step [2-4] of epoch 1 cannot .* in layer \w+; try"):
        implementation.train(model, data, wild)


OVERFLOWS = {"fc1/bias": np.full(500, 3e38, np.float32), "fc2/weight": np.ones((10, 500), np.float32)}
"""Parameters of lenet_caffe with which the sums of fc2 are infinite."""


@in_daily("torch_impl")
def test_a_network_that_is_lost_in_the_last_step_of_an_epoch_is_not_kept(implementation, tmp_path):
    """No training loss tells: it was finite before the step, and there is none after it."""
    model = started(implementation, "lenet_caffe")

    class Damage(Monitor):
        def step(self, step):
            weights = implementation.read_weights(model)
            implementation.load_weights(model, weights | OVERFLOWS)

    wanted = r"step 1 of epoch 1, its last, was too large: the loss on held-out pictures is \w+; try a smaller"
    data, recipe = some_digits(count=10), Recipe(epochs=2, batch_size=10)
    with pytest.raises(TriptychError, match=wanted):
        implementation.train(model, data, recipe, folder=tmp_path, monitor=Damage())
    assert not (tmp_path / "run.json").exists()
    assert not list(tmp_path.glob("checkpoint-*"))


@in_daily("torch_impl")
def test_the_last_good_checkpoint_is_kept(implementation, tmp_path):
    data = some_digits(count=20)
    model = started(implementation, "lenet_caffe")

    class Damage(Monitor):
        def epoch(self, number, epoch):
            weights = implementation.read_weights(model)
            self.good = {name: array.copy() for name, array in weights.items()}
            implementation.load_weights(model, weights | OVERFLOWS)

    recipe = Recipe(epochs=2, batch_size=10)
    with pytest.raises(TriptychError, match=r"step 1 of epoch 2 .* layer fc2; the checkpoint of epoch 1 is kept"):
        implementation.train(model, data, recipe, folder=tmp_path, monitor=Damage())
    resumed = started(implementation, "lenet_caffe", seed=5)
    history = implementation.train(resumed, data, recipe, folder=tmp_path, resume=True)
    assert np.isfinite(history[1].losses).all()


@in_daily("torch_impl")
def test_a_full_disk_is_told_and_the_last_checkpoint_kept(implementation, tmp_path, monkeypatch):
    data, recipe = some_digits(count=20), Recipe(epochs=2, batch_size=10)
    free = shutil.disk_usage(tmp_path)

    class Fill(Monitor):
        def epoch(self, number, epoch):
            monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=500_000))

    model = started(implementation, "lenet_caffe")
    full = r"checkpoint-0002\S*: it takes up to 15\.\d MB, and 0\.5 MB are free; make room; .* of epoch 1 is kept"
    with pytest.raises(TriptychError, match=full):
        implementation.train(model, data, recipe, folder=tmp_path / "run", monitor=Fill())
    with pytest.raises(
        TriptychError, match=r"checkpoint-0001: it takes up to .* make room$"
    ):  # before anything is trained
        implementation.train(model, data, recipe, folder=tmp_path / "another")
    monkeypatch.undo()
    assert len(implementation.train(model, data, recipe, folder=tmp_path / "run", resume=True)) == 2


@pytest.mark.parametrize("framework", daily("torch", of=["torch", "tf1"]))
def test_a_checkpoint_that_cannot_be_written_is_a_sentence(framework, mnist, tmp_path):
    """What the frameworks raise themselves where a file may not grow."""
    command = ("train", "lenet5", "--with", framework, "--data", mnist, "--epochs", 1, "--out", tmp_path / "run")
    allowed, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
    try:
        code, _, err = run_here(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, most))
    assert (code, err.count("\n")) == (2, 1), err
    assert re.match(r"triptych: cannot write \S+/run/checkpoint-0001", err)
    assert not (tmp_path / "run" / "run.json").exists()


@in_daily("torch_impl")
def test_a_checkpoint_of_another_training_is_refused(implementation, tmp_path):
    data, recipe = some_digits(count=20), Recipe(epochs=1, batch_size=10)
    model = started(implementation, "lenet5")
    with pytest.raises(TriptychError, match="there is nothing to resume"):
        implementation.train(model, data, recipe, folder=tmp_path, resume=True)
    implementation.train(model, data, recipe, folder=tmp_path)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    other = started(implementation, "lenet_caffe")
    with pytest.raises(TriptychError, match="its architecture is lenet5, not lenet_caffe"):
        implementation.train(other, data, recipe, folder=tmp_path, resume=True)
    with pytest.raises(TriptychError, match=r"its learning rate is 0\.01, not 0\.02"):
        implementation.train(model, data, replace(recipe, learning_rate=0.02), folder=tmp_path, resume=True)
    with pytest.raises(TriptychError, match="holds a run already; continue it with `resume=True`"):
        implementation.train(model, data, recipe, folder=tmp_path)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(b"damage")
    with pytest.raises(TriptychError, match=r"checkpoint-0001\S* is missing or not a checkpoint of this lenet5"):
        implementation.train(model, data, recipe, folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"momentum": 1.0}, r"momentum is 1\.0, expected from 0 to below 1"),
        ({"weight_decay": -1.0, "batch_size": 0}, "batch_size is 0, expected at least 1; weight_decay is"),
        ({"augment": ("rotate",)}, "expected any of crop, flip, colour"),
    ],
)
def test_a_recipe_that_makes_no_sense(numbers, words):
    with pytest.raises(TriptychError, match=words):
        Recipe(**numbers)


# The command


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras", "tf1"])
def test_digits_are_learnt(framework, tmp_path):
    elsewhere = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    code, out, err = finish(triptych("train", "lenet_caffe", "--with", framework, "--json", **elsewhere))
    assert code == 0, err
    report = json.loads(out)
    assert report["history"][-1]["top1"] >= 0.98
    assert report["history"][-1]["test_loss"] < 0.1
    assert "\x1b" not in err
    folder = tmp_path / "runs" / f"lenet_caffe-{framework}"
    assert report["weights"] == str(folder.relative_to(tmp_path) / "weights.safetensors")
    weights = read_weights_file(folder / "weights.safetensors")
    assert {name: array.shape for name, array in weights.items()} == get_spec("lenet_caffe").parameter_shapes
    # They are what was learnt: a new model in PyTorch finds as much with them.
    data, other = digits(), load_implementation("torch_impl")
    model = other.build("lenet_caffe")
    other.load_weights(model, weights)
    module = importlib.import_module("torch_impl.train")
    plan = Batches(get_spec("lenet_caffe"), data, Recipe())
    assert module.evaluate(model, module.loader(data.test, plan, plan.test_batches()))[1] >= 0.98
    with Image.open(folder / "training.png") as plot:
        assert plot.format == "PNG"
        assert len(plot.convert("RGB").getcolors(maxcolors=100_000)) > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "number"), [("torch", signal.SIGKILL), ("tf1", signal.SIGINT), ("torch", signal.SIGINT)]
)
def test_killed_and_resumed_it_ends_in_the_same_weights(framework, number, mnist, tmp_path):
    command = ("train", "lenet5", "--with", framework, "--data", mnist, "--epochs", 5, "--batch", 4)
    assert finish(triptych(*command, "--out", tmp_path / "whole"))[0] == 0
    process = triptych(*command, "--out", tmp_path / "run")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert "--resume" in err
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    code, out, err = finish(triptych(*command, "--out", tmp_path / "run", "--resume"))
    assert code == 0, err
    assert 0 < out.count("top-1") <= 5
    first, second = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "run"))
    assert first == second


def test_a_new_run_gets_a_new_folder_and_resume_takes_the_latest(tmp_path):
    from common.training.run import last_folder, next_folder

    assert next_folder(tmp_path, "a") == last_folder(tmp_path, "a") == tmp_path / "a"
    for number in ("a", "a-2", "a-3"):
        assert next_folder(tmp_path, "a") == tmp_path / number
        (tmp_path / number).mkdir()
        assert last_folder(tmp_path, "a") == tmp_path / number


def test_fine_tuning_prepares_pictures_as_the_weights_were_trained(folders, tmp_path):
    """Ported from torchvision, a VGG takes RGB divided by its deviation; its own specification has BGR, as Caffe."""
    from common.specs.architecture import Preprocessing

    theirs = Preprocessing("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    spec = get_spec("vgg16_gap", image_size=(32, 32), num_classes=2)
    assert spec.preprocessing != theirs
    plans = [
        Batches(spec, read_data(folders), recipe)
        for recipe in (Recipe(preprocessing=theirs), Recipe(augment=("crop",)))
    ]
    load_implementation("torch_impl")
    pixels = []
    for plan in plans:
        for name in IMPLEMENTATIONS:
            images, _ = pixels_of(load_implementation(name), plan, read_data(folders).train, plan.batches(0)[0])
            pixels.append(images)
    assert all(images.tobytes() == pixels[0].tobytes() for images in pixels[1:3])
    mean, scale = (np.array(numbers, np.float32)[:, None, None] for numbers in (theirs.mean, theirs.scale))
    restored = pixels[0] * scale + mean
    own = spec.preprocessing
    mean, scale = (np.array(numbers, np.float32)[:, None, None] for numbers in (own.mean, own.scale))
    np.testing.assert_allclose((pixels[3] * scale + mean)[:, ::-1], restored, atol=1e-3)


def test_fine_tuning_keeps_the_other_layers(mnist, tmp_path, monkeypatch, capsys):
    ported = random_weights("lenet_caffe", seed=4)  # for ten classes; the pictures have three
    write_weights_file(tmp_path / "w.safetensors", ported)
    command = ("train", "lenet_caffe", "--with", "torch", "--data", mnist, "--finetune", tmp_path / "w.safetensors")
    small = ("--epochs", 1, "--learning-rate", 1e-6, "--out", tmp_path / "run")
    assert run(monkeypatch, *command, *small) == 2
    assert "fc2/weight has shape 10×500, expected 3×500" in capsys.readouterr().err
    assert run(monkeypatch, *command, *small, "--skip", "fc3") == 2
    assert "fc3, which is to be skipped, has no weights" in capsys.readouterr().err
    code, _, err = run_here(*command, *small, "--skip", "fc2")
    assert code == 0, err
    weights = read_weights_file(tmp_path / "run" / "weights.safetensors")
    Image.new("L", (9, 9)).save(tmp_path / "black.png")
    code, out, err = run_here("classify", tmp_path / "black.png", "--weights", tmp_path / "run/weights.safetensors")
    assert (code, len(re.findall(r"class [012]  [012]\n", out))) == (0, 3), err
    assert weights["fc2/weight"].shape == (3, 500)
    for name in ("conv1/weight", "fc1/bias"):
        np.testing.assert_allclose(weights[name], ported[name], atol=1e-3)
        assert (weights[name] != ported[name]).any()


def test_each_process_trains_on_a_gpu_of_its_own(monkeypatch):
    load_implementation("torch_impl")
    import torch

    backend, model, places = importlib.import_module("torch_impl.backend"), torch.nn.Linear(2, 3), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(model, "to", places.append)
    backend.on_device(model, "cuda", "fp32")
    monkeypatch.setenv("LOCAL_RANK", "3")
    backend.on_device(model, "cuda", "fp32")
    assert places == ["cuda:0", "cuda:3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet_cafe"], "did you mean lenet_caffe"),
        (["lenet5", "--data", "nowhere"], "there is no folder nowhere"),
        (["lenet5", "--num-classes", "7"], "has label 7, but labels go from 0 to 6"),
        (["lenet5", "--image-size", "32"], "--image-size is '32', expected HEIGHTxWIDTH such as 224x224"),
        (["lenet5", "--image-size", "64x64"], "lenet5 with an image of 64×64"),
        (["lenet5", "--finetune", "w.safetensors"], "there is no file w.safetensors; give the path of a weights file"),
        (["lenet5", "--skip", "output"], "give the weights with --finetune"),
        (["lenet5", "--momentum", "1.5"], "momentum is 1.5, expected from 0 to below 1"),
        (["lenet5", "--resume"], "there is nothing to resume in runs/lenet5-torch"),
        (["lenet5", "--device", "gpu"], "cannot run on gpu in fp32; choose cpu or cuda"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "train", *arguments, "--with", "torch") == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
