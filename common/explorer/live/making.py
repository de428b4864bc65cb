"""Makes the files that the panel asks for, when they are first asked for, and keeps some of them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from common.errors import TriptychError
from common.explorer.live.networks import FILES
from common.process import Process, ProcessFailure

KEPT = 6
"""The number of folders of files that are kept. Those of the whole catalogue would take 10 GB."""


class Own(TypedDict):
    """The user's weights of a network."""

    weights: str
    """The path of a safetensors file, canonical."""
    num_classes: int
    preprocessing: str | None
    """See `Preprocessing.as_json`; None if it is not known."""
    labels: list[str] | None
    origin: str
    """A description of the weights."""


class Making:
    """Makes files in a process of its own, which imports the frameworks, one network at a time.

    Args:
        folder: for the files; its creator removes it.
        own: the user's weights by the network; the others have starting weights.
    """

    def __init__(self, folder: Path, own: Mapping[str, Own]) -> None:
        self.folder, self.own = folder, own
        self.made: list[tuple[str, str]] = []
        self.one_at_a_time, self.starting = threading.Lock(), threading.Lock()
        self.process: Process | None = None
        self.ended = False

    def __enter__(self) -> Making:
        return self

    def __exit__(self, *ended: object) -> None:
        with self.starting:  # what another thread starts at this moment is ended too
            self.ended = True
            if self.process:
                self.process.kill()

    def file(self, architecture: str, what: str, name: str) -> Path | None:
        """The path of a file, which is made if it is not there; None if there is no such file.

        Raises:
            TriptychError: it cannot be made.
        """
        if name not in FILES.get(what, ()):
            return None
        out = self.folder / f"{architecture}-{what}"
        with self.one_at_a_time:
            if (architecture, what) in self.made:
                self.made.remove((architecture, what))
            else:
                self._make(architecture, what, out)
            self.made.append((architecture, what))
            while len(self.made) > KEPT:
                shutil.rmtree(self.folder / "-".join(self.made.pop(0)), ignore_errors=True)
        return out / name

    def _make(self, architecture: str, what: str, out: Path) -> None:
        request = {"architecture": architecture, "what": what, "out": str(out), "own": self.own.get(architecture)}
        try:
            self._running().ask(request)
        except ProcessFailure as error:
            raise TriptychError(f"cannot make {architecture} for the browser: {error}") from None

    def _running(self) -> Process:
        """The process, started if it does not run.

        Raises:
            ProcessFailure: this has been ended.
        """
        with self.starting:
            if self.ended:
                raise ProcessFailure("it is being ended")
            if self.process is None or not self.process.alive:
                self.process = Process("common.explorer.live.networks")
            return self.process
