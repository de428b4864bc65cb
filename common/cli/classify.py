"""`triptych classify`: what is in photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import (
    Arch,
    Entry,
    Force,
    Ignore,
    Json,
    Labels,
    Prefix,
    Preparation,
    Rename,
    Rounding,
    Verbose,
    app,
    print_json,
)
from common.cli.terminal import say, standard_output


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Photographs to classify.")],
    weights: Annotated[Path, typer.Option(help="Weights, in any format that `triptych port` reads.")],
    arch: Arch = None,
    backend: Annotated[str, typer.Option(help="Backend to run the network in.")] = "torch",
    labels: Labels = None,
    entry: Entry = None,
    prefix: Prefix = None,
    rename: Rename = None,
    ignore: Ignore = None,
    rounding: Rounding = False,
    force: Force = False,
    preprocessing: Preparation = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what is in photographs: the five likeliest classes of each."""
    from dataclasses import asdict

    from common.parity.backends import select
    from common.porting.classify import classify as classify_images
    from common.porting.classify import own_labels, read_labels, understand_weights
    from common.porting.preparation import known_preparation
    from common.porting.reading import Reading

    (chosen,) = select([backend])
    reading = Reading(entry, prefix, tuple(rename or ()), tuple(ignore or ()), rounding, force, preprocessing)
    network = understand_weights(weights, arch, reading)
    names = read_labels(labels, network.spec) if labels else own_labels(network)
    recipe = known_preparation(network.preprocessing, weights)
    answers = classify_images(images, network, chosen, names)
    if json:
        print_json(
            {
                "architecture": network.spec.name,
                "backend": chosen.name,
                "preprocessing": asdict(recipe),
                "notes": list(network.notes),
                "images": [
                    {"path": str(path), "classes": [asdict(guess) for guess in guesses]}
                    for path, guesses in zip(images, answers, strict=True)
                ],
            }
        )
        return
    console = standard_output()
    for note in network.notes:
        say(console, f"note: {note}")
    for path, guesses in zip(images, answers, strict=True):
        say(console, f"{path}: {network.spec.name} in {chosen.name}")
        for guess in guesses:
            label = f"  {guess.label}" if guess.label else ""
            say(console, f"{guess.probability:8.2%}  class {guess.number}{label}")
