"""The one exception that means "the user can fix this"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MARK = "\N{INFORMATION SEPARATOR TWO}"
"""Stands around an argument in a message: a character that no name and no path contains."""

ARGUMENT = re.compile(f"{MARK}(\\w+)(?:=([^{MARK}]*))?{MARK}")


def argument(name: str, value: object = None) -> str:
    """Name one of the caller's arguments in the message of a `TriptychError`.

    The command line finds it there and writes its own name for it.

    >>> str(TriptychError(f"there is nothing to resume; leave out {argument('resume')}"))
    'there is nothing to resume; leave out `resume`'
    >>> str(TriptychError(f"skip it with {argument('bad_files', 'skip')}"))
    "skip it with `bad_files='skip'`"
    """
    return f"{MARK}{name}{'' if value is None else f'={value!r}'}{MARK}"


class TriptychError(ValueError):
    """A request that cannot be carried out.

    The message is one clear sentence: what was wrong, where, what was expected and what to do. It is in terms of Python
    functions; the command line prints it in terms of flags, without a traceback, and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(ARGUMENT.sub(lambda found: f"`{found[0].strip(MARK)}`", message))
        self.message = message
        """With the marks of `argument` still in it."""


class Unavailable(TriptychError):
    """What was asked for is not available on this machine, such as a GPU."""


class Damaged(TriptychError):
    """Bytes of a file are missing, or contradict each other: a fresh copy may help."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: names that begin with it or resemble it, or all names."""
    known = list(known)
    close = [other for other in known if name and other.startswith(name)]
    close = close or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}."


def one_line(error: Exception) -> str:
    """An exception as one line of a report: a `TriptychError` as it is, others with their type, without TensorFlow's
    extra lines."""
    if isinstance(error, TriptychError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line and not line.startswith((" ", "Detected at", "Node:"))]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"
