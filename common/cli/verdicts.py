"""Prints the results of a parity run or a proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.cli.terminal import say
from common.onnx.adapters import find_adapters
from common.parity.comparison import Comparison
from common.parity.results import BackendResult, Run, labelled, worst
from common.parity.verdicts import DIVERGED, IDENTICAL

STYLES = {
    "identical": "bold green",
    "certified": "green",
    "diverged": "bold red",
    "incomplete": "bold yellow",
    "crashed": "red",
    "skipped": "dim",
}


def print_network(console: Console, runs: Sequence[Run]) -> None:
    """The runs of one network: a table, backends down and probes across; then what went wrong."""
    on_gpu = f" on {runs[0].device}" if runs[0].device != "cpu" else ""
    here = not any(result.machine for result in runs[0].backends)
    if runs[0].device == "webgpu" and here and (adapter := find_adapters().chosen) and adapter.software:
        on_gpu += ", in software"
    title = f"{runs[0].architecture}{', backward' if runs[0].gradients else ''}{on_gpu}"
    _print_columns(console, partial(_table, title), runs)
    skipped = {
        row.label: row.reason for run in runs for row in run.backends if row.status == "skipped" and not row.path
    }
    for label, reason in skipped.items():
        say(console, f"  {label} skipped: {reason}", style="dim")
    for run in runs:
        for result in run.backends:
            if result.status not in ("ok", "skipped"):
                _explain(console, run, result)
        if run.published is not None:
            found = "as published" if run.published else f"not as published: {run.unpublished}"
            say(console, f"The {run.probe} probe is {found}.", style="dim")
        # What is injected on the way hides what went wrong before it, so that the outputs would agree.
        if run.comparisons and run.verdict != IDENTICAL and run.probe != "exact":
            text = _end_to_end(f"End to end on {Path(run.probe).name}", run.comparisons)
            say(console, text, style="dim")
        if run.across_devices:
            text = _end_to_end(f"CPU and {run.device} on {Path(run.probe).name}", run.across_devices)
            say(console, text, style="dim")
    for backend, note in dict.fromkeys((row.backend, row.note) for run in runs for row in run.backends if row.note):
        say(console, f"{backend}: {note}.", style="dim")
    _print_paths(console, runs)
    right = [layer for run in runs for row in run.backends for layer in row.layers if layer.verdict != DIVERGED]
    if overflows := list(dict.fromkeys(layer.name for layer in right if layer.overflows)):
        text = f"Overflows: {_names(overflows)}. Infinity and NaN are where float32 must or may give them."
        say(console, text, style="dim")
    for how in dict.fromkeys(how for run in runs for how in run.bounded.values()):
        layers = [layer for run in runs for layer, reason in run.bounded.items() if reason == how]
        say(console, f"Not exact: {_names(layers)}. {how}.", style="dim")


def _names(layers: Sequence[str]) -> str:
    return ", ".join(layers) if len(layers) <= 4 else f"{layers[0]} … {layers[-1]} ({len(layers)} layers)"


def _print_paths(console: Console, runs: Sequence[Run]) -> None:
    """Of each path, which kernels ran, or why it counts for nothing."""
    for row in zip(*(run.backends for run in runs), strict=True):
        found = next((result for result in row if result.status == "skipped"), row[0])
        if found.path and (found.evidence or found.status == "skipped"):
            text = f"  {found.label}: {found.reason if found.status == 'skipped' else found.evidence}"
            say(console, text, style="dim")


def _end_to_end(what: str, comparisons: Sequence[Comparison]) -> str:
    """How far apart the outputs are, over all pairs."""
    largest = max(comparison.largest_absolute for comparison in comparisons)
    tolerance = max(comparison.tolerance for comparison in comparisons)
    top1, top5 = (min(getattr(comparison, top) for comparison in comparisons) for top in ("top1", "top5"))
    return (
        f"{what}: outputs differ by at most {largest:.2g} in absolute terms "
        f"(allclose would pass with atol = rtol = {tolerance:.2g}); "
        f"top-1 agrees for {top1:.0%} of the images, top-5 for {top5:.0%}."
    )


def print_verdict(console: Console, runs: Sequence[Run]) -> None:
    """The verdict on everything; where there are many networks, a line for each before it."""
    networks = list(dict.fromkeys(run.architecture for run in runs))
    if len(networks) > 1:
        labels = list(dict.fromkeys(run.label for run in runs))
        _print_columns(console, partial(_summary, networks, runs), labels)
    say_verdict(console, worst([run.verdict for run in runs]))


def say_verdict(console: Console, verdict: str) -> None:
    """The last line."""
    say(console, "Verdict: ", (verdict, STYLES[verdict]))


def _print_columns(console: Console, table: Callable[[Sequence], Table], columns: Sequence) -> None:
    """One table of so many columns, or several one under the other, so that no column is cut off."""
    unlimited = console.options.update(width=10_000)
    while columns:
        fit = len(columns)
        while fit > 1 and console.measure(table(columns[:fit]), options=unlimited).maximum > console.width:
            fit -= 1
        console.print(table(columns[:fit]))
        columns = columns[fit:]


def _summary(networks: Sequence[str], runs: Sequence[Run], labels: Sequence[str]) -> Table:
    """Networks down, probes across."""
    table = Table(title="All networks", title_justify="left", title_style="bold")
    for heading in ("network", *labels):
        table.add_column(heading)
    table.add_column("error ÷ bound", justify="right")
    table.add_column("seconds", justify="right")
    for name in networks:
        of_network = {run.label: run for run in runs if run.architecture == name}
        results = [result for label in labels if label in of_network for result in of_network[label].backends]
        seconds = sum(result.seconds + result.timing.get("judge", 0.0) for result in results)
        verdicts = (_styled(of_network[label].verdict if label in of_network else "–") for label in labels)
        table.add_row(name, *verdicts, _largest_ratio(results), f"{seconds:.0f}")
    return table


def _table(title: str, runs: Sequence[Run]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("backend")
    with_paths = any(result.path for run in runs for result in run.backends)
    if with_paths:
        table.add_column("path")
    if with_machines := any(result.machine for run in runs for result in run.backends):
        table.add_column("machine")
    for run in runs:
        table.add_column(labelled(Path(run.probe).name, run.gradients))
    table.add_column("error ÷ bound", justify="right")
    table.add_column("precision")
    if on_gpu := runs[0].device != "cpu":
        table.add_column("layers on the GPU", justify="right")
    table.add_column("seconds", justify="right")
    for row in zip(*(run.backends for run in runs), strict=True):
        table.add_row(
            row[0].backend,
            *([row[0].path or "–"] if with_paths else []),
            *([_machines(row)] if with_machines else []),
            *(_styled(_outcome(result)) for result in row),
            _largest_ratio(row),
            " ".join(sorted({result.precision for result in row if result.precision})) or "–",
            *([_on_gpu(row)] if on_gpu else ()),
            f"{sum(result.seconds for result in row):.1f}",
        )
    return table


def _machines(results: Sequence[BackendResult]) -> str:
    """Those that a row ran on, or that this is none of them."""
    names = dict.fromkeys(result.machine.name for result in results if result.machine)
    ran_here = any(not result.machine and result.layers for result in results)
    return ", ".join([*names, *(["here"] if ran_here else [])]) or "–"


def _on_gpu(results: Sequence[BackendResult]) -> str:
    """Of the layers of all probes, those that ran on the GPU in each; which ran on the CPU."""
    places: dict[str, set[str | None]] = {}
    for layer in (layer for result in results for layer in result.layers):
        places.setdefault(layer.name, set()).add(layer.place)
    if not places:
        return "–"
    elsewhere = [name for name, found in places.items() if found != {"gpu"}]
    count = f"{len(places) - len(elsewhere)} of {len(places)}"
    return f"{count} (not {', '.join(elsewhere)})" if elsewhere else count


def _outcome(result: BackendResult) -> str:
    return result.status if result.status in ("crashed", "skipped") else result.verdict


def _styled(verdict: str) -> Text:
    return Text(verdict, style=STYLES.get(verdict, ""))


def _largest_ratio(results: Sequence[BackendResult]) -> str:
    judged = [result for result in results if result.layers]
    if not judged:
        return "–"
    ratios = [result.bound_ratio for result in judged]
    return "∞" if None in ratios else f"{max(ratio for ratio in ratios if ratio is not None):.3g}"


def _explain(console: Console, run: Run, result: BackendResult) -> None:
    on = f"on the {labelled(f'{run.probe} probe', run.gradients)}"
    if result.status != "diverged":
        say(console, f"  {result.label} {result.status} {on}: {result.reason}")
        return
    first = "the first layer from the loss backwards" if run.gradients else "the first layer"
    cause = f"; {result.likely_cause}" if result.likely_cause else ""
    divergence = str(result.first_divergence)
    say(console, f"  {result.label} {on}: ", (divergence, "bold red"), f" is {first} that differs{cause}")
