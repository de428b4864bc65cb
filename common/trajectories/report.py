"""Trajectories as a report for programs, and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from common.files import written_atomically
from common.parity.environment import describe
from common.parity.results import worst
from common.trajectories.race import ENVELOPE_FACTOR
from common.trajectories.umpire import TrajectoryRun


def as_json(runs: Sequence[TrajectoryRun]) -> dict[str, Any]:
    """The report for programs."""
    verdict = worst([run.verdict for run in runs])
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


def plot(run: TrajectoryRun, path: Path) -> None:
    """Draw the distance from the first backend's float64 training that is right, on a logarithmic scale.

    Raises:
        TriptychError: the picture cannot be written.
    """
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
