"""`triptych export`: networks as ONNX files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import Framework, Json, TakesFormerNames, Verbose, app, print_json, progress
from common.cli.terminal import say, standard_error, standard_output
from common.errors import TriptychError
from common.specs import CATALOGUE, matching


class ElementType(StrEnum):
    """What an export's numbers can be."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class LRNForm(StrEnum):
    """How an export writes local response normalisation."""

    NODE = "node"
    NODES = "nodes"


@app.command(cls=TakesFormerNames)
def export(
    what: Annotated[
        str,
        typer.Argument(metavar="ARCH|PATTERN|FILE", help="A network, a pattern such as 'vgg*', or a file of weights."),
    ],
    framework: Annotated[Framework, typer.Option(help="Implementation whose model is exported.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write; for a pattern, a folder for the files NAME.onnx.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights, in any format that `triptych port` reads. By default drawn from a seed."),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(help="Output of the graph: logits (the default), aux1 or aux2; may be repeated."),
    ] = None,
    softmax: Annotated[bool, typer.Option("--softmax", help="Return probabilities instead of logits.")] = False,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Fixed number of images in a batch. By default any number.")
    ] = None,
    dtype: Annotated[
        ElementType, typer.Option(help="Type of the image, the weights and all values.")
    ] = ElementType.FLOAT32,
    lrn: Annotated[
        LRNForm | None,
        typer.Option(help="Write LRN as one node, or as six nodes: faster, and the default in float32."),
    ] = None,
    fold: Annotated[bool, typer.Option("--fold", help="Fold batch normalisations into convolutions.")] = False,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Write the weights into a separate file, OUT.data.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Export networks to ONNX from one framework's own model."""
    from common.onnx.options import ExportOptions
    from common.porting.exporting import export_network

    form = lrn.value if lrn else None
    options = ExportOptions(tuple(output or ("logits",)), softmax, batch, dtype.value, fold, external_data, lrn=form)
    if Path(what).is_file() or (what not in CATALOGUE and Path(f"{what}.index").is_file()):
        if weights:
            raise TriptychError(f"{what} is already a file of weights; name an architecture, or leave out --weights")
        jobs: list[tuple[str | None, Path | None, Path]] = [(None, Path(what), out)]
    else:
        names = matching([what])
        several = len(names) > 1 or what not in CATALOGUE
        if weights and several:
            raise TriptychError(
                f"--weights {weights} belongs to one network, but {what!r} is a pattern; name one network"
            )
        if several and out.exists() and not out.is_dir():
            raise TriptychError(f"{what!r} is a pattern, so --out must be a folder, and {out} is a file")
        if several:
            out.mkdir(parents=True, exist_ok=True)
        jobs = [(name, weights, out / f"{name}.onnx" if several else out) for name in names]
    written = []
    with progress(len(jobs), standard_error()) as advance:
        for name, file, path in jobs:
            written.append(export_network(name, file, framework.value, path, options))
            advance(written[-1]["architecture"])
            if not json:
                say(standard_output(), "{path}: {architecture} from {source}, {bytes:,} bytes".format(**written[-1]))
                for note in written[-1]["notes"]:
                    say(standard_output(), f"note: {note}")
    if json:
        print_json(written)
