"""A whole training: images, a network, its starting weights, and its results."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import TriptychError, argument
from common.implementations import import_implementation
from common.operations.names import layer_of
from common.parity.backends import Hardware, device_environment, require
from common.porting.formats import read_source
from common.porting.matching import understand
from common.specs import get_spec
from common.specs.architecture import Architecture
from common.training.data import Data, digits, read_data
from common.training.plot import plot_history
from common.training.recipe import Recipe, starting_weights
from common.training.run import PLOT, WEIGHTS, Epoch, Monitor, last_folder, launched, next_folder
from common.weights import Weights, write_weights_file

RUNS = Path("runs")


@dataclass(frozen=True)
class Training:
    """Everything that a training needs but the time."""

    spec: Architecture
    framework: str
    recipe: Recipe
    data: Data
    weights: Weights
    """To start from."""
    hardware: Hardware
    folder: Path
    notes: tuple[str, ...] = ()
    """What is to be known about the weights that it starts from."""

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports: the only one, or the first of those that `torchrun` started."""
        return launched()[0] == 0

    def model(self) -> tuple[ModuleType, Any]:
        """The implementation, and its model with the weights to start from, on the device."""
        os.environ.update(device_environment(self.hardware))
        package = import_implementation(self.framework)
        model = package.build(self.spec.name, num_classes=self.spec.num_classes, image_size=self.spec.input_shape[1:])
        backend = importlib.import_module(f"{package.__name__}.backend")
        model = backend.on_device(model, self.hardware.device, self.hardware.precision)
        package.load_weights(model, self.weights)
        return package, model

    def run(self, package: ModuleType, model: Any, *, resume: bool, monitor: Monitor) -> list[Epoch]:
        """Train, and write the weights and the plot; returns the history.

        Raises:
            TriptychError: there is nothing to resume, a file cannot be written, or the loss is not finite.
        """
        history = package.train(model, self.data, self.recipe, folder=self.folder, resume=resume, monitor=monitor)
        if self.leads:
            result = {
                "architecture": self.spec.name,
                "preprocessing": (self.recipe.preprocessing or self.spec.preprocessing).as_json(),
                "classes": json.dumps(self.data.classes),
            }
            write_weights_file(self.folder / WEIGHTS, package.read_weights(model), metadata=result)
            plot_history(history, self.folder / PLOT, f"{self.spec.name} with {self.framework}")
        return history

    def as_json(self, history: Sequence[Epoch]) -> dict[str, Any]:
        """The report for programs."""
        told = ("learning_rate", "loss", "test_loss", "top1", "top5")
        return {
            "architecture": self.spec.name,
            "framework": self.framework,
            "weights": str(self.folder / WEIGHTS),
            "plot": str(self.folder / PLOT),
            "skipped": list(self.data.skipped),
            "history": [{name: getattr(epoch, name) for name in told} for epoch in history],
        }


def prepare(
    architecture: str,
    framework: str,
    recipe: Recipe,
    *,
    data: Path | None = None,
    bad_files: str = "refuse",
    finetune: Path | None = None,
    skip: Sequence[str] = (),
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    device: str = "cpu",
    out: Path | None = None,
    resume: bool = False,
) -> Training:
    """Read what a training needs.

    Args:
        architecture: a name of the catalogue.
        framework: torch, keras or tf1.
        recipe: how it is trained.
        data: IDX files or a folder of images for each class; scikit-learn's digits by default.
        bad_files: `refuse` or `skip` images that cannot be read.
        finetune: weights to start from, in any format that can be ported.
        skip: layers that start anew all the same.
        num_classes: the number of logits; by default as many as the data have classes.
        image_size: (height, width); the network's own by default.
        device: cpu or cuda.
        out: the folder of the run; one in `RUNS` by default, the last one there if it is to be resumed.
        resume: whether there is a run to be resumed.

    Raises:
        TriptychError: something that was asked for cannot be done; one sentence says what.
    """
    get_spec(architecture)
    if skip and not finetune:
        names = f"{argument('skip')} is for fine-tuning"
        raise TriptychError(f"{names}; give the weights with {argument('finetune')}")
    if device == "webgpu":
        raise TriptychError("WebGPU runs exports, which cannot be trained; train on cpu or cuda")
    hardware = Hardware(device)
    require(hardware)
    _, processes = launched()
    if processes > 1 and framework != "torch":
        raise TriptychError(
            f"torchrun has started {processes} processes, but each would train a {framework} model of its own; "
            f"leave out torchrun, or train with {argument('framework', 'torch')}"
        )
    name = f"{architecture}-{framework}"
    folder = out or (last_folder(RUNS, name) if resume else next_folder(RUNS, name))
    pictures = digits(recipe.seed) if data is None else read_data(data, bad_files=bad_files, seed=recipe.seed)
    spec = get_spec(architecture, num_classes=num_classes or len(pictures.classes), image_size=image_size)
    weights = starting_weights(spec, recipe.seed)
    notes: tuple[str, ...] = ()
    if finetune:
        network = understand(read_source(finetune), spec.name, skip=skip, num_classes=spec.num_classes)
        weights |= {name: array for name, array in network.weights.items() if layer_of(name) not in skip}
        recipe, notes = replace(recipe, preprocessing=network.preprocessing), network.notes
    return Training(spec, framework, recipe, pictures, weights, hardware, folder, notes)
