"""One training of a comparison, in the process of a backend.

Each backend trains in a process of its own (`python -m common.trajectories.worker BACKEND`), with its implementation's
own `train`: its own pipeline, optimiser, weight decay and schedule. After each step it hands over every parameter and
waits. Dropout is off, since no two frameworks draw the same masks. `common.trajectories.race` asks the workers and
judges.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.errors import TriptychError
from common.operations import BatchNorm
from common.operations.sums import rounded
from common.parity.backends import BACKENDS, Backend
from common.process import answering, requests
from common.process.sparing import spare_imports
from common.specs import get_spec
from common.specs.architecture import Architecture
from common.specs.seeded import seeded_generator
from common.training.data import Data, Split
from common.training.recipe import Recipe, he_weights
from common.training.run import Monitor, Step
from common.weights import Weights

ENVELOPE_BITS = 18
"""The precision of the parameters that a float32 trajectory is compared with.

A float32 training rounds to 24 bits, and not only the parameters. A sum of n terms, added one after another, rounds n
times at random and has an error of about √n roundings. An exact sum whose n factors each have an error of √n roundings
is as wrong. These networks have sums of 4096 terms, which is 6 bits.
"""

LEARNING_RATE = 1e-4
"""The rate in float64. In a hundred steps the loss falls by a third or more, and an error at the start does not grow.

At 0.001, GoogLeNet with batch normalisation turns an error of 10⁻¹⁵ into 2·10⁻¹¹ in that time.
"""

SLOW_LEARNING_RATE = 1e-6
"""The rate in float32: so small that changes by rounding stay small.

At 0.001, the parameters of deep networks have nothing in common after 100 steps in float32. No limit could tell this
from a mistake. At 1e-5, a ReLU that changes sides still changes more than all rounding. A mistake in the optimiser is
seen at any rate: parameters that start at 0, such as biases and beta, are the sum of the steps and nothing else.
"""

STEPS_IN_EPOCH, CLASSES = 4, 4

SIZES, BATCH = (32, 64, 224), 4
"""The heights and widths to choose from, and the number of images in a step."""

NORMALISED_SIZES, NORMALISED_BATCH = (64, 224), 16
"""The same for networks with batch normalisation.

On 32×32 the last maps of a ResNet are single pixels, and a batch of 4 has 4 of them. If these hardly differ, their
variance is all cancellation: a relative error of 1e-10 grows 10⁹-fold in ten steps, and correct backends diverge. On
64×64 with 16 images it grows 16-fold.
"""


@dataclass(frozen=True)
class Job:
    """The job of a process: what to train."""

    architecture: str
    num_classes: int
    image_size: tuple[int, int]
    steps: int
    seed: int
    dtype: str
    """`float64` or `float32`."""
    learning_rate: float = LEARNING_RATE
    rounded: bool = False
    """Whether the parameters are rounded to `ENVELOPE_BITS` at the start and after every step."""
    folder: str = ""


def small_spec(architecture: str) -> Architecture:
    """The network with few classes, on the smallest image of a few usual sizes that it takes."""
    for size in NORMALISED_SIZES if _normalises(architecture) else SIZES:
        try:
            return get_spec(architecture, num_classes=CLASSES, image_size=(size, size))
        except TriptychError:
            continue
    return get_spec(architecture, num_classes=CLASSES)


def _normalises(architecture: str) -> bool:
    return any(isinstance(layer.operation, BatchNorm) for layer in get_spec(architecture).layers)


def recipe_for(job: Job) -> Recipe:
    """A recipe with few images in a step, and two changes of the learning rate."""
    return Recipe(
        epochs=-(-job.steps // STEPS_IN_EPOCH),
        batch_size=NORMALISED_BATCH if _normalises(job.architecture) else BATCH,
        learning_rate=job.learning_rate,
        dropout=False,
        augment=("crop", "flip", "colour"),
        seed=job.seed,
    )


def pictures_for(job: Job) -> Data:
    """Sections of the photographs that ship with scikit-image; the class says which photograph."""
    from common.specs.photographs import photograph

    generator = seeded_generator(job.seed, "sections")
    pictures = [np.asarray(photograph(index)) for index in range(CLASSES)]
    sections, size = [], 96
    count = STEPS_IN_EPOCH * recipe_for(job).batch_size
    for number in range(count):
        picture = pictures[number % CLASSES]
        top, left = (int(generator.integers(0, length - size)) for length in picture.shape[:2])
        sections.append(picture[top : top + size, left : left + size])
    split = Split(np.stack(sections), np.arange(count) % CLASSES)
    return Data("photographs", split, split.take(np.arange(CLASSES)), tuple("abcd"))


# The process of a backend


class _Enough(Exception):
    """All steps that were asked for have been made."""


class _Export(Monitor):
    """Writes the parameters after each step, and then waits for the next request."""

    def __init__(self, job: Job, read: Callable, load: Callable, answer: Callable, wait: Callable) -> None:
        self.job, self.read, self.load, self.answer, self.wait = job, read, load, answer, wait
        self.made = 0

    def step(self, step: Step) -> None:
        self.made += 1
        weights = self.read()
        if self.job.rounded:
            weights = _shortened(weights)
            self.load(weights)
        path = Path(self.job.folder) / f"{self.made}.safetensors"
        save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, path)
        self.answer({"path": str(path), "loss": step.loss})
        if self.made == self.job.steps:
            raise _Enough
        self.wait()


def _shortened(weights: Weights) -> dict[str, np.ndarray]:
    return {name: rounded(array.astype(np.float32), ENVELOPE_BITS) for name, array in weights.items()}


def train_in_steps(job: Job, backend: Backend, answer: Callable, wait: Callable) -> None:
    """Train as the job says; after each step, answer with the parameters' file and the loss, and wait for the next."""
    package = importlib.import_module(backend.implementation)
    module = importlib.import_module(f"{backend.implementation}.backend")
    height, width = job.image_size
    spec = get_spec(job.architecture, num_classes=job.num_classes, image_size=(height, width))
    build = module.build_float64 if job.dtype == "float64" else module.build
    with getattr(module, "uninitialised", nullcontext)():
        model = build(job.architecture, num_classes=job.num_classes, image_size=(height, width))
    weights = he_weights(spec, job.seed)  # with which a hundred small steps go far
    package.load_weights(model, _shortened(weights) if job.rounded else weights)
    monitor = _Export(
        job, lambda: package.read_weights(model), lambda weights: package.load_weights(model, weights), answer, wait
    )
    try:
        package.train(model, pictures_for(job), recipe_for(job), monitor=monitor)
    except _Enough:
        return


def main() -> None:
    """Wait for a job on standard input, then answer each line with one step."""
    from common.parity.worker import describe_error

    answer, asked = answering(), requests()
    job = Job(**next(asked))
    spare_imports()
    try:
        train_in_steps(job, BACKENDS[sys.argv[1]], answer, lambda: next(asked))
    except Exception as error:  # a framework's own failure is a row in the report, not the end of it
        answer({"error": describe_error(error)})
    next(asked)


if __name__ == "__main__":
    main()
