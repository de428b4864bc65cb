"""`triptych train`: a training with its progress on the terminal."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from common.cli.terminal import progress_bar, say
from common.errors import TriptychError
from common.frameworks import import_implementation
from common.names import layer_of
from common.parity.backends import Hardware, device_environment, require
from common.porting.formats import read_source
from common.porting.matching import understand
from common.specs import get_spec
from common.training.data import digits, read_data
from common.training.plot import plot_history
from common.training.recipe import Recipe, starting_weights
from common.training.run import PLOT, WEIGHTS, Epoch, Monitor, Step, last_folder, launched, next_folder
from common.weights import write_weights_file

RUNS = Path("runs")


def train_command(
    console: Console,
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
) -> dict[str, Any]:
    """Train a network and write its weights, its history and its plot; returns the report for programs.

    Of the processes that `torchrun` starts, the first writes and reports. In the others this does not return: they end,
    silently, when the training has.

    Raises:
        TriptychError: something that was asked for cannot be done; one sentence says what.
    """
    get_spec(architecture)
    if skip and not finetune:
        raise TriptychError("--skip names layers that start anew when fine-tuning; name the weights with --finetune")
    if device == "webgpu":
        raise TriptychError("WebGPU runs exports, which cannot be trained; train on cpu or cuda")
    hardware = Hardware(device)
    require(hardware)
    rank, processes = launched()
    leads = rank == 0
    if processes > 1 and framework != "torch":
        raise TriptychError(
            f"torchrun has started {processes} processes, but each would train a {framework} model of its own; "
            "leave it out, or train --framework torch"
        )
    console.quiet = not leads
    name = f"{architecture}-{framework}"
    folder = out or (last_folder(RUNS, name) if resume else next_folder(RUNS, name))
    pictures = digits(recipe.seed) if data is None else read_data(data, bad_files=bad_files, seed=recipe.seed)
    for sentence in pictures.skipped:
        say(console, f"skipped: {sentence}")
    spec = get_spec(architecture, num_classes=num_classes or len(pictures.classes), image_size=image_size)
    weights = starting_weights(spec, recipe.seed)
    if finetune:
        network = understand(read_source(finetune), spec.name, skip=skip, num_classes=spec.num_classes)
        weights |= {name: array for name, array in network.weights.items() if layer_of(name) not in skip}
        recipe = replace(recipe, preprocessing=network.preprocessing)
        for note in network.notes:
            say(console, f"note: {note}")

    os.environ.update(device_environment(hardware))
    package = import_implementation(framework)
    model = package.build(spec.name, num_classes=spec.num_classes, image_size=image_size)
    model = importlib.import_module(f"{package.__name__}.backend").on_device(model, device, hardware.precision)
    package.load_weights(model, weights)
    say(
        console,
        f"{spec.name} with {framework} on {pictures.name}: {len(pictures.train):,} pictures to learn from, "
        f"{len(pictures.test):,} to test with, {len(pictures.classes)} classes; in {folder}",
    )
    try:
        with _shown(console, recipe) as monitor:
            history = package.train(model, pictures, recipe, folder=folder, resume=resume, monitor=monitor)
    except KeyboardInterrupt:
        if leads:
            hint = f"go on with --resume --out {folder}, from the last epoch that was finished"
            print(f"triptych: {hint}", file=sys.stderr)
        raise
    if not leads:
        raise SystemExit
    preprocessing = (recipe.preprocessing or spec.preprocessing).as_json()
    result = {"architecture": spec.name, "preprocessing": preprocessing, "classes": json.dumps(pictures.classes)}
    write_weights_file(folder / WEIGHTS, package.read_weights(model), metadata=result)
    plot_history(history, folder / PLOT, f"{spec.name} with {framework}")
    last = history[-1]
    say(
        console,
        f"top-1 {last.top1:.2%}, top-5 {last.top5:.2%} of {len(pictures.test):,} held-out pictures; "
        f"{folder / WEIGHTS}, {folder / PLOT}",
    )
    return {
        "architecture": spec.name,
        "framework": framework,
        "weights": str(folder / WEIGHTS),
        "plot": str(folder / PLOT),
        "skipped": list(pictures.skipped),
        "history": [
            {
                "learning_rate": epoch.learning_rate,
                "loss": epoch.loss,
                "test_loss": epoch.test_loss,
                "top1": epoch.top1,
                "top5": epoch.top5,
            }
            for epoch in history
        ],
    }


@contextmanager
def _shown(console: Console, recipe: Recipe) -> Iterator[Monitor]:
    """A line for each epoch, and below them, on a terminal, a bar with the loss of the latest step."""
    with progress_bar(console, remaining=True) as bars:
        yield _Shown(console, bars, recipe)


class _Shown(Monitor):
    def __init__(self, console: Console, bars: Progress, recipe: Recipe) -> None:
        self.console, self.bars, self.recipe = console, bars, recipe
        self.task = bars.add_task("the first step takes longest", total=None)

    def step(self, step: Step) -> None:
        self.bars.update(
            self.task,
            completed=(step.epoch - 1) * step.steps + step.step,
            total=self.recipe.epochs * step.steps,
            description=f"epoch {step.epoch}, loss {step.loss:.4f}",
        )

    def epoch(self, number: int, epoch: Epoch) -> None:
        say(
            self.console,
            f"epoch {number:3}  loss {epoch.loss:.4f}  test loss {epoch.test_loss:.4f}  "
            f"top-1 {epoch.top1:7.2%}  top-5 {epoch.top5:7.2%}  learning rate {epoch.learning_rate:g}",
        )
