"""`triptych train`: trains a network."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.cli.app import Framework, Json, Name, TakesFormerNames, Verbose, app, print_json
from common.cli.terminal import progress_bar, say, standard_error, standard_output
from common.errors import TriptychError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from common.cli.training import Training
    from common.training.recipe import Recipe
    from common.training.run import Epoch, Monitor, Step


class Augmentation(StrEnum):
    """What is done to training pictures at random."""

    NONE = "none"
    CROP = "crop"
    FLIP = "flip"
    COLOUR = "colour"


class BadFiles(StrEnum):
    """What is done about images that cannot be read."""

    REFUSE = "refuse"
    SKIP = "skip"


@app.command(cls=TakesFormerNames)
def train(
    architecture: Name,
    framework: Annotated[Framework, typer.Option(help="Implementation to train.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with IDX files, or with a folder of images for each class. By default scikit-learn's digits."
        ),
    ] = None,
    finetune: Annotated[
        Path | None, typer.Option(help="Weights to start from, in any format that `triptych port` reads.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="With --finetune: layer that starts from its initialisation; may be repeated."),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Number of logits. By default the number of classes in the data.")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of the images. By default the network's own.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs: how often every image is seen.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Number of images in a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Initial learning rate.")] = 0.01,
    milestone: Annotated[
        list[int] | None,
        typer.Option(
            help="Epoch after which the learning rate is divided by 10; may be repeated. By default at 2/3 and 8/9."
        ),
    ] = None,
    momentum: Annotated[float, typer.Option(help="Momentum. By default AlexNet's.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the kernels. By default AlexNet's.")] = 5e-4,
    dropout: Annotated[bool, typer.Option(help="Whether dropout layers are active.")] = True,
    augment: Annotated[
        list[Augmentation] | None,
        typer.Option(help="Random change of the images, as AlexNet made them; may be repeated. By default crop."),
    ] = None,
    bad_files: Annotated[BadFiles, typer.Option(help="What to do about images that cannot be read.")] = BadFiles.REFUSE,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is random.")] = 0,
    device: Annotated[str, typer.Option(help="Device to train on: cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of the run. By default a new one in runs.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a network in one framework's own idiom. Checkpoints, weights and a plot are written to a folder."""
    from common.cli.training import prepare
    from common.training.recipe import Recipe

    recipe = Recipe(
        epochs=epochs,
        batch_size=batch,
        learning_rate=learning_rate,
        milestones=tuple(milestone) if milestone else None,
        momentum=momentum,
        weight_decay=weight_decay,
        dropout=dropout,
        augment=tuple(sorted({choice.value for choice in augment or [Augmentation.CROP]} - {Augmentation.NONE})),
        seed=seed,
    )
    training = prepare(
        architecture,
        framework.value,
        recipe,
        data=data,
        bad_files=bad_files.value,
        finetune=finetune,
        skip=skip or (),
        num_classes=num_classes,
        image_size=_size(image_size) if image_size else None,
        device=device,
        out=out,
        resume=resume,
    )
    history = _train(standard_error() if json else standard_output(), training, resume)
    if json:
        print_json(training.as_json(history))


def _train(console: Console, training: Training, resume: bool) -> list[Epoch]:
    """Train, with what is known before, the progress, and the outcome. It ends this process if another leads."""
    from common.training.run import PLOT, WEIGHTS

    console.quiet = not training.leads
    spec, data, folder = training.spec, training.data, training.folder
    for sentence in data.skipped:
        say(console, f"skipped: {sentence}")
    for note in training.notes:
        say(console, f"note: {note}")
    package, model = training.model()
    say(
        console,
        f"{spec.name} with {training.framework} on {data.name}: {len(data.train):,} pictures to learn from, "
        f"{len(data.test):,} to test with, {len(data.classes)} classes; in {folder}",
    )
    try:
        with progress_bar(console, remaining=True) as bars:
            history = training.run(package, model, resume=resume, monitor=_shown(console, bars, training.recipe))
    except KeyboardInterrupt:
        if training.leads:
            hint = f"continue with --resume --out {folder}, from the last epoch that was finished"
            print(f"triptych: {hint}", file=sys.stderr)
        raise
    if not training.leads:
        raise SystemExit
    say(
        console,
        f"top-1 {history[-1].top1:.2%}, top-5 {history[-1].top5:.2%} of {len(data.test):,} held-out pictures; "
        f"{folder / WEIGHTS}, {folder / PLOT}",
    )
    return history


def _shown(console: Console, bars: Progress, recipe: Recipe) -> Monitor:
    """A line for each epoch, and below them, on a terminal, a bar with the loss of the latest step."""
    from common.training.run import Monitor

    task = bars.add_task("the first step takes longest", total=None)

    class Shown(Monitor):
        def step(self, step: Step) -> None:
            bars.update(
                task,
                completed=(step.epoch - 1) * step.steps + step.step,
                total=recipe.epochs * step.steps,
                description=f"epoch {step.epoch}, loss {step.loss:.4f}",
            )

        def epoch(self, number: int, epoch: Epoch) -> None:
            say(
                console,
                f"epoch {number:3}  loss {epoch.loss:.4f}  test loss {epoch.test_loss:.4f}  "
                f"top-1 {epoch.top1:7.2%}  top-5 {epoch.top5:7.2%}  learning rate {epoch.learning_rate:g}",
            )

    return Shown()


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise TriptychError(f"--image-size is {text!r}, expected HEIGHTxWIDTH such as 224x224")
    return int(height), int(width)
