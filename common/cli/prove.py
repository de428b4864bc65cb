"""`triptych prove`: a model of your own."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import DIFFERENCE_FOUND, Json, app, print_json, progress
from common.cli.terminal import standard_error, standard_output


@app.command()
def prove(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="FILE.onnx, FILE.keras, FILE.py:NAME (the file is run), package.module:NAME, timm:NAME, "
            "torchvision:NAME, keras.applications:NAME. A second model is judged by the graph of the first. It is an "
            "export of the first (also FILE.tflite), or another network. 'timm:resnet*' stands for many models, and "
            "each of them is proved by itself.",
        ),
    ],
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="Probe: exact or random; may be repeated. Both by default. A file (.npy, or an image) is the input of "
            "the random probe."
        ),
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of the input, such as 1x3x224x224, if the model does not say it. Of one of several inputs: "
            "NAME=1x3x224x224; may be repeated."
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="NAME=FILE.npy: an input of the random probe; of both, if it holds integers or bool. May be repeated.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of a second network: first (those of the first, moved into it) or own. By default first."
        ),
    ] = None,
    deployed: Annotated[
        bool,
        typer.Option(
            "--deployed",
            help="Also run each runtime as it is deployed: nothing but the outputs is asked for, so it may fuse more.",
        ),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            help="Device to run on: cpu, webgpu or cuda. On a GPU, ONNX Runtime runs the file, or the model's "
            "specification and export."
        ),
    ] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and inputs.")] = 0,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Also change each weight tensor and each attribute a little, and list the changes that the exact "
            "probe does not see. Takes longer than the proof of a runtime.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for a page with a drawing of the graph, report.json and junit.xml."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Prove them on the workers of the Dask scheduler at this address."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="With --dask: number of models that each worker proves at the same time.")
    ] = None,
    json: Json = False,
) -> None:
    """Prove a model of your own: in every runtime, every node must lie within its rounding bound of float64."""
    from common.cli.proofs import check_weights, prove_command, read_inputs, read_probes, read_shapes
    from common.prove.proof import PROBES, Request

    shape, shapes = read_shapes(input_shape or ())
    probes, picture = read_probes(probe or PROBES)
    request = Request(
        probes=probes,
        picture=picture,
        shape=shape,
        seed=seed,
        inputs=read_inputs(given or ()),
        shapes=shapes,
        weights=check_weights(weights),
        deployed=deployed,
        device=device,
        sensitivity=sensitivity,
        keep=report is not None,
    )
    console = standard_error(quiet=True) if json else standard_output()
    command = shlex.join(["triptych", *sys.argv[1:]])
    found = prove_command(
        console, models, request, progress=progress, folder=report, command=command, dask=dask, jobs=jobs
    )
    if json:
        print_json(found)
    raise typer.Exit(DIFFERENCE_FOUND if found["verdict"] in ("diverged", "incomplete") else 0)
