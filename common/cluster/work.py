"""What there is to do, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Task:
    """What one worker does, in one go."""

    name: str
    """Which no other task has."""
    needs: str
    """One of the abilities that `Work.obstacles` is about."""
    what: Any
    """As `Work.ready` takes it."""


class Work(Protocol):
    """What a command has to do. It is pickled, and so is all that it gives."""

    def obstacles(self) -> Mapping[str, str | None]:
        """By ability, why a task that needs it cannot be done on this machine; None where it can."""
        ...

    def variables(self, threads: int) -> Mapping[str, str]:
        """What tells libraries to use so many threads, where the user's own environment does not."""
        ...

    def environment(self) -> Mapping[str, Any]:
        """What results depend on, on this machine."""
        ...

    def ready(self, threads: int) -> AbstractContextManager[Callable[[Any], Any]]:
        """What does tasks, one after the other, with so many threads; what it keeps between them is ended after."""
        ...


@dataclass(frozen=True)
class Machine:
    """Where a task was done."""

    name: str
    """The host, and the address of Dask's worker there."""
    environment: Mapping[str, Any] = field(repr=False)
    """As `Work.environment` tells it there."""


@dataclass(frozen=True)
class Done:
    """A task, and what came of it: `made`, or the reason why there is nothing."""

    task: Task
    machine: Machine | None = None
    """None where more than one has failed at it."""
    made: Any = None
    failure: str | None = None
    traceback: str | None = None
