"""The command line. Frameworks are imported only by the commands that run them, and only where they do."""

from __future__ import annotations

import json as json_module
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import TriptychError
from common.files import os_error_sentence
from common.specs import CATALOGUE, get_spec, list_architectures, nearest
from common.specs.architecture import Architecture, Layer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The classic convolutional networks in Keras, PyTorch and TensorFlow 1 style, and the proof that they agree.",
)

DIFFERENCE_FOUND, NOT_CARRIED_OUT, INTERRUPTED = 1, 2, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class Framework(StrEnum):
    """The implementations."""

    TORCH = "torch"
    KERAS = "keras"
    TF1 = "tf1"


PACKAGES = {Framework.TORCH: "torch_impl", Framework.KERAS: "keras_impl", Framework.TF1: "tf1_style_impl"}


def _console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


def _print_json(report: Any) -> None:
    print(json_module.dumps(report, indent=2, ensure_ascii=False))


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="A shell-style pattern, such as 'alexnet*'.")] = "*", json: Json = False
) -> None:
    """List the architectures: family, input, parameters, paper."""
    names = _matching([pattern])
    specs = [get_spec(name) for name in names]
    if json:
        _print_json([_summary(spec) for spec in specs])
        return
    from rich.table import Table

    table = Table("architecture", "family", "input", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("paper")
    for spec in specs:
        table.add_row(spec.name, spec.family, _shape(spec.input_shape), f"{spec.parameter_count:,}", spec.paper)
    _console().print(table)


def _summary(spec: Architecture) -> dict[str, Any]:
    return {
        "name": spec.name,
        "family": spec.family,
        "title": spec.title,
        "year": spec.year,
        "paper": spec.paper,
        "input": spec.input_shape,
        "parameters": spec.parameter_count,
        "multiply_adds": spec.multiply_adds,
    }


def _matching(patterns: list[str]) -> list[str]:
    """The architectures that match any of the patterns, in catalogue order."""
    found = set()
    for pattern in patterns:
        matches = list_architectures(pattern)
        if not matches:
            raise TriptychError(f"no architecture matches {pattern!r}; {nearest(pattern, CATALOGUE)}")
        found.update(matches)
    return [name for name in CATALOGUE if name in found]


@app.command()
def show(
    architecture: Annotated[str, typer.Argument(help="A name that `triptych list` prints.")], json: Json = False
) -> None:
    """Show a network's layers: name, operation, output shape, parameters, multiply-adds."""
    spec = get_spec(architecture)
    rows = [_layer_row(spec, layer) for layer in spec.layers]
    if json:
        _print_json({**_summary(spec), "outputs": spec.outputs, "layers": rows})
        return
    from rich.table import Table

    table = Table("layer", "operation", "output", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("multiply-adds", justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            row["operation"],
            _shape(row["output"]),
            f"{row['parameters']:,}" if row["parameters"] else "",
            f"{row['multiply_adds']:,}" if row["multiply_adds"] else "",
        )
    console = _console()
    console.print(f"{spec.name}: {spec.title}, input {_shape(spec.input_shape)}", highlight=False)
    console.print(table)
    console.print(f"{spec.parameter_count:,} parameters, {spec.multiply_adds:,} multiply-adds", highlight=False)


def _layer_row(spec: Architecture, layer: Layer) -> dict[str, Any]:
    from math import prod

    inputs = spec.input_shapes(layer)
    return {
        "name": layer.name,
        "operation": layer.operation.kind,
        "inputs": layer.inputs,
        "output": spec.shapes[layer.name],
        "parameters": sum(map(prod, layer.operation.parameter_shapes(*inputs).values())),
        "multiply_adds": layer.operation.multiply_adds(*inputs),
    }


@app.command()
def parity(
    architectures: Annotated[list[str] | None, typer.Argument(help="Names or patterns; all if none is given.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="A backend; may be repeated. All installed by default.")
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option(help="exact, random, photo or an image file; may be repeated. All by default.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Canonical safetensors for the random and photo probes.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the probes and of the weights.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Backends that run at the same time.")] = 2,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a backend may take for one probe.")] = 600,
    json: Json = False,
) -> None:
    """Run networks in every backend and prove that they compute the same function."""
    from rich.console import Console

    from common.images import read_photograph
    from common.parity.backends import select
    from common.parity.report import as_json, print_network, print_verdict
    from common.parity.runner import INCOMPLETE, Plan, run_parity, worst
    from common.probes import PROBES
    from common.weights import read_weights_file

    for name in probe or ():
        if name not in PROBES and not Path(name).is_file():
            raise TriptychError(f"there is no probe and no image {name!r}; probes are {', '.join(PROBES)}")
        if name not in PROBES:
            read_photograph(name)
    names = _matching(architectures or ["*"])
    if weights and len(names) > 1:
        raise TriptychError(f"--weights {weights} belongs to one network, but {len(names)} match; name the one")
    plan = Plan(
        backends=select(backend),
        probes=probe or list(PROBES),
        weights=read_weights_file(weights) if weights else None,
        seed=seed,
        batch=batch,
        jobs=jobs,
        timeout=timeout,
        required=bool(backend),
    )
    console = _console()
    runs = []
    with _progress(
        len(names) * len(plan.backends) * len(plan.probes), Console(stderr=True) if json else console
    ) as advance:
        for name in names:
            of_network = run_parity(get_spec(name), plan, lambda *what, name=name: advance(" ".join((name, *what))))
            runs += of_network
            if not json:
                print_network(console, of_network)
    if json:
        _print_json(as_json(runs))
    else:
        print_verdict(console, runs)
    verdict = worst([run.verdict for run in runs])
    statuses = {result.status for run in runs for result in run.backends}
    if verdict == INCOMPLETE and "crashed" not in statuses:
        raise typer.Exit(NOT_CARRIED_OUT)
    if verdict in ("diverged", INCOMPLETE):
        raise typer.Exit(DIFFERENCE_FOUND)


@contextmanager
def _progress(total: int, console: Console) -> Iterator[Callable[[str], None]]:
    """A progress bar on a terminal: below what `console` prints if that is one, else on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = console if console.is_terminal else Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("starting", total=total)
        yield lambda what: bars.update(task, advance=1, description=f"{what} done")


@app.command()
def export(
    architecture: Annotated[str, typer.Argument(help="A name that `triptych list` prints.")],
    source: Annotated[Framework, typer.Option("--from", help="Whose model to trace.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    weights: Annotated[Path | None, typer.Option(help="Canonical safetensors; seeded ones if not given.")] = None,
) -> None:
    """Export a network to ONNX by tracing one framework's own model."""
    import importlib

    from common.weights import random_weights, read_weights_file

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's chatter, which is no answer
    spec = get_spec(architecture)
    values = read_weights_file(weights) if weights else random_weights(spec.name)
    implementation = importlib.import_module(PACKAGES[source])
    model = implementation.build(spec.name)
    implementation.load_weights(model, values)
    implementation.export_onnx(model, out)
    _console().print(f"{out}: {spec.name} from {source.value}, {out.stat().st_size:,} bytes", highlight=False)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, on what machine, and how to get what is missing."""
    from common.parity.backends import BACKENDS
    from common.parity.environment import describe

    found = describe()
    found["backends"] = {
        backend.name: backend.how_to_install if backend.missing else "ready" for backend in BACKENDS.values()
    }
    if json:
        _print_json(found)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for heading, content in found.items():
        rows = content.items() if isinstance(content, dict) else [("", str(content))]
        for number, (name, value) in enumerate(rows):
            table.add_row("" if number else f"[bold]{heading}[/]", name, str(value))
    _console().print(table, highlight=False)


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and status 2."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        app()
    except TriptychError as error:
        print(f"triptych: {error}", file=sys.stderr)
        sys.exit(NOT_CARRIED_OUT)
    except OSError as error:
        print(f"triptych: cannot write the answer: {os_error_sentence(error)}", file=sys.stderr)
        sys.exit(NOT_CARRIED_OUT)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("triptych: interrupted; nothing was left behind", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
