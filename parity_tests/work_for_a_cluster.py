"""Work for test_cluster.py: tasks that tell where they are, sleep, fail, or kill what they run in."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Odd:
    """What is asked for is done; `refuse` is what this machine says of itself, if anything."""

    lacks: tuple[str, ...] = ()

    def obstacles(self) -> dict[str, str | None]:
        return {name: "not here" if name in self.lacks else None for name in ("this", "that")}

    def variables(self, threads: int) -> dict[str, str]:
        return {"OMP_NUM_THREADS": str(threads)}

    def environment(self) -> dict[str, Any]:
        return {"threads": os.environ.get("OMP_NUM_THREADS"), "folder": os.environ["TMPDIR"]}

    @contextmanager
    def ready(self, threads: int) -> Iterator[Callable[[str], Any]]:
        yield do


def do(what: str) -> Any:
    how, _, more = what.partition(" ")
    match how:
        case "sleep":
            time.sleep(float(more))
        case "fail":
            raise ValueError(more)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill":  # the worker, the first time only if there is a place to write that down
            if more and Path(more).exists():
                return os.getpid()
            if more:
                Path(more).touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
    return os.getpid()
