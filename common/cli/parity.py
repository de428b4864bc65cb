"""`triptych parity`: the networks in every backend."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.cli.app import Json, app, complete, finish, matching, progress
from common.cli.terminal import standard_error, standard_output
from common.errors import TriptychError


@app.command()
def parity(
    architectures: Annotated[
        list[str] | None, typer.Argument(help="Names or patterns; all if none is given.", autocompletion=complete)
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="A backend; may be repeated. All installed by default.")
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="Probe: exact, random, photo (the default); tiny, huge, subnormal; deployed; or an image file."
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Canonical safetensors for the random and photo probes.")] = None,
    device: Annotated[str, typer.Option(help="Device to run on: cpu, cuda or webgpu.")] = "cpu",
    every_path: Annotated[
        bool,
        typer.Option("--every-path", help="Each backend once for every set of kernels that this CPU can be held to."),
    ] = False,
    precision: Annotated[str, typer.Option(help="Precision to compute in: fp32 or, on a GPU, tf32.")] = "fp32",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of images in a batch; by default 2, and 1 with --gradients on any probe but exact."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the probes and of the weights.")] = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of backends that run at the same time, each with its share of the cores.")
    ] = 2,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a backend may take for one probe.")] = 600,
    report: Annotated[
        Path | None, typer.Option(help="A folder for the outcome as a page, as JSON and as JUnit's XML.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --report: go on where a run into that folder was interrupted.")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps to train for, instead of probes.")] = None,
    gradients: Annotated[bool, typer.Option("--gradients", help="Compare the backward pass instead.")] = False,
    plot: Annotated[Path | None, typer.Option(help="With --steps: a folder for a picture of each divergence.")] = None,
    json: Json = False,
) -> None:
    """Run networks in every backend and prove that they compute the same function."""
    from common.images import read_photograph
    from common.parity.backends import Hardware, on_every_path, select_differentiable, select_for, select_trainable
    from common.parity.command import parity_command
    from common.parity.gradients import USUAL_FOR_GRADIENTS, check_differentiable
    from common.parity.results import Plan
    from common.probes import PROBES, USUAL
    from common.weights import read_weights_file

    for name in probe or ():
        if name not in PROBES and not Path(name).is_file():
            raise TriptychError(f"there is no probe and no image {name!r}; probes are {', '.join(PROBES)}")
        if name not in PROBES:
            read_photograph(name)
    names = matching(architectures or ["*"])
    if steps is None and plot:
        raise TriptychError("--plot draws how trajectories part; say how long they are with --steps")
    if steps is not None:
        if gradients or probe or weights or batch or report or every_path or device != "cpu":
            others = "--gradients, --probe, --weights, --batch, --report, --every-path or --device"
            raise TriptychError(f"--steps takes no {others}; leave these out")
        from common.parity.trajectory_report import trajectory_command

        found = trajectory_command(
            standard_error() if json else standard_output(),
            names,
            select_trainable(backend),
            steps=steps,
            seed=seed,
            timeout=timeout,
            plots=plot,
            progress=progress,
        )
        finish(found, json)
    if weights and len(names) > 1:
        raise TriptychError(f"--weights {weights} belongs to one network, but {len(names)} match; name the one")
    if gradients and device == "webgpu":
        raise TriptychError("WebGPU runs exports, which have no backward pass; leave out --gradients or --device")
    if gradients and precision != "fp32":
        raise TriptychError(f"gradients are held to the bounds of fp32, not of {precision}; leave out --precision")
    for name in probe or () if gradients else ():
        check_differentiable(name)
    backends = select_differentiable(backend) if gradients else select_for(device, backend)
    plan = Plan(
        backends=on_every_path(backends, device) if every_path else backends,
        probes=probe or (USUAL_FOR_GRADIENTS if gradients else USUAL),
        gradients=gradients,
        weights=read_weights_file(weights) if weights else None,
        seed=seed,
        batch=batch,
        hardware=Hardware.shared(jobs, device, precision),
        jobs=jobs,
        timeout=timeout,
        required=bool(backend),
    )
    if resume and not report:
        raise TriptychError("--resume goes on with the results in a report's folder; name it with --report")
    outcome = parity_command(
        standard_error(quiet=True) if json else standard_output(),
        names,
        plan,
        report=report,
        resume=resume,
        command=shlex.join(["triptych", *sys.argv[1:]]),
        progress=progress,
    )
    finish(outcome, json)
