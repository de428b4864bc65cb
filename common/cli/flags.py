"""Turns the names of arguments in the libraries' messages into flags."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Sequence

from common.errors import ARGUMENT, TriptychError

FLAGS = {
    "architecture": "--arch",
    "backends": "--backend",
    "inputs": "--input",
    "kind": "--to",
    "milestones": "--milestone",
    "plots": "--plot",
    "probes": "--probe",
}
"""The flags that are not called as the argument is."""


def with_flags(error: TriptychError) -> str:
    """The message as the command line says it.

    >>> from common.errors import argument
    >>> with_flags(TriptychError(f"leave out {argument('resume')}, or give {argument('input_shape', [1, 3, 8, 8])}"))
    'leave out --resume, or give --input-shape 1x3x8x8'
    >>> with_flags(TriptychError(f"give {argument('input_shape', {'tokens': [2, 7]})}"))
    'give --input-shape tokens=2x7'
    """
    return ARGUMENT.sub(_flag, error.message)


def _flag(found: re.Match[str]) -> str:
    name, text = found.groups()
    flag = FLAGS.get(name, "--" + name.replace("_", "-"))
    try:
        value = True if text is None else ast.literal_eval(text)
    except (ValueError, SyntaxError):  # no message of ours, but a name that looks like one
        return found[0]
    match value:
        case True:
            return flag
        case False:
            return f"--no-{flag[2:]}"
        case [int(), *_]:
            return f"{flag} {shape_text(value)}"
        case dict():
            return " ".join(f"{flag} {shlex.quote(f'{key}={shape_text(one)}')}" for key, one in value.items())
        case list():
            return " ".join(f"{flag} {shlex.quote(one)}" for one in value)
        case _:
            return f"{flag} {shlex.quote(str(value))}"


def shape_text(shape: Sequence[int]) -> str:
    """A shape as flags take it: `1x3x8x8`."""
    return "x".join(map(str, shape))
