"""All commands, and how each ends."""

from __future__ import annotations

import importlib
import sys

from common.cli.app import NOT_CARRIED_OUT, app
from common.cli.flags import with_flags
from common.errors import TriptychError
from common.files import os_error_sentence
from common.process.sparing import spare_imports

COMMANDS = (
    "list", "show", "compare", "explore", "parity", "prove", "export", "probe", "train", "port", "classify", "doctor"
)  # fmt: skip
"""In the order in which help tells of them."""

LONGEST_MESSAGE = 400
"""Characters of what standard error is told without `--verbose`."""

for name in COMMANDS:
    importlib.import_module(f"common.cli.{name}")


def run() -> None:
    """Run the command that `sys.argv` names, to its end in a SystemExit."""
    spare_imports()
    try:
        app()
    except TriptychError as error:
        print(_told(f"triptych: {with_flags(error)}"), file=sys.stderr)
        sys.exit(NOT_CARRIED_OUT)
    except OSError as error:
        print(f"triptych: cannot write the answer: {os_error_sentence(error)}", file=sys.stderr)
        sys.exit(NOT_CARRIED_OUT)


def _told(message: str) -> str:
    """A message, in full where `--verbose` asks for it or it is short."""
    more = " … (--verbose tells the rest)"
    if len(message) <= LONGEST_MESSAGE or "--verbose" in sys.argv:
        return message
    return message[: LONGEST_MESSAGE - len(more)] + more
