"""The command line: a module for each command. Flags and printing are here, and nowhere else in `common`.

Frameworks are imported only by the commands that run them, and only where they do.
"""

from __future__ import annotations

import sys

from common.process.interrupts import interrupts

INTERRUPTED = 130
"""The status of a command that was interrupted."""


def main() -> None:
    """Run the command that `sys.argv` names. A user's mistake ends in a sentence and status 2, Ctrl-C in status 130."""
    try:
        with interrupts():  # before the commands are imported, which takes half a second
            from common.cli.commands import run

            run()
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        print("triptych: interrupted; nothing half-written is left", file=sys.stderr)
        sys.exit(INTERRUPTED)
