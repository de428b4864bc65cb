"""`triptych parity`: the networks in every backend."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.cli.app import Json, app, complete, finish, progress
from common.cli.terminal import say, standard_error, standard_output
from common.errors import TriptychError
from common.specs import matching

if TYPE_CHECKING:
    from rich.console import Console

    from common.parity.results import Plan


@app.command()
def parity(
    architectures: Annotated[
        list[str] | None,
        typer.Argument(help="Names or patterns such as 'vgg*'; all networks by default.", autocompletion=complete),
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Backend to run; may be repeated. All that are installed by default.")
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="Probe: exact, random, photo (these by default); tiny, huge, subnormal; deployed; or an image file."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the random and photo probes: safetensors with canonical names.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device to run on: cpu, cuda or webgpu.")] = "cpu",
    every_path: Annotated[
        bool,
        typer.Option("--every-path", help="Run each backend once with every set of kernels that this CPU can run."),
    ] = False,
    precision: Annotated[str, typer.Option(help="Precision to compute in: fp32 or, on a GPU, tf32.")] = "fp32",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of images in a batch. By default 2; with --gradients 1, except on the exact probe."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the probes and of the weights.")] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of backends that run at the same time. They share the cores. By default 2; with --dask, 1 on "
            "each worker.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a backend may take for one probe.")] = 600,
    report: Annotated[
        Path | None, typer.Option(help="Folder to write the results to, as a page, JSON and JUnit's XML.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --report: continue an interrupted run of that folder.")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Train in every backend for this number of steps, instead of running probes."),
    ] = None,
    gradients: Annotated[bool, typer.Option("--gradients", help="Compare the backward pass instead.")] = False,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run it on the workers of the Dask scheduler at this address.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="With --steps: folder for a plot of each network's differences.")
    ] = None,
    json: Json = False,
) -> None:
    """Run networks in every backend and prove that they compute the same function."""
    names = matching(architectures or ["*"])
    console = standard_error(quiet=steps is None) if json else standard_output()
    if steps is None and plot:
        raise TriptychError("--plot draws the differences of a training; give its length with --steps")
    if steps is not None:
        if gradients or probe or weights or batch or report or every_path or dask is not None or device != "cpu":
            others = "--gradients, --probe, --weights, --batch, --report, --every-path, --device or --dask"
            raise TriptychError(f"--steps cannot be combined with {others}; leave these out")
        from common.cli.trajectories import trajectories
        from common.parity.backends import select_trainable

        chosen = select_trainable(backend)
        finish(trajectories(console, names, chosen, steps=steps, seed=seed, timeout=timeout, plots=plot), json)
    from common.parity.networks import plan_for

    plan = plan_for(
        names,
        backends=backend,
        probes=probe,
        weights=weights,
        device=device,
        every_path=every_path,
        precision=precision,
        batch=batch,
        seed=seed,
        jobs=jobs,
        timeout=timeout,
        gradients=gradients,
        dask=dask,
    )
    if resume and not report:
        raise TriptychError("--resume continues the run of a report; name its folder with --report")
    finish(_prove(console, names, plan, report, resume), json)


def _prove(console: Console, names: Sequence[str], plan: Plan, report: Path | None, resume: bool) -> dict[str, Any]:
    """Networks one after the other, a table for each as it finishes, and the report at the end."""
    from common.cli.verdicts import print_network, print_verdict
    from common.cluster import ClusterLost
    from common.explorer.report import prepare, write_report
    from common.onnx.adapters import find_adapters
    from common.parity.backends import require
    from common.parity.journal import Journal
    from common.parity.networks import number_of_results, prove_networks
    from common.parity.outcome import as_json

    if plan.dask is None:
        require(plan.hardware)
        if plan.hardware.device == "webgpu":
            say(console, f"WebGPU on {find_adapters().chosen}")
    if report:
        prepare(report)
    journal = Journal(report, plan, resume=resume) if report else None
    try:
        with progress(number_of_results(names, plan), console) as advance:
            runs = prove_networks(
                names, plan, journal, on_result=advance, on_network=lambda found: print_network(console, found)
            )
    except (KeyboardInterrupt, ClusterLost):
        if journal:
            print("triptych: finished results are kept; continue with --resume", file=sys.stderr)
        raise
    outcome = as_json(runs)
    print_verdict(console, runs)
    if report:
        page = write_report(report, outcome, shlex.join(["triptych", *sys.argv[1:]]))
        say(console, f"Report: {page}")
    return outcome
