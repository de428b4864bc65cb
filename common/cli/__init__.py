"""The command line: a module for each command. Flags and printing are here, and nowhere else in `common`.

Frameworks are imported only by the commands that run them, and only where they do.
"""

from __future__ import annotations

import importlib
import signal
import sys

from common.cli.app import INTERRUPTED, NOT_CARRIED_OUT, app
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


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and status 2."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    spare_imports()
    try:
        app()
    except TriptychError as error:
        print(_told(f"triptych: {with_flags(error)}"), file=sys.stderr)
        sys.exit(NOT_CARRIED_OUT)
    except OSError as error:
        print(f"triptych: cannot write the answer: {os_error_sentence(error)}", file=sys.stderr)
        sys.exit(NOT_CARRIED_OUT)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("triptych: interrupted; nothing half-written is left", file=sys.stderr)
        raise


def _told(message: str) -> str:
    """A message, in full where `--verbose` asks for it or it is short."""
    more = " … (--verbose tells the rest)"
    if len(message) <= LONGEST_MESSAGE or "--verbose" in sys.argv:
        return message
    return message[: LONGEST_MESSAGE - len(more)] + more
