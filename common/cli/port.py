"""`triptych port`: weights from one format to another."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import (
    Arch,
    Entry,
    Force,
    Ignore,
    Json,
    Prefix,
    Preparation,
    Rename,
    Rounding,
    Verbose,
    app,
    print_json,
    progress,
)
from common.cli.terminal import standard_error, standard_output


class PortTarget(StrEnum):
    """What weights can be ported to."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    KERAS = "keras"
    TF1 = "tf1"
    ONNX = "onnx"


@app.command()
def port(
    source: Annotated[
        Path, typer.Argument(help="Weights: .npy, .npz, safetensors, .pth, .keras, .h5, ONNX, Caffe, TF1.")
    ],
    to: Annotated[PortTarget, typer.Option(help="Format to write.")],
    out: Annotated[Path, typer.Option(help="The file to write; for tf1, the checkpoint's prefix.")],
    arch: Arch = None,
    names: Annotated[
        str | None, typer.Option(help="Names in a state dict: torchvision for torchvision's; ours by default.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="A layer to leave initialised; may be repeated.")] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Number of logits, where the file has another.")
    ] = None,
    entry: Entry = None,
    prefix: Prefix = None,
    rename: Rename = None,
    ignore: Ignore = None,
    rounding: Rounding = False,
    force: Force = False,
    preprocessing: Preparation = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Write without proof; the file says so.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Port weights from one format to another, and prove that nothing was lost."""
    from common.cli.tensors import print_report
    from common.porting.port import port as port_weights
    from common.porting.reading import Reading
    from common.porting.targets import Target

    with progress(3, standard_error()) as advance:
        report = port_weights(
            source,
            Target(to.value, out, names),
            architecture=arch,
            skip=skip or (),
            num_classes=num_classes,
            reading=Reading(entry, prefix, tuple(rename or ()), tuple(ignore or ()), rounding, force, preprocessing),
            verify=not no_verify,
            on_progress=advance,
        )
    if json:
        print_json(report.as_json())
    else:
        print_report(standard_output(), report)
