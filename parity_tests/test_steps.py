"""Trainings, step by step: the oracle against autograd, honest ones and those with a mistake against the oracle."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from conftest import IMPLEMENTATIONS, daily, load_implementation
from safetensors.numpy import load_file

from common import operations as ops
from common.parity.backends import BACKENDS, select
from common.parity.derivatives import differentiate
from common.specs import architecture
from common.training.data import Data, Split
from common.training.recipe import Recipe, decays, he_weights
from common.trajectories import umpire as umpires
from common.trajectories.race import judge_in_float32, run_trajectories
from common.trajectories.step_causes import confirmed, suspects
from common.trajectories.step_gradients import gradient_mistakes
from common.trajectories.step_optimisers import optimiser_mistakes
from common.trajectories.steps import Course
from common.trajectories.umpire import Distance, Trajectory, TrajectoryRun, Umpire
from common.trajectories.worker import Job, small_spec, train_in_steps
from parity_tests.injection import imported_with, unchanged
from parity_tests.mutations import training

STEPS = 10
"""Of which the ninth is the first after a change of the learning rate."""

JOB = Job("lenet5", num_classes=4, image_size=(32, 32), steps=STEPS, seed=0, dtype="float64")


class Enough(Exception):
    """As many steps have been made as are looked at."""


def trained(mutant, folder, until=STEPS):
    """Where LeNet-5's parameters are after each of the first steps of a training in float64, in this process."""
    load_implementation(mutant.package)
    backend = next(backend for backend in BACKENDS.values() if backend.implementation == mutant.package)
    steps = []

    def wait():
        if len(steps) == until:
            raise Enough

    with imported_with(mutant), suppress(Enough):
        job = replace(JOB, folder=str(folder))
        train_in_steps(job, backend, lambda answer: steps.append(load_file(answer["path"])), wait)
    return steps


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    load_implementation("torch_impl")
    return trained(unchanged("torch_impl", "lenet5"), tmp_path_factory.mktemp("honest"))


@pytest.fixture
def float64(monkeypatch):
    """Keras' defaults are as before afterwards."""
    load_implementation("keras_impl")
    import keras
    from keras.src.backend.common import dtypes

    monkeypatch.setattr(dtypes, "BIT64_TO_BIT32_DTYPE", dict(dtypes.BIT64_TO_BIT32_DTYPE))
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def judged(**trainings):
    """What the umpire says of each, in this order."""
    umpire, ways = Umpire(small_spec("lenet5"), JOB), {name: Trajectory(name, "float64") for name in trainings}
    for step in range(1, max(map(len, trainings.values())) + 1):
        going = {name: steps[step - 1] for name, steps in trainings.items() if len(steps) >= step}
        umpire.look(step, {name: ways[name] for name in going}, {n: lambda w=w: w for n, w in going.items()})
    return ways.values()


# The oracle


class Tiny:
    """A network that normalises, with two heads and a residual, for a batch of three pictures of 6×5 pixels."""

    spec = architecture.Architecture(
        "tiny",
        "none",
        "",
        2026,
        "",
        (3, 6, 5),
        (
            *architecture.chain(("conv1", ops.Conv(3, filters=4, padding=1, bias=False)), ("bn1", ops.BatchNorm(1e-5))),
            *architecture.chain(("relu1", ops.ReLU()), ("conv2", ops.Conv(3, filters=4, padding=1)), after="bn1"),
            architecture.Layer("add", ops.Add(), ("conv2", "relu1")),
            *architecture.chain(
                ("pool", ops.MaxPool(2, stride=2)), ("flat", ops.Flatten()), ("fc", ops.Dense(3)), after="add"
            ),
            *architecture.chain(("aux1/flat", ops.Flatten()), ("aux1/fc", ops.Dense(3)), after="relu1"),
        ),
        {"logits": "fc", "aux1": "aux1/fc"},
        architecture.Preprocessing(mean=(90.0, 100.0, 120.0), scale=(60.0, 50.0, 64.0)),
    )

    @staticmethod
    def loss(tensors, images, labels):
        import torch.nn.functional as f

        x = f.conv2d(images, tensors["conv1/weight"], padding=1)
        x = f.relu(f.batch_norm(x, None, None, tensors["bn1/gamma"], tensors["bn1/beta"], True, 0.1, 1e-5))
        y = x + f.conv2d(x, tensors["conv2/weight"], tensors["conv2/bias"], padding=1)
        logits = f.max_pool2d(y, 2).flatten(1) @ tensors["fc/weight"].T + tensors["fc/bias"]
        auxiliary = x.flatten(1) @ tensors["aux1/fc/weight"].T + tensors["aux1/fc/bias"]
        return f.cross_entropy(logits, labels) + 0.3 * f.cross_entropy(auxiliary, labels)


WEIGHTS = {name: array.astype(np.float64) for name, array in he_weights(Tiny.spec, 3).items()}


def test_the_gradient_of_a_whole_network_is_autograds_as_far_as_rounding_reaches():
    load_implementation("torch_impl")
    import torch

    images, labels = np.random.default_rng(0).standard_normal((3, 3, 6, 5)).astype(np.float32), np.array([2, 0, 1])
    found = differentiate(Tiny.spec, WEIGHTS, images, labels)
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in WEIGHTS.items()}
    Tiny.loss(tensors, torch.tensor(images, dtype=torch.float64), torch.tensor(labels)).backward()
    assert {*found.gradients} == {name for name, tensor in tensors.items() if tensor.grad is not None}
    for name, gradient in found.gradients.items():
        error = np.abs(tensors[name].grad.numpy() - gradient).max()
        assert error <= found.reach[name], name
        assert found.reach[name] < 1e-10 * np.abs(gradient).max() + 1e-13, "a bound that says nothing"
    x = torch.nn.functional.conv2d(torch.tensor(images, dtype=torch.float64), tensors["conv1/weight"], padding=1)
    for kind, right in (("mean", x.mean((0, 2, 3))), ("variance", x.var((0, 2, 3), unbiased=False))):
        error = np.abs(right.detach().numpy() - found.statistics[f"bn1/{kind}"]).max()
        assert error <= found.reach[f"bn1/{kind}"] < 1e-12
    assert found.counts == {"bn1/mean": 90, "bn1/variance": 90}


# Trainings in the three idioms


HONEST = {package: unchanged(package, "lenet5") for package in IMPLEMENTATIONS}


@pytest.mark.parametrize("mutant", daily(HONEST["torch_impl"], of=HONEST.values()))
def test_every_step_of_an_honest_training_follows_from_itself(mutant, float64, tmp_path):
    steps = trained(mutant, tmp_path)
    course = Umpire(small_spec("lenet5"), JOB).course
    known = [he_weights(course.spec, JOB.seed), *steps]
    for step in range(1, STEPS + 1):
        before = known[step - 1]
        previous = known[step - 2] if step > 1 else None
        taken = course.taken(step, previous, before, known[step], course.derivatives(step, before))
        assert taken.misfit.times < 0.5, (step, taken.misfit)
    (way,) = judged(alone=steps)
    assert (way.status, way.reason) == ("ok", None)


OF_EACH_CAUSE = {mutant.cause: mutant for mutant in reversed(training.MUTANTS)}
"""Of those with a cause the first, which is PyTorch's if it has one: a training takes the least time there."""

OF_THE_OTHERS = {mutant.package: mutant for mutant in OF_EACH_CAUSE.values() if mutant.package != "torch_impl"}
"""One in each of the other implementations, where a training takes two to three times as long."""

DAILY = [*(mutant for mutant in OF_EACH_CAUSE.values() if mutant.package == "torch_impl"), *OF_THE_OTHERS.values()]


@pytest.mark.parametrize("mutant", daily(*DAILY, of=training.MUTANTS))
def test_a_mistake_is_told_at_its_step_in_the_training_that_made_it(mutant, honest, float64, tmp_path):
    steps = trained(mutant, tmp_path, until=mutant.step + 1)
    wrong, right = judged(wrong=steps, right=honest)  # the first is not what others are held to
    assert (right.status, right.reason) == ("ok", None)
    assert (wrong.status, wrong.step, wrong.likely_cause) == ("diverged", mutant.step, mutant.cause)
    assert wrong.reason.startswith(f"step {wrong.step}, {wrong.parameter}: off by")
    assert wrong.parameter.startswith(f"{wrong.first_divergence}/")
    assert right.distances[mutant.step - 1].relative == 0 < wrong.distances[mutant.step - 1].relative


@pytest.mark.parametrize("name", ["the rate stays", "clipped by norm", "biases decay too"])
def test_a_mistake_that_all_make_alike_is_seen_in_all(name, tmp_path):
    mutant = next(mutant for mutant in training.MUTANTS if mutant.mistake == name)
    steps = trained(mutant, tmp_path, until=mutant.step + 1)
    for way in judged(one=steps, another=steps):
        assert (way.status, way.step, way.likely_cause) == ("diverged", mutant.step, mutant.cause)


def test_what_one_step_alone_cannot_tell_apart_is_all_named(tmp_path):
    mutant = next(mutant for mutant in training.MUTANTS if mutant.cause == training.NESTEROV)
    (way,) = judged(wrong=trained(mutant, tmp_path, until=1))
    assert way.likely_cause.split(", or ") == [
        training.NESTEROV,
        "the learning rate is 1.9 times what it should be",
        "the velocity takes in 1.9 times the gradient",
    ]


def test_a_small_change_of_one_tensor_is_seen_and_has_no_cause(honest):
    for name in ("c1/weight", "s2/bias", "output/bias"):
        steps = [dict(weights) for weights in honest]
        steps[0][name] = steps[0][name] - 1e-4 * 1e-8 * np.abs(steps[0][name]).max()
        start = he_weights(small_spec("lenet5"), 0)[name]
        steps[0][name] = start + (steps[0][name] - start) * (1 + 1e-7)  # the step is longer by as much
        right, wrong = judged(right=honest, wrong=steps)
        assert right.status == "ok"
        assert (wrong.status, wrong.step, wrong.parameter) == ("diverged", 1, name)


def test_a_failure_of_the_oracle_costs_one_row(honest, monkeypatch):
    missing = [{name: array for name, array in weights.items() if name != "f6/bias"} for weights in honest]
    first, second, third = judged(first=honest, second=missing, third=honest)
    assert (first.status, third.status) == ("ok", "ok")
    assert (second.status, second.reason) == ("crashed", "the oracle failed at step 1: KeyError: 'f6/bias'")
    monkeypatch.setattr(umpires, "gradient_mistakes", lambda course: [lambda *_: 1 / 0])  # a hypothesis costs nothing
    way, _ = judged(wrong=[honest[1], *honest[1:]], right=honest)
    assert (way.status, way.step, way.likely_cause) == ("diverged", 1, None)


def test_a_training_that_ends_early_or_in_nan_takes_nobody_with_it(honest):
    lost = [{name: np.full_like(array, np.nan) for name, array in weights.items()} for weights in honest]
    early, nan, right = judged(early=honest[:4], nan=[*honest[:5], *lost[5:]], right=honest)
    assert (early.status, right.status) == ("ok", "ok")
    assert (nan.status, nan.step) == ("diverged", 6)
    assert "not finite" in nan.reason


# Mistakes with batch normalisation, in a network that is small enough


RECIPE = Recipe(epochs=1, batch_size=3, learning_rate=1e-3, augment=("flip",), dropout=False)


@pytest.fixture(scope="module")
def course():
    pictures = np.random.default_rng(2).integers(0, 256, (9, 6, 5, 3)).astype(np.uint8)
    split = Split(pictures, np.arange(9) % 3)
    return Course(Tiny.spec, Data("noise", split, split, ("a", "b", "c")), RECIPE, share=0.1)


def steps_of(course, *, gradient=lambda course, step, w: course.derivatives(step, w), update=None, store=None):
    """Three steps in NumPy, with the oracle's gradients, or others."""
    weights, velocity, taken = WEIGHTS, {}, []
    previous = None
    for step in (1, 2, 3):
        found, after = gradient(course, step, weights), dict(weights)
        for name, g in found.gradients.items():
            decay = RECIPE.weight_decay * weights[name] if decays(name) else 0.0
            v = RECIPE.momentum * velocity.get(name, 0.0) + (
                update(name, g, decay, weights[name]) if update else g + decay
            )
            velocity[name], after[name] = v, weights[name] - RECIPE.learning_rate * v
        for name, value in found.statistics.items():
            count = found.counts[name]
            share, factor = store if store else (0.1, count / (count - 1))
            factor = factor if name.endswith("variance") else 1.0
            after[name] = weights[name] + share * (factor * value - weights[name])
        taken.append(course.taken(step, previous, weights, after, course.derivatives(step, weights)))
        previous, weights = weights, after
    return taken


def causes(course, taken):
    """What explains the first wrong step and the one after it."""
    first = next(number for number, step in enumerate(taken) if not step.misfit.follows)
    kinds = {name.rpartition("/")[2] for name in WEIGHTS}
    accused = suspects([*optimiser_mistakes(kinds), *gradient_mistakes(course)], taken[first])
    return first + 1, [fit.what for _, fit in confirmed(accused, taken[first + 1])]


def derived(course, step, weights, **options):
    return differentiate(Tiny.spec, weights, *course.pictures(course.batch(step)), **options)


def test_an_honest_training_with_batch_normalisation_follows(course):
    assert all(step.misfit.times < 0.5 for step in steps_of(course))


@pytest.mark.parametrize(
    ("mistake", "step", "cause"),
    [
        ({"store": (0.01, 90 / 89)}, 1, "a batch counts 0.01 in what is stored, not 0.1"),
        ({"store": (0.9, 90 / 89)}, 1, "a batch counts 0.9 in what is stored, not 0.1"),
        ({"store": (0.1, 1.0)}, 1, "the variance that is stored is biased"),
        ({"store": (0.0, 1.0)}, 1, "what is stored of the batches stands still"),
        (
            {"store": (0.01, 1.0)},
            1,
            "a batch counts 0.01 in what is stored, not 0.1 and the variance that is stored is biased",
        ),
        (
            {"gradient": lambda course, step, w: derived(course, step, w, stored=True)},
            1,
            "stored statistics normalise, not the batch's",
        ),
        (
            {"gradient": lambda course, step, w: derived(course, step, w, auxiliary=1.0)},
            1,
            "the auxiliary heads count as much as the logits",
        ),
        (
            {"gradient": lambda course, step, w: derived(course, step, w, auxiliary=0.0)},
            1,
            "the auxiliary heads do not count",
        ),
        (
            {"update": lambda name, g, decay, w: g + decay + (5e-4 * w if name.endswith(("gamma", "beta")) else 0)},
            1,
            "gamma and beta decay too",
        ),
        (
            {"update": lambda name, g, decay, w: g + (5e-4 * w)},
            1,
            "biases, gamma and beta decay too",
        ),
        ({"update": lambda name, g, decay, w: g + 3 * decay}, 1, "the decay is 0.0015, not 0.0005"),
        (
            {"update": lambda name, g, decay, w: 2 * g + decay},
            1,
            "the gradient of the loss is 2 times what it should be",
        ),
    ],
)
def test_mistakes_around_batch_normalisation(course, mistake, step, cause):
    assert causes(course, steps_of(course, **mistake)) == (step, [cause])


# In processes


@pytest.mark.slow
def test_three_backends_go_one_way():
    backends = select(["torch", "keras-tensorflow", "tf1"])
    run = run_trajectories(small_spec("lenet5"), backends, steps=8)
    assert run.verdict == "certified", [trajectory.reason for trajectory in run.trajectories]
    assert len(run.trajectories) == 6
    for trajectory in run.trajectories:
        assert len(trajectory.distances) == len(trajectory.losses) == 8
        assert trajectory.largest < (1e-12 if trajectory.dtype == "float64" else 1e-5)
    assert all(0 < distance < 1e-5 for distance in run.envelope)
    for trajectory in run.trajectories[:3]:
        assert sum(trajectory.losses[4:]) < sum(trajectory.losses[:4])  # the second epoch, and the first


@pytest.mark.slow
def test_a_network_with_batch_normalisation_is_trained_where_rounding_stays_small():
    """In float32 too; on 32×32, with four pictures a step, the first step already differed by more than allowed."""
    run = run_trajectories(small_spec("resnet18"), select(["torch"]), steps=2)
    assert run.image_size == (64, 64)
    assert run.verdict == "certified", [trajectory.reason for trajectory in run.trajectories]
    assert all(0 < distance < 1e-4 for distance in run.envelope), run.envelope


def test_where_nobody_is_right_in_float64_float32_is_held_against_nothing(monkeypatch):
    """The recipe that the trainings follow, and the one that the umpire knows, differ in the momentum."""
    real = umpires.recipe_for
    monkeypatch.setattr(umpires, "recipe_for", lambda job: replace(real(job), momentum=0.8))
    run = run_trajectories(small_spec("lenet5"), select(["torch"]), steps=3)
    double, single = run.trajectories
    assert (double.status, double.step, double.likely_cause) == ("diverged", 2, "the momentum is 0.9, not 0.8")
    assert (single.status, run.verdict) == ("skipped", "diverged")


def test_float32_is_held_to_twice_the_envelope():
    far = [Distance(1e-6, "fc1/weight"), Distance(9e-6, "fc2/bias")]
    way = Trajectory("torch", "float32", distances=far)
    judge_in_float32(way, envelope=[1e-6, 5e-6])
    assert way.status == "ok"
    judge_in_float32(way, envelope=[1e-6, 4e-6])
    assert (way.status, way.step, way.parameter, way.first_divergence) == ("diverged", 2, "fc2/bias", "fc2")
    assert TrajectoryRun("lenet5", (32, 32), 2, [way], []).verdict == "diverged"
