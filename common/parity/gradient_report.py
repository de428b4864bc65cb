"""`triptych parity --gradients`: the backward pass for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from common.parity.backends import Backend, Hardware
from common.parity.environment import describe
from common.parity.gradient_runner import GradientResult, GradientRun, run_gradients
from common.parity.gradients import CERTIFIED, IDENTICAL, modes
from common.parity.processes import Workers
from common.parity.report import STYLES
from common.parity.results import worst
from common.specs import get_spec


def gradient_command(
    console: Console,
    names: Sequence[str],
    backends: Sequence[Backend],
    *,
    seed: int,
    batch: int | None,
    jobs: int,
    timeout: float,
    progress: Callable[[int, Console], AbstractContextManager[Callable[[str], None]]],
) -> dict[str, Any]:
    """Differentiate some networks in every backend, print a table of each, and return the report for programs."""
    runs: list[GradientRun] = []
    probes = sum(2 * len(modes(get_spec(name))) for name in names)
    with progress(probes * len(backends), console) as advance, Workers(Hardware.shared(jobs)) as workers:
        for name in names:
            found = run_gradients(
                get_spec(name),
                backends,
                workers,
                seed=seed,
                batch=batch,
                jobs=jobs,
                timeout=timeout,
                on_progress=advance,
            )
            runs += found
            console.print(_table(name, found))
            _explain_rounding(console, found)
            for run in found:
                for result in run.backends:
                    if result.reason:
                        text = f"  {result.backend} on the {run.probe} probe, {run.mode}: {result.reason}"
                        console.print(text, highlight=False, soft_wrap=True)
    verdict = worst([result.verdict for run in runs for result in run.backends])
    console.print(f"Verdict: [{STYLES[verdict]}]{verdict}[/]")
    return {"environment": describe(), "verdict": verdict, "runs": [_as_json(run) for run in runs]}


def _as_json(run: GradientRun) -> dict[str, Any]:
    return {
        "architecture": run.architecture,
        "probe": run.probe,
        "mode": run.mode,
        "rounding": run.rounding,
        "backends": [
            {
                "backend": result.backend,
                "status": result.status,
                "verdict": result.verdict,
                "reason": result.reason,
                "gradients": [asdict(verdict) for verdict in result.verdicts],
            }
            for result in run.backends
        ],
    }


def _table(name: str, runs: Sequence[GradientRun]) -> Table:
    """Backends down, probes across."""
    table = Table(title=f"{name}, backward", title_justify="left", title_style="bold")
    table.add_column("backend")
    for run in runs:
        table.add_column(f"{run.probe}, {run.mode}")
    table.add_column("error ÷ bound", justify="right")
    for row in zip(*(run.backends for run in runs), strict=True):
        ratios = [result.bound_ratio for result in row]
        largest = "∞" if None in ratios else f"{max(ratio for ratio in ratios if ratio is not None):.3g}"
        table.add_row(row[0].backend, *map(_cell, runs, row), largest)
    return table


def _cell(run: GradientRun, result: GradientResult) -> str:
    """The verdict; on the exact probe, how many of the gradients have the bits of float64."""
    if run.probe != "exact" or result.verdict != CERTIFIED:
        return f"[{STYLES[result.verdict]}]{result.verdict}[/]"
    identical = sum(verdict.verdict == IDENTICAL for verdict in result.verdicts)
    return f"[{STYLES[IDENTICAL]}]{identical}/{len(result.verdicts)} {IDENTICAL}[/]"


def _explain_rounding(console: Console, runs: Sequence[GradientRun]) -> None:
    """Say whose gradients are not exact, although all that they are given is integers."""
    spec = get_spec(runs[0].architecture)
    rounding = {layer for run in runs if run.probe == "exact" for layer in run.rounding}
    kinds = Counter(layer.operation.kind for layer in spec.layers if layer.name in rounding)
    if kinds:
        text = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        console.print(f"  Held to a bound on integers too, since they round: {text}", highlight=False, soft_wrap=True)
