"""The outcome of a parity run, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from common.parity.environment import describe
from common.parity.runner import BackendResult, Run, worst

STYLES = {"identical": "bold green", "certified": "green", "diverged": "bold red", "crashed": "red", "skipped": "dim"}


def as_json(runs: Sequence[Run]) -> dict[str, Any]:
    """The report as the structure that docs/parity-json.md describes."""
    return {
        "environment": describe(),
        "verdict": worst([run.verdict for run in runs]),
        "runs": [
            {
                "architecture": run.architecture,
                "probe": run.probe,
                "device": run.device,
                "precision": run.precision,
                "verdict": run.verdict,
                "bounded": run.bounded,
                "backends": [_backend_as_json(result) for result in run.backends],
            }
            for run in runs
        ],
    }


def _backend_as_json(result: BackendResult) -> dict[str, Any]:
    row = {name: value for name, value in asdict(result).items() if name != "timing"}
    row["timing"] = {name: round(seconds, 3) for name, seconds in result.timing.items()}
    row["seconds"] = round(result.seconds, 3)
    return row


def print_report(console: Console, runs: Sequence[Run]) -> None:
    """One table for each network, backends down and probes across; then what went wrong; then the verdict."""
    for name in dict.fromkeys(run.architecture for run in runs):
        of_network = [run for run in runs if run.architecture == name]
        console.print(_table(name, of_network))
        for run in of_network:
            for result in run.backends:
                _explain(console, run, result)
        for how in dict.fromkeys(how for run in of_network for how in run.bounded.values()):
            layers = [layer for run in of_network for layer, reason in run.bounded.items() if reason == how]
            console.print(f"[dim]Not exact: {', '.join(layers)}. {how}.[/]", highlight=False)
    verdict = worst([run.verdict for run in runs])
    console.print(f"Verdict: [{STYLES.get(verdict, 'bold yellow')}]{verdict}[/]")


def _table(architecture: str, runs: Sequence[Run]) -> Table:
    table = Table(title=architecture, title_justify="left", title_style="bold")
    table.add_column("backend")
    for run in runs:
        table.add_column(run.probe)
    table.add_column("error ÷ bound", justify="right")
    table.add_column("precision")
    table.add_column("seconds", justify="right")
    for row in zip(*(run.backends for run in runs), strict=True):
        table.add_row(
            row[0].backend,
            *(_styled(_outcome(result)) for result in row),
            _largest_ratio(row),
            " ".join(sorted({result.precision for result in row if result.precision})) or "–",
            f"{sum(result.seconds for result in row):.1f}",
        )
    return table


def _outcome(result: BackendResult) -> str:
    return result.status if result.status in ("crashed", "skipped") else result.verdict


def _styled(verdict: str) -> str:
    return f"[{STYLES.get(verdict, 'default')}]{verdict}[/]"


def _largest_ratio(results: Sequence[BackendResult]) -> str:
    judged = [result for result in results if result.layers]
    if not judged:
        return "–"
    ratios = [result.bound_ratio for result in judged]
    return "∞" if None in ratios else f"{max(ratio for ratio in ratios if ratio is not None):.3g}"


def _explain(console: Console, run: Run, result: BackendResult) -> None:
    if result.status == "ok":
        return
    what = f"{result.backend} on the {run.probe} probe"
    if result.status != "diverged":
        console.print(f"  {result.backend} {result.status} on the {run.probe} probe: {result.reason}", highlight=False)
        return
    cause = f"; {result.likely_cause}" if result.likely_cause else ""
    console.print(
        f"  {what}: [bold red]{result.first_divergence}[/] is the first layer that differs{cause}", highlight=False
    )
