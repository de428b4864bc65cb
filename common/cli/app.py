"""What the commands share: the application, options that several have, statuses, progress."""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from common.cli.terminal import progress_bar, standard_error
from common.implementations import FRAMEWORKS
from common.specs import CATALOGUE

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The classic convolutional networks in Keras, PyTorch and TensorFlow 1 style, and proofs that they agree.",
)

DIFFERENCE_FOUND, NOT_CARRIED_OUT = 1, 2


Framework = StrEnum("Framework", [*FRAMEWORKS])  # type: ignore[misc]


def complete(incomplete: str) -> list[str]:
    """What the shell offers for the name of a network."""
    return [name for name in CATALOGUE if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="A network, by a name that `triptych list` prints.", autocompletion=complete)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print long error messages in full.")]

# What a weights file may leave open, for the commands that read one.
Arch = Annotated[str | None, typer.Option("--arch", help="Architecture of the file, if its content fits several.")]
Entry = Annotated[str | None, typer.Option(help="Entry of the file to read, if it has several networks.")]
Prefix = Annotated[str | None, typer.Option(help="Prefix of the names in the file, such as model.")]
Rename = Annotated[
    list[str] | None, typer.Option(help="OLD=NEW: rename a tensor or a layer of the file; may be repeated.")
]
Ignore = Annotated[list[str] | None, typer.Option(help="Leave out tensors of the file, by a pattern; may be repeated.")]
Rounding = Annotated[bool, typer.Option("--round", help="Round float64 to float32; the report gives the error.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="With --arch or --into: take weights of another network, as far as they fit."),
]
Labels = Annotated[
    Path | None, typer.Option(help="File of class names, one per line. By default the names in the weights file.")
]
Preparation = Annotated[
    str | None, typer.Option(help="How to prepare photographs: torchvision, caffe, keras-torch, keras-tf, or JSON.")
]


class TakesFormerNames(TyperCommand):
    """A command that still takes what `--framework` was called before; help does not mention it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [re.sub("^--(from|with)(?==|$)", "--framework", argument) for argument in args])


def print_json(report: Any) -> None:
    """Print a report for programs."""
    print(json_module.dumps(report, indent=2, ensure_ascii=False))


@contextmanager
def progress(total: int, console: Console) -> Iterator[Callable[[str], None]]:
    """A progress bar on a terminal: below what `console` prints if that is one, else on standard error."""
    with progress_bar(console if console.is_terminal and not console.quiet else standard_error()) as bars:
        task = bars.add_task("starting", total=total)
        yield lambda what: bars.update(task, advance=1, description=f"{what} done")


def finish(report: dict[str, Any], json: bool) -> NoReturn:
    """End a command whose report has a verdict, with the status that goes with it."""
    if json:
        print_json(report)
    statuses = {row["status"] for run in report["runs"] for row in run["backends"]}
    if report["verdict"] == "incomplete" and "crashed" not in statuses:
        raise typer.Exit(NOT_CARRIED_OUT)
    raise typer.Exit(DIFFERENCE_FOUND if report["verdict"] in ("diverged", "incomplete") else 0)
