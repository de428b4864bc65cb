"""Several processes, devices and towers: the same trajectory as one, to the bit where arithmetic is exact.

Run as a program (`python parity_tests/test_distributed.py torch|keras FOLDER`) this file trains and writes down what it
sees. The tests start it alone and with `torchrun`, with one JAX device and with two, and compare.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import load_implementation

from common import TriptychError, get_spec
from common.operations import LRN
from common.parity.gradients import gradient_probes
from common.parity.judge import judge
from common.parity.verdicts import CERTIFIED, IDENTICAL, overall
from common.probes import exact_probe, random_probe, sparse_probe
from common.training.data import Data, Split
from common.training.recipe import Recipe, starting_weights
from common.training.run import Monitor
from common.trajectories.umpire import PARTING

ROOT = Path(__file__).parents[1]


# What is trained


@dataclass(frozen=True)
class Job:
    """A small training on noise of the size of the network's input, in four classes; seven pictures to test with."""

    architecture: str
    recipe: Recipe
    pictures: int
    options: dict = field(default_factory=dict)
    dtype: str = "float64"
    integers: bool = False
    """Whether weights and pixels are whole numbers; see `integers`."""

    @property
    def data(self):
        generator = np.random.default_rng(0)
        size = (self.pictures + 7, *self.options.get("image_size", (32, 32)))
        pictures = 255 * generator.integers(0, 2, size) if self.integers else generator.integers(0, 256, size)
        labels = np.arange(len(pictures)) % 4
        everything = Split(pictures.astype(np.uint8), labels)
        train, test = np.split(np.arange(len(pictures)), [self.pictures])
        return Data("noise", everything.take(train), everything.take(test), tuple("abcd"))

    def model(self, implementation):
        module = importlib.import_module(f"{implementation.__name__}.backend")
        build = module.build_float64 if self.dtype == "float64" else module.build
        model = build(self.architecture, num_classes=4, **self.options)
        spec = get_spec(self.architecture, num_classes=4, **self.options)
        implementation.load_weights(model, integers(spec) if self.integers else starting_weights(spec, 0))
        return model


def integers(spec):
    """Weights for which a step of `lenet_caffe` on pixels of 0 and 255, which it reads as 0 and 1, rounds nowhere.

    The last biases make one class certain: the logits are about 2^14 apart, softmax gives 1 and 0, and its logarithm is
    a difference of logits. So the cross-entropy and its gradient are sums of whole numbers, divided by the size of the
    batch; that is a power of two, and so are the rates of the recipe.
    """
    return {**sparse_probe(spec).weights, "fc2/bias": np.arange(4, dtype=np.float32) * 2**14}


DYADIC = Recipe(
    epochs=1, batch_size=8, learning_rate=2**-6, momentum=0.5, weight_decay=2**-6, milestones=(), augment=()
)
SHORT = Recipe(epochs=1, batch_size=5, learning_rate=0.001, dropout=False)
JOBS = {
    "ragged": Job("lenet_caffe", Recipe(epochs=2, batch_size=7, milestones=(1,)), 14),
    "alone": Job("lenet_caffe", Recipe(epochs=1, batch_size=1), 4),  # no share for all processes but one
    "normalised": Job("googlenet_bn", SHORT, 5, {"image_size": (96, 96)}),  # and with auxiliary heads
    "exact": Job("lenet_caffe", DYADIC, 8, dtype="float32", integers=True),
}
"""What several processes must train as one does."""

IN_THREE = ("ragged", "alone")
"""The jobs of three processes; two do all."""

CASES = [(name, processes) for processes in (2, 3) for name in (JOBS if processes == 2 else IN_THREE)]

STOPPED = Job("googlenet_bn", Recipe(epochs=2, batch_size=5), 5, {"image_size": (32, 32)}, dtype="float32")
"""With dropout."""


class Diary(Monitor):
    """Keeps the loss and all parameters after each step."""

    def __init__(self, read):
        self.read, self.steps = read, []

    def step(self, step):
        self.steps.append({**self.read(), "loss": np.array(step.loss)})


def trajectory(job, implementation):
    """What came of a job: loss and parameters after each step, in the end the parameters, then what the tests gave."""
    model = job.model(implementation)
    diary = Diary(lambda: implementation.read_weights(model))
    (*_, last) = implementation.train(model, job.data, job.recipe, monitor=diary)
    tested = {"test_loss": last.test_loss, "top1": last.top1, "top5": last.top5}
    return [*diary.steps, implementation.read_weights(model), {name: np.array(x) for name, x in tested.items()}]


def write(path, steps):
    np.savez(path, **{f"{number} {name}": array for number, step in enumerate(steps) for name, array in step.items()})


def read(path):
    steps = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            number, name = key.split()
            steps.setdefault(int(number), {})[name] = arrays[key]
    return list(steps.values())


def distance(found, expected):
    """The largest difference of an element, relative to the largest element of its tensor."""
    relative = []
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        relative += [np.abs(one[name] - array).max() / (np.abs(array).max() or 1) for name, array in other.items()]
    return max(relative)


def same_bits(found, expected):
    return all(
        one.keys() == other.keys() and all(one[name].tobytes() == array.tobytes() for name, array in other.items())
        for one, other in zip(found, expected, strict=True)
    )


# The programs


def torch_program(folder):
    """Every job; in two processes also mistakes, and a training that is resumed."""
    torch_impl = load_implementation("torch_impl")
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    for name in IN_THREE if size == 3 else JOBS:
        write(folder / f"{name}-{rank}.npz", trajectory(JOBS[name], torch_impl))
    (folder / f"error-{rank}").write_text(error_of(lambda: overflow(torch_impl)))
    if size == 1:
        write(folder / "float64.npz", trajectory(replace(JOBS["exact"], dtype="float64"), torch_impl))
    if size == 2:
        for name, job in mistakes(size):
            write(folder / f"{name}-{rank}.npz", trajectory(job, torch_impl))
        resume(torch_impl, folder, rank)


def mistakes(size):
    """Jobs, each while something is wrong."""
    train, distributed = (importlib.import_module(f"torch_impl.{name}") for name in ("train", "distributed"))
    with pytest.MonkeyPatch.context() as patch:  # the mean of the means, where shares have unequal sizes
        right = train.losses_of
        patch.setattr(train, "losses_of", lambda outputs, labels, _: [x / size for x in right(outputs, labels)])
        yield "unweighted", JOBS["ragged"]
    with pytest.MonkeyPatch.context() as patch:  # each share by its own mean and variance
        patch.setattr(distributed, "normalise_together", train.nn.BatchNorm2d.forward)
        yield "apart", JOBS["normalised"]


def overflow(implementation):
    """Train on a batch of two pictures, of which only the white one makes conv2 overflow."""
    pictures = np.stack([np.zeros((32, 32), np.uint8), np.full((32, 32), 255, np.uint8)])
    split = Split(pictures, np.arange(2))
    job = Job("lenet_caffe", Recipe(batch_size=2, augment=()), 2, dtype="float32")
    model = job.model(implementation)
    weights = {name: np.abs(array) for name, array in implementation.read_weights(model).items()}
    weights["conv2/weight"] = np.full_like(weights["conv2/weight"], 3e38)
    implementation.load_weights(model, weights)
    implementation.train(model, Data("two", split, split, ("black", "white")), job.recipe)


def error_of(act):
    with pytest.raises(TriptychError) as error:
        act()
    return str(error.value)


def resume(implementation, folder, rank):
    """Train, and train once more from a copy of the checkpoint after the first epoch."""

    class Copy(Monitor):
        def epoch(self, number, epoch):
            if number == 1:
                shutil.copytree(folder / "whole", folder / "resumed")

    for name, monitor in (("whole", Copy()), ("resumed", Monitor())):
        model = STOPPED.model(implementation)
        options = {"folder": folder / name, "resume": name == "resumed", "monitor": monitor}
        implementation.train(model, STOPPED.data, STOPPED.recipe, **options)
        write(folder / f"{name}-{rank}.npz", [implementation.read_weights(model)])


def keras_program(folder):
    """What the documentation does, with few pictures, then jobs on one device and on two, in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.training.data.digits", lambda: JOBS["ragged"].data)
        exec(in_the_page(r"^```python\n(import keras\n.*?)^```"), {})
    keras_impl = load_implementation("keras_impl")
    import keras

    two = keras.distribution.distribution()
    assert two.num_model_replicas == 2
    keras.config.set_dtype_policy("float64")  # from the first model on it no longer follows `floatx`
    exact, ragged = replace(JOBS["exact"], dtype="float64"), JOBS["ragged"]
    even = replace(ragged, recipe=replace(ragged.recipe, batch_size=6))
    for name, job, distribution in (("one", even, None), ("two", even, two), ("exact", exact, two)):
        keras.distribution.set_distribution(distribution)
        write(folder / f"{name}.npz", trajectory(job, keras_impl))
    (folder / "error").write_text(error_of(lambda: trajectory(ragged, keras_impl)))


def in_the_page(pattern):
    """What docs/training.md says."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    return re.search(pattern, page, re.MULTILINE | re.DOTALL)[1]


# Processes


PROGRAM = [sys.executable, str(Path(__file__))]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@contextmanager
def started(command, **options):
    """A process, its output together; it is ended on the way out, as Ctrl-C would, with those that it has started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **options.pop("environment", {})}
    process = subprocess.Popen(
        list(map(str, command)), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def finish(process, timeout=300):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


class Seen(dict):
    """By their number, the folder that so many processes have written; they are started when it is asked for."""

    def __init__(self, make_folder):
        self.make_folder = make_folder

    def __missing__(self, count):
        self[count] = folder = self.make_folder(f"processes-{count}")
        command = PROGRAM if count == 1 else [*TORCHRUN, count, *PROGRAM[1:]]
        with started([*command, "torch", folder]) as processes:
            code, output = finish(processes)
        assert code == 0, output
        return folder


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    pytest.importorskip("torch")
    return Seen(tmp_path_factory.mktemp)


def of_cases(*left_out):
    """Two processes, and three, with the jobs that shares of unequal sizes make another thing."""
    return [case for case in CASES if case[0] not in left_out]


# PyTorch


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), of_cases("exact"))
def test_several_processes_go_the_way_of_one(seen, name, processes):
    """Batches of 7 are shared as 4 and 3, or 3, 2 and 2; a batch of 1 goes to one process."""
    expected, found = (read(seen[count] / f"{name}-0.npz") for count in (1, processes))
    assert len(found) > 2
    assert distance(found, expected) < PARTING


@pytest.mark.slow
def test_on_integers_to_the_bit(seen):
    """Parameters after a step are w − ε·(g + λ·w), all of it exact: so are the gradients added up over processes."""
    paths = (seen[2] / "exact-0.npz", seen[1] / "exact-0.npz", seen[1] / "float64.npz")
    (found, *_), (expected, *_), (precise, *_) = map(read, paths)
    assert same_bits([found], [expected])
    # In float64 nothing else comes out: no sum was rounded.
    assert all((found[name] == array).all() for name, array in precise.items())
    before = integers(get_spec("lenet_caffe", num_classes=4))
    assert all((found[name] != array).mean() > 0.05 for name, array in before.items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), of_cases())
def test_all_processes_end_with_the_same_bits_and_only_the_first_is_told(seen, name, processes):
    first, *others = (read(seen[processes] / f"{name}-{rank}.npz") for rank in range(processes))
    for other in others:
        assert len(other) == 2 < len(first)
        assert same_bits(other, first[-2:])


@pytest.mark.slow
@pytest.mark.parametrize(("mistake", "name"), [("unweighted", "ragged"), ("apart", "normalised")])
def test_a_mistake_is_another_trajectory(seen, mistake, name):
    found, expected = read(seen[2] / f"{mistake}-0.npz"), read(seen[1] / f"{name}-0.npz")
    assert distance(found[:1], expected[:1]) > 1e6 * PARTING


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_a_loss_that_is_not_finite_in_one_process_ends_all(seen, processes):
    told = [path.read_text() for count in (1, processes) for path in seen[count].glob("error-*")]
    assert len(told) == 1 + processes
    (sentence,) = set(told)
    assert re.match(r"step 1 of epoch 1 cannot be made, .* begins in layer conv2; try", sentence)


@pytest.mark.slow
def test_resumed_it_ends_in_the_same_bits(seen):
    whole, resumed = ([read(seen[2] / f"{name}-{rank}.npz") for rank in (0, 1)] for name in ("whole", "resumed"))
    assert same_bits(resumed[0], whole[0])
    assert same_bits(resumed[1], whole[0])
    left = sorted(path.name for path in (seen[2] / "resumed").iterdir())
    assert left == ["checkpoint-0002.pt", "run.json"]


# The command


@pytest.mark.slow
def test_the_command_in_the_documentation(tmp_path):
    pytest.importorskip("torch")
    command = shlex.split(in_the_page(r"^(torchrun [^\n]+)$"))
    command = [sys.executable, "-m", "torch.distributed.run", *command[1:], "--epochs", "1", "--json"]
    with started(command, cwd=tmp_path) as process:
        code, output = finish(process)
    assert code == 0, output
    assert output.count("epoch   1") == output.count('"history"') == 1
    assert json.loads(output[output.index("\n{\n") :])["history"][0]["top1"] > 0.8
    (folder,) = (tmp_path / "runs").iterdir()
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["checkpoint-0001.pt", "run.json", "training.png", "weights.safetensors"]


def test_other_idioms_are_not_started_several_times(tmp_path):
    environment = {"RANK": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "common.cli", "train", "lenet5", "--framework", "keras"]
    with started(command, cwd=tmp_path, environment=environment) as process:
        code, output = finish(process)
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert output.startswith("triptych: torchrun has started 2 processes, but each would train a keras model")


ENDLESS = ["-m", "common.cli", "train", "lenet5", "--framework", "torch", "--epochs", "100000"]


def wait_for(condition, timeout=120):
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_if_one_process_is_killed_the_other_ends_and_says_so(tmp_path):
    pytest.importorskip("torch")
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    command = [sys.executable, *ENDLESS, "--out", tmp_path / "run"]
    with (
        started(command, environment={**there, "RANK": "0"}) as first,
        started(command, environment={**there, "RANK": "1"}) as second,
    ):
        wait_for(lambda: (tmp_path / "run" / "run.json").exists())
        second.kill()
        code, output = finish(first, timeout=60)
    assert code == 2, output
    assert output.endswith("triptych: process 0 of 2 cannot go on, since another has ended; continue with --resume\n")
    assert "Traceback" not in output


# Keras


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    """What Keras on JAX writes on one device and on two, into which one processor is divided: half a minute."""
    pytest.importorskip("jax")
    folder = tmp_path_factory.mktemp("devices")
    with started([*PROGRAM, "keras", folder], environment=TWO_DEVICES) as process:
        code, output = finish(process)
    assert code == 0, output
    return folder


TWO_DEVICES = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
}


@pytest.mark.slow
def test_two_devices_go_the_way_of_one(on_devices):
    """Seven pictures to test with, in batches of six: the last has one, and is filled up by one that counts nothing."""
    expected, found = read(on_devices / "one.npz"), read(on_devices / "two.npz")
    assert len(found) == 6
    assert distance(found, expected) < PARTING


@pytest.mark.slow
def test_on_integers_to_the_bit_in_another_framework(on_devices, seen):
    (found, *_), (expected, *_) = read(on_devices / "exact.npz"), read(seen[1] / "float64.npz")
    assert all((found[name] == array).all() for name, array in expected.items())


@pytest.mark.slow
def test_devices_share_evenly(on_devices):
    sentence = (on_devices / "error").read_text()
    assert sentence == "7 pictures in a step cannot be shared evenly by 2 devices; change the batch"


# AlexNet's two towers


CLASSES = 7


def in_halves(arrays, axis=1):
    """By the names of the towers' halves."""
    return {
        name if name == "fc8" else f"{name}/{tower}": np.ascontiguousarray(half)
        for name, array in arrays.items()
        for tower, half in enumerate([array] if name == "fc8" else np.split(array, 2, axis))
    }


def joined(arrays, names, axis=1):
    """The opposite, of outputs or gradients; `names` are the grouped network's, with the parameter if they have one."""
    found = {}
    for name in names:
        layer, _, kind = name.partition("/")
        parts = [f"{layer}/{tower}{f'/{kind}' if kind else ''}" for tower in (0, 1)]
        if name in arrays:
            found[name] = arrays[name]
        elif parts[0] in arrays:
            found[name] = np.concatenate([arrays[part] for part in parts], axis)
    return found


@pytest.fixture(scope="module")
def towers():
    load_implementation("torch_impl")
    return importlib.import_module("torch_impl.alexnet_towers")


@pytest.fixture(scope="module")
def pair(towers):
    """The towers and the grouped network."""
    grouped = load_implementation("torch_impl").build("alexnet_bvlc", num_classes=CLASSES)
    return towers.AlexNetTowers(("cpu", "cpu"), num_classes=CLASSES).eval(), grouped


@pytest.mark.parametrize(
    ("make", "verdict"), [(exact_probe, IDENTICAL), pytest.param(random_probe, CERTIFIED, marks=pytest.mark.slow)]
)
def test_the_towers_are_the_grouped_network(towers, pair, make, verdict):
    from torch_impl import load_weights
    from torch_impl.backend import record

    spec = get_spec("alexnet_bvlc", num_classes=CLASSES)
    names = [layer.name for layer in spec.layers]
    probe = make(spec, batch=2)
    towers.load_weights(pair[0], probe.weights)
    load_weights(pair[1], probe.weights)
    assert same_bits([towers.read_weights(pair[0])], [probe.weights])
    found = joined(record(pair[0], probe.image, in_halves(probe.injected)), names)
    assert list(found) == names
    assert overall(judge(spec, probe, found), probe) == verdict
    if make is exact_probe:  # the normalisations too, whose maps beside the border are normalised across it
        assert same_bits([found], [record(pair[1], probe.image, probe.injected)])


def test_without_exchange_only_four_maps_of_a_normalisation_differ(towers, pair):
    import torch

    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 96, 5, 7), dtype=np.float32) * 50)
    norm, halves = pair[0].norm1, list(image.split(48, dim=1))
    across = torch.cat(norm(halves), dim=1)
    apart = torch.cat([super(towers.NormOfPart, half).forward(x) for half, x in zip(norm, halves, strict=True)], dim=1)
    assert torch.equal(across, pair[1].norm1(image))
    differing = (across != apart).flatten(2).any(2)[0]
    assert differing.nonzero().flatten().tolist() == [46, 47, 48, 49]


@pytest.mark.slow
def test_the_gradients_of_the_towers_are_those_of_the_grouped_network(towers, pair):
    """On integers, to the bit, but for those that a normalisation rounds: the gradients by its inputs."""
    from torch_impl import load_weights
    from torch_impl.gradients import record_gradients

    spec = get_spec("alexnet_bvlc", num_classes=CLASSES)
    probe = gradient_probes(spec, batch=2)[0]
    towers.load_weights(pair[0], probe.weights)
    load_weights(pair[1], probe.weights)
    found, expected = (
        record_gradients(
            model, probe.image, injected=split(probe.injected), drives=split(probe.drives), labels=None, training=False
        )
        for model, split in zip(pair, (in_halves, dict), strict=True)
    )
    parameters = joined(found["parameters"], spec.parameter_shapes, axis=0)
    assert len(parameters) == 16
    assert same_bits([parameters], [expected["parameters"]])
    gradients = joined(found["gradients"], spec.shapes)
    rounded = {name for layer in spec.layers if isinstance(layer.operation, LRN) for name in layer.inputs}
    assert rounded == {"relu1", "relu2"}
    for name in expected["gradients"].keys() - rounded:
        assert gradients[name].tobytes() == expected["gradients"][name].tobytes(), name


def test_each_half_is_on_its_own_device(towers, pair):
    """PyTorch's fake tensors have a device, whether there is one or not, and refuse to meet one of another device."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.overrides import TorchFunctionMode

    class Slicing(TorchFunctionMode):
        """A slice is refused without a CUDA build, where `narrow` is not."""

        def __torch_function__(self, function, types, arguments=(), options=None):
            if function is torch.Tensor.__getitem__:
                tensor, (_, channels) = arguments
                start, stop, _ = channels.indices(tensor.shape[1])
                return tensor.narrow(1, start, stop - start)
            return function(*arguments, **(options or {}))

    from torch_impl.graph import hooked

    devices, found = [torch.device("cuda:0"), torch.device("cuda:1")], {}
    placed = towers.AlexNetTowers(("cpu", "meta"), num_classes=CLASSES).eval()
    for name, parameter in placed.named_parameters():
        assert parameter.device.type == ("meta" if ".1." in name else "cpu"), name
    hooks = hooked(placed, lambda name: lambda module, inputs, output: found.update({name: output.device}))
    with hooks, FakeTensorMode(), Slicing(), torch.no_grad():
        placed.devices = devices
        state = {n: torch.empty(p.shape, device=devices[".1." in n]) for n, p in placed.named_parameters()}
        logits = torch.func.functional_call(placed, state, torch.empty(3, 3, 227, 227))
    assert (logits.shape, logits.device) == ((3, CLASSES), devices[0])
    assert found == {name: devices[name.endswith("/1")] for name in found}
    assert len(found) == 2 * 22 + 1


def test_devices_that_are_not_there_are_refused(towers, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        TriptychError, match=r"a tower is to be on cuda:1, but PyTorch sees 1 GPUs; give \('cpu', 'cpu'\)"
    ):
        towers.AlexNetTowers()
    with pytest.raises(TriptychError, match="the towers are two, but 1 devices are given for them"):
        towers.AlexNetTowers(["cpu"])


def test_weights_that_do_not_fit_are_named_as_they_are_in_the_file(towers, pair):
    weights = towers.read_weights(pair[0])
    with pytest.raises(TriptychError, match=r"conv2/weight has shape \(256, 48, 5, 4\), expected \(256, 48, 5, 5\)"):
        towers.load_weights(pair[0], {**weights, "conv2/weight": weights["conv2/weight"][..., :4]})


if __name__ == "__main__":
    {"torch": torch_program, "keras": keras_program}[sys.argv[1]](Path(sys.argv[2]))
