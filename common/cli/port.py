"""`triptych port`: weights from one format to another."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from common.cli.app import (
    DIFFERENCE_FOUND,
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
from common.errors import TriptychError


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
        str,
        typer.Argument(
            help="File of weights: .npy, .npz, safetensors, .pth, .keras, .h5, ONNX, Caffe, TF1. With --into: a MODEL "
            "as for `triptych prove`."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write; for tf1, the prefix of the checkpoint.")],
    to: Annotated[PortTarget | None, typer.Option(help="Format to write.")] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Another model of the same network, which gets the weights. Its own checkpoint is written: .pth, "
            ".safetensors, .weights.h5, .keras, .onnx.",
        ),
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="With --into: shape of the source's input, such as 1x3x224x224.")
    ] = None,
    arch: Arch = None,
    names: Annotated[
        str | None,
        typer.Option(help="Names to write: torchvision for torchvision's own. By default canonical names."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Layer not to port: it gets its seeded initialisation; may be repeated.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Number of logits, if not the number in the file.")
    ] = None,
    entry: Entry = None,
    prefix: Prefix = None,
    rename: Rename = None,
    ignore: Ignore = None,
    rounding: Rounding = False,
    force: Force = False,
    preprocessing: Preparation = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Write without a proof; the file then says so.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Port weights from one format to another, or from one model to another, and prove that nothing was lost."""
    if (to is None) == (into is None):
        raise TriptychError("give either --to FORMAT or --into MODEL")
    if into is not None:
        _port_into(source, into, out, input_shape, force=force, json=json)
    assert to is not None
    from common.cli.tensors import print_report
    from common.porting.port import port as port_weights
    from common.porting.reading import Reading
    from common.porting.targets import Target

    with progress(3, standard_error()) as advance:
        report = port_weights(
            Path(source),
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


def _port_into(source: str, into: str, out: Path, input_shape: str | None, *, force: bool, json: bool) -> NoReturn:
    """One model's weights as another's checkpoint; ends with the status of the proof."""
    from common.cli.pairs import print_ported
    from common.cli.proofs import read_shape
    from common.prove.into import port_into
    from common.prove.models import parse

    console = standard_error(quiet=True) if json else standard_output()
    with progress(7, standard_error()) as advance:
        shape = None if input_shape is None else read_shape(input_shape)
        ported = port_into((parse(source), parse(into)), out, shape=shape, force=force, advance=advance)
    print_ported(console, ported)
    if json:
        print_json(ported.as_json())
    raise typer.Exit(DIFFERENCE_FOUND if ported.verdict in ("diverged", "incomplete") else 0)
