"""`triptych train`: a training."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import Framework, Json, Name, TakesFormerNames, Verbose, app, print_json
from common.cli.terminal import standard_error, standard_output
from common.errors import TriptychError


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
    framework: Annotated[Framework, typer.Option(help="The implementation that is trained.")],
    data: Annotated[
        Path | None,
        typer.Option(help="IDX files, or a folder of images for each class; scikit-learn's digits by default."),
    ] = None,
    finetune: Annotated[
        Path | None, typer.Option(help="Weights to start from, in any format that `triptych port` reads.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="A layer that starts anew when fine-tuning; may be repeated.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Number of logits; by default as many as the data have classes.")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of the pictures; the network's own by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of times that every picture is seen.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Number of pictures in a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Initial learning rate.")] = 0.01,
    milestone: Annotated[
        list[int] | None,
        typer.Option(
            help="Epoch after which the learning rate is divided by 10; may be repeated. By default 2/3 and 8/9 of all."
        ),
    ] = None,
    momentum: Annotated[float, typer.Option(help="Momentum of the gradient descent; AlexNet's by default.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the kernels; AlexNet's by default.")] = 5e-4,
    dropout: Annotated[bool, typer.Option(help="Whether the network's dropout layers drop.")] = True,
    augment: Annotated[
        list[Augmentation] | None,
        typer.Option(help="Random change of the pictures, of AlexNet's three; may be repeated; crop by default."),
    ] = None,
    bad_files: Annotated[
        BadFiles, typer.Option(help="What is done about images that cannot be read.")
    ] = BadFiles.REFUSE,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="Device to train on: cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of the run; a new one in runs by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run was interrupted.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a network in one framework's own idiom; checkpoints, weights and a plot go to a folder."""
    from common.training.command import train_command
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
    report = train_command(
        standard_error() if json else standard_output(),
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
    if json:
        print_json(report)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise TriptychError(f"--image-size is {text!r}, expected HEIGHTxWIDTH such as 224x224")
    return int(height), int(width)
