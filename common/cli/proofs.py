"""`triptych prove`: prints a table for each model, and the differences in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.cli.pairs import print_pair
from common.cli.terminal import say
from common.cli.verdicts import STYLES, say_verdict
from common.cluster import require_dask
from common.errors import TriptychError
from common.explorer.proof import draw_page, overview, write_page_of, write_proof
from common.explorer.report import prepare
from common.parity.results import worst
from common.prove.input_files import Picture, read_array, read_picture
from common.prove.judging import UNPROVED
from common.prove.listing import expanded, is_pattern
from common.prove.many import EVERY_RUNTIME, Proved
from common.prove.proof import PROBES, WEIGHTS, Request, results_of
from common.prove.results import ProofRun, RuntimeResult, as_json, told
from common.prove.sensitivity import Sensitivity

Progress = Callable[[int, Console], AbstractContextManager[Callable[[str], None]]]


def prove_command(
    console: Console,
    texts: Sequence[str],
    request: Request,
    *,
    progress: Progress,
    folder: Path | None = None,
    command: str = "",
    dask: str | None = None,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Prove some models, print what is found, and return the report for programs.

    Args:
        console: where to.
        texts: the names of the models, or patterns: with a pattern, each model is proved by itself.
        request: on what.
        progress: shows how far it is.
        folder: where a page about it is written, if anywhere.
        command: what was run, for that page.
        dask: the address of a Dask scheduler, whose workers do it, if there is one.
        jobs: how many models each of these proves at the same time.

    Raises:
        TriptychError: one of them cannot be had or run, unless there are many: then it is a row.
    """
    if dask is not None:
        require_dask()
    elif jobs is not None:
        raise TriptychError("--jobs is the number of models that each worker proves at the same time; add --dask")
    many = any(map(is_pattern, texts))
    if many and request.weights:
        raise TriptychError(
            "--weights is about two networks, but a pattern proves each by itself; leave one of them out"
        )
    names = expanded(texts)
    subjects = [[name] for name in names] if many else [names]
    if folder:
        prepare(folder)
    draw = partial(draw_page, command=command) if folder else None
    here = not many and dask is None
    runs: list[ProofRun] = []
    pages: list[tuple[str, Sequence[ProofRun]]] = []
    page = ""
    with progress(results_of(names, request) if here else len(subjects), console) as advance, ExitStack() as ends:
        if dask is not None:
            from common.prove.on_cluster import proved_there

            found: Iterable[Proved] = ends.enter_context(
                closing(proved_there(dask, subjects, request, draw, advance, jobs or 1))
            )
        else:
            found = (Proved.of(each, request, draw, advance if here else None) for each in subjects)
        for proved in found:
            if proved.refusal and not many:
                raise TriptychError(proved.refusal)
            runs += proved.runs
            for title in dict.fromkeys(run.title for run in proved.runs):
                print_model(console, [run for run in proved.runs if run.title == title])
            page = proved.page or ""
            if folder and many:
                pages.append((write_page_of(folder, proved.names[0].text, page), proved.runs))
            if many and dask is None:
                advance(proved.names[0].text)
    places = {name.text: place for place, name in enumerate(names)}
    runs.sort(key=lambda run: places.get(run.model, 0) if many else 0)  # a cluster finishes in another order
    report = as_json(runs)
    if folder:
        pages.sort(key=lambda page: places.get(page[1][0].model, 0))
        page = overview(pages, report, command) if many else page
        say(console, f"Report: {write_proof(folder, page, report, command)}")
    if many:
        say(console, ", ".join(f"{number} {verdict}" for verdict, number in _counted(runs).items()) + ".")
    say_verdict(console, worst([run.verdict for run in runs]))
    return report


def _counted(runs: Sequence[ProofRun]) -> Counter[str]:
    """How many models there are of each verdict."""
    of_model: dict[str, list[str]] = {}
    for run in runs:
        of_model.setdefault(run.title, []).append(run.verdict)
    return Counter(worst(verdicts) for verdicts in of_model.values())


def print_model(console: Console, runs: Sequence[ProofRun]) -> None:
    """The runs of one model: a table, runtimes down and probes across; then what went wrong and what is unproved."""
    first = runs[0].backends[0]
    if first.backend == EVERY_RUNTIME:
        say(console, (runs[0].title, "bold"), ": ", ("incomplete", STYLES["incomplete"]), f", {first.reason}")
        return
    table = Table(title=runs[0].title, title_justify="left", title_style="bold")
    machines = {row.machine.name for run in runs for row in run.backends if row.machine}
    for heading in ("runtime", *(["machine"] if machines else []), *(run.probe for run in runs)):
        table.add_column(heading)
    for heading in ("nodes", "error ÷ bound", "run", "judged"):
        table.add_column(heading, justify="right")
    results = {(run.probe, result.backend): result for run in runs for result in run.backends}
    for backend in dict.fromkeys(backend for _, backend in results):
        row = [results.get((run.probe, backend)) for run in runs]
        there = [result for result in row if result]
        verdicts = [_outcome(result) if result else Text("–") for result in row]
        ratios = [result.bound_ratio for result in there if any(node.verdict != UNPROVED for node in result.layers)]
        largest = "–" if not ratios else "∞" if None in ratios else f"{max(r for r in ratios if r is not None):.3g}"
        times = (sum(result.timing.get(what, 0.0) for result in there) for what in ("run", "judge"))
        seen = min(max(len(result.layers) for result in there), runs[0].nodes)
        nodes = f"{seen} of {runs[0].nodes}" if seen else "–"
        where = [", ".join({each.machine.name for each in there if each.machine}) or "–"] if machines else []
        table.add_row(backend, *where, *verdicts, nodes, largest, *(f"{seconds:.1f} s" for seconds in times))
    console.print(table)
    for run in runs:
        for result in run.backends:
            _explain(console, run, result)
    print_pair(console, runs)
    for run in runs:
        if run.exact:
            say(console, _exactness(run), style="dim")
        if run.sensitivity:
            say(console, _sensitivity(run.sensitivity), style="dim")
    _print_unproved(console, runs)


def _exactness(run: ProofRun) -> str:
    """How many of the values that can be exact are, and the first of the others."""
    assert run.exact
    exact, values = run.exact
    missed = f", but not {_first(run.missed)}" if run.missed else ""
    return f"Exact: {exact} of {run.can_be_exact} values that can be{missed}; {values - exact} of {values} round."


def _first(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return "; ".join([*names[:_NAMED], *([f"{more} more"] if more > 0 else [])])


def _sensitivity(found: Sensitivity) -> str:
    """How much the exact probe sees, and the first of what it does not."""
    named = _first(found.unseen)
    seen = f"Sensitivity: {found.seen} of {found.of} tensors of weights and attributes are seen when they change"
    return f"{seen}; unseen: {named}." if named else f"{seen}."


_NAMED = 6


def _outcome(result: RuntimeResult) -> Text:
    word = result.status if result.status in ("crashed", "skipped") else result.verdict
    return Text(word, style=STYLES.get(word, ""))


def _explain(console: Console, run: ProofRun, result: RuntimeResult) -> None:
    if result.status == "crashed":
        say(console, f"  {result.backend} crashed on the {run.probe} probe: {result.reason}")
    if result.status == "skipped":
        say(console, f"  {result.backend} skipped: {result.reason}", style="dim")
    if result.note:
        say(console, f"  {result.backend} on the {run.probe} probe: {result.note}", style="dim")
    if result.first and not run.pair:
        before, name = f"  {result.backend} diverged on the {run.probe} probe: ", result.first.name
        say(console, before, (name, "bold red"), told(result.first).removeprefix(name))


def _print_unproved(console: Console, runs: Sequence[ProofRun]) -> None:
    """What has no bound, each reason once."""
    found = {
        (layer.name, layer.kind, layer.cause)
        for run in runs
        for result in run.backends
        for layer in result.layers
        if layer.verdict == UNPROVED
    }
    for (kind, cause), number in Counter((kind, cause) for _, kind, cause in found).items():
        say(console, f"Unproved: {number} × {kind}, since {cause}.", style="yellow")


def read_inputs(given: Sequence[str]) -> dict[str, np.ndarray]:
    """What `--input NAME=FILE.npy` says.

    Raises:
        TriptychError: there is no such file, or no array in it of float32, integers or truth values.
    """
    arrays = {}
    for text in given:
        name, _, file = text.partition("=")
        if not file:
            raise TriptychError(f"--input {text} names no file; give NAME=FILE.npy")
        arrays[name] = read_array(file)
    return arrays


def read_shape(text: str) -> list[int]:
    """What `--input-shape 1x3x224x224` says.

    Raises:
        TriptychError: it is no shape.
    """
    return _sizes(text, text)


def _sizes(shape: str, text: str) -> list[int]:
    """The sizes of a shape; `text` is all that the user gave."""
    sizes = shape.lower().replace("×", "x").split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise TriptychError(f"--input-shape {text} is no shape; give sizes such as 1x3x224x224")
    return [int(size) for size in sizes]


def read_shapes(given: Sequence[str]) -> tuple[list[int] | None, dict[str, list[int]]]:
    """What `--input-shape 1x3x224x224` says of the only input, and `--input-shape NAME=1x3x224x224` of inputs by name.

    Raises:
        TriptychError: one is no shape, or an input gets two.
    """
    shapes: dict[str, list[int]] = {}
    for text in given:
        name, _, sizes = text.rpartition("=")
        if name in shapes:
            raise TriptychError(f"--input-shape is given twice for {name or 'the only input'}; give it once")
        shapes[name] = _sizes(sizes, text)
    only = shapes.pop("", None)
    if only and shapes:
        raise TriptychError(f"--input-shape {'x'.join(map(str, only))} does not say of which input; give NAME=SHAPE")
    return only, shapes


def read_probes(names: Sequence[str]) -> tuple[Sequence[str], Picture | None]:
    """The probes, and the input of the random probe, if there is a file in the place of its name.

    Raises:
        TriptychError: there is no such probe and no such file, or two files are given.
    """
    files = [name for name in names if name not in PROBES]
    for name in files:
        if not Path(name).is_file():
            told = f"there is no probe {name!r} for models; probes are {' and '.join(PROBES)}"
            raise TriptychError(f"{told}, or a file with the input of the random probe")
    if len(files) > 1:
        raise TriptychError(f"--probe {files[0]} and --probe {files[1]} both give the random probe's input; give one")
    probes = dict.fromkeys("random" if name in files else name for name in names)
    return tuple(probes), read_picture(files[0]) if files else None


def check_weights(name: str | None) -> str | None:
    """Whose weights another network has, if there is such a way.

    Raises:
        TriptychError: there is none.
    """
    if name not in (None, *WEIGHTS):
        raise TriptychError(f"there is no --weights {name!r}; give {' or '.join(WEIGHTS)}")
    return name
