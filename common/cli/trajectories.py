"""`triptych parity --steps`: the same training in every backend, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.cli.app import progress
from common.cli.terminal import say
from common.cli.verdicts import say_verdict
from common.parity.backends import Backend
from common.trajectories.race import ENVELOPE_FACTOR, run_trajectories
from common.trajectories.report import as_json, plot
from common.trajectories.umpire import Trajectory, TrajectoryRun
from common.trajectories.worker import ENVELOPE_BITS, STEPS_IN_EPOCH, small_spec


def trajectories(
    console: Console,
    names: Sequence[str],
    backends: Sequence[Backend],
    *,
    steps: int,
    seed: int,
    timeout: float,
    plots: Path | None,
) -> dict[str, Any]:
    """Run the trajectories of some networks, print a table of each, and return the report for programs.

    Raises:
        TriptychError: a picture cannot be written.
    """
    runs = []
    with progress(2 * len(names) * steps, console) as advance:
        for name in names:
            run = run_trajectories(
                small_spec(name),
                backends,
                steps=steps,
                seed=seed,
                timeout=timeout,
                on_step=lambda step, name=name: advance(f"{name} step {step}"),  # type: ignore[misc]
            )
            runs.append(run)
            console.print(_table(run))
            for one in run.trajectories:
                if one.reason:
                    say(console, f"  {one.backend} in {one.dtype} {one.status}: {one.reason}")
                if one.likely_cause:
                    say(console, f"    cause: {one.likely_cause}")
            if plots:
                plots.mkdir(parents=True, exist_ok=True)
                plot(run, plots / f"{run.architecture}.png")
    report = as_json(runs)
    say_verdict(console, report["verdict"])
    return report


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
