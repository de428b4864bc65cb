"""`triptych parity --steps`: trajectories for people and for programs, and as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.cli.terminal import say
from common.files import written_atomically
from common.parity.backends import Backend
from common.parity.environment import describe
from common.parity.race import ENVELOPE_FACTOR, run_trajectories
from common.parity.report import say_verdict
from common.parity.results import worst
from common.parity.trajectory import ENVELOPE_BITS, STEPS_IN_EPOCH, small_spec
from common.parity.umpire import Trajectory, TrajectoryRun


def trajectory_command(
    console: Console,
    names: Sequence[str],
    backends: Sequence[Backend],
    *,
    steps: int,
    seed: int,
    timeout: float,
    plots: Path | None,
    progress: Callable[[int, Console], AbstractContextManager[Callable[[str], None]]],
) -> dict[str, Any]:
    """Run the trajectories of some networks, print a table of each, and return the report for programs.

    Raises:
        TriptychError: a picture cannot be written.
    """
    runs = []
    with progress(2 * len(names) * steps, console) as advance:
        for name in names:
            spec = small_spec(name)
            run = run_trajectories(
                spec,
                backends,
                steps=steps,
                seed=seed,
                timeout=timeout,
                on_step=lambda step, name=name: advance(f"{name} step {step}"),  # type: ignore[misc]
            )
            runs.append(run)
            console.print(_table(run))
            for trajectory in run.trajectories:
                if trajectory.reason:
                    say(
                        console,
                        f"  {trajectory.backend} in {trajectory.dtype} {trajectory.status}: {trajectory.reason}",
                    )
                if trajectory.likely_cause:
                    say(console, f"    cause: {trajectory.likely_cause}")
            if plots:
                plots.mkdir(parents=True, exist_ok=True)
                _plot(run, plots / f"{run.architecture}.png")
    verdict = worst([run.verdict for run in runs])
    say_verdict(console, verdict)
    return {"environment": describe(), "verdict": verdict, "runs": [_as_json(run) for run in runs]}


def _as_json(run: TrajectoryRun) -> dict[str, Any]:
    return {
        "architecture": run.architecture,
        "image_size": run.image_size,
        "steps": run.steps,
        "device": "cpu",
        "verdict": run.verdict,
        "envelope": run.envelope,
        "backends": [
            {
                "backend": trajectory.backend,
                "precision": trajectory.dtype,
                "status": trajectory.status,
                "reason": trajectory.reason,
                "first_divergence": trajectory.first_divergence,
                "step": trajectory.step,
                "parameter": trajectory.parameter,
                "likely_cause": trajectory.likely_cause,
                "losses": trajectory.losses,
                "distances": [
                    {
                        "relative": distance.relative if isfinite(distance.relative) else None,
                        "parameter": distance.parameter,
                    }
                    for distance in trajectory.distances
                ],
            }
            for trajectory in run.trajectories
        ],
    }


def _table(run: TrajectoryRun) -> Table:
    size = "×".join(map(str, run.image_size))
    losses = run.trajectories[0].losses
    learnt = f", loss {_mean(losses[:STEPS_IN_EPOCH])} → {_mean(losses[-STEPS_IN_EPOCH:])}" if losses else ""
    title = f"{run.architecture}, {size}, {run.steps} steps, dropout off{learnt}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("backend", "float64", "float32"):
        table.add_column(heading)
    table.add_column("largest difference in float64", justify="right")
    table.add_column("in float32", justify="right")
    by_backend: dict[str, dict[str, Trajectory]] = {}
    for trajectory in run.trajectories:
        by_backend.setdefault(trajectory.backend, {})[trajectory.dtype] = trajectory
    for backend, trajectories in by_backend.items():
        both = [trajectories["float64"], trajectories["float32"]]
        table.add_row(
            backend,
            *(trajectory.status for trajectory in both),
            *("–" if trajectory.largest is None else f"{trajectory.largest:.1e}" for trajectory in both),
        )
    if run.envelope:
        allowed = f"{max(run.envelope):.1e} × {ENVELOPE_FACTOR:g}"
        table.add_row(f"{ENVELOPE_BITS}-bit parameters", "", "", "", allowed, style="dim")
    return table


def _mean(losses: Sequence[float]) -> str:
    return f"{sum(losses) / len(losses):.3g}"


def _plot(run: TrajectoryRun, path: Path) -> None:
    """The distance from the first backend's float64 training that is right, on a logarithmic scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    steps = range(1, run.steps + 1)
    for trajectory in run.trajectories:
        curve = [max(distance.relative, 1e-17) for distance in trajectory.distances]
        style = "-" if trajectory.dtype == "float32" else ":"
        axes.plot(steps[: len(curve)], curve, style, label=f"{trajectory.backend}, {trajectory.dtype}")
    allowed = [ENVELOPE_FACTOR * max(run.envelope[: number + 1]) for number in range(len(run.envelope))]
    axes.plot(steps[: len(allowed)], allowed, "k--", label="what rounding explains in float32")
    axes.set(xlabel="step", ylabel="largest relative difference", yscale="log", title=run.architecture)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
