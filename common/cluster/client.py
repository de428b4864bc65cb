"""Tasks handed to the workers of a Dask cluster, and what comes back."""

from __future__ import annotations

import logging
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from distributed import CancelledError, Client, Future, KilledWorker, wait
from distributed.comm import get_address_host_port

from common.cluster import ClusterLost, plugin
from common.cluster.plugin import SLOTS, Again, Plugin, resource
from common.cluster.version import version
from common.cluster.work import Done, Task, Work
from common.errors import TriptychError, one_line

CONNECTING = 10.0
"""Seconds that a scheduler may take to answer."""

PATIENCE = 30.0
"""Seconds in which somebody must come who can do what nobody is left for: Dask starts workers that died again."""

LOOKING = 2.0
"""Seconds between two looks at who is there."""


class Cluster:
    """The workers of a scheduler, as long as a command uses them.

    Args:
        address: of the scheduler, such as `tcp://10.0.0.1:8786`.
        work: what there is to do.
        jobs: how many tasks each worker does at the same time.

    Raises:
        TriptychError: nobody answers there, there are no workers, or one cannot take part.
    """

    def __init__(self, address: str, work: Work, jobs: int = 1) -> None:
        self.address, self.work, self.jobs = address, work, jobs
        self.run = f"triptych-{uuid.uuid4().hex}"
        self.futures: dict[Future, Task] = {}

    def __enter__(self) -> Cluster:
        for handler in logging.getLogger("distributed").handlers:  # what goes wrong is said in our own words
            handler.setLevel(logging.CRITICAL)
        try:
            get_address_host_port(self.address)
            with warnings.catch_warnings(action="ignore"):
                self.client = Client(self.address, timeout=CONNECTING, set_as_default=False, name="triptych")
        except (OSError, ValueError) as error:
            told = f"no Dask scheduler answers at {self.address or 'no address'}: {error}".partition("\n")[0]
            raise TriptychError(f"{told}; give its address, such as 10.0.0.1:8786") from None
        try:
            self._require_version()
            self.client.register_plugin(Plugin(self.run, self.work, self.jobs))
            self.obstacles = self._agreed()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *ended: object) -> None:
        """Cancel what is queued, end what runs."""
        with suppress(OSError, CancelledError, ValueError):  # the scheduler is gone, or knows of nothing
            self.client.cancel(list(self.futures), force=True)
            self.client.unregister_worker_plugin(self.run)
            self.client.set_metadata([self.run], None)
        self.client.close(timeout=2)

    def _workers(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.client.scheduler_info()["workers"]
        return found

    def _require_version(self) -> None:
        """See that all workers have this Python and these sources.

        Raises:
            TriptychError: one has not, or there is none.
        """
        if not self._workers():
            raise TriptychError(f"the cluster at {self.address} has no workers; start some: dask worker {self.address}")
        here = version()
        for address, found in self.client.run(version, on_error="return").items():
            if isinstance(found, Exception):
                told = f"the worker at {address} cannot load this version of Triptych: {found}"
                raise TriptychError(f"{told}; install it there, and start the worker again")
            for what, value in here.items():
                if found[what] != value:
                    told = f"the worker at {address} has another {what}, {found[what]}, not {value} as here"
                    raise TriptychError(f"{told}; install the same there, and start the worker again")

    def _agreed(self) -> dict[str, str | None]:
        """By ability, why nobody has it; None if somebody has.

        Raises:
            TriptychError: nobody can do anything.
        """
        answers = self.client.run(plugin.found, self.run)
        able = [found for found in answers.values() if not isinstance(found, str)]
        if not able:
            address, told = next(iter(answers.items()))
            raise TriptychError(f"no worker of the cluster at {self.address} can do this; {address} says: {told}")
        return {what: None if any(o[what] is None for o in able) else able[0][what] for what in able[0]}

    def done(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """What comes of each task, in the order in which they are finished.

        A task whose worker dies is tried once more, by a worker elsewhere if there is one.

        Raises:
            ClusterLost: the scheduler is gone, or nobody who can do what is left has been there for `PATIENCE` seconds.
        """
        try:
            for task in tasks:
                self._submit(task)
            seen = time.monotonic()
            while self.futures:
                if finished := self._finished():
                    for future in finished:
                        if found := self._outcome(future, self.futures.pop(future)):
                            yield found
                elif alone := self._alone():
                    for future, task in alone.items():
                        if len(begun := self._begun(task)) > 1:  # which nobody is there to tell
                            future.cancel(force=True)
                            yield plugin.died(self.futures.pop(future), begun)
                        elif time.monotonic() - seen > PATIENCE:
                            told = f"the cluster at {self.address} has no worker left that can do {task.name}"
                            raise ClusterLost(f"{told}; start some, and the command again")
                    continue
                seen = time.monotonic()
        except (OSError, CancelledError):
            told = f"the connection to the scheduler at {self.address} is lost"
            raise ClusterLost(f"{told}; start it and its workers, and the command again") from None

    def _finished(self) -> set[Future]:
        """Those of which something has come, after a while at most."""
        try:
            with self.client.as_current():
                done: set[Future] = wait(list(self.futures), timeout=LOOKING, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return set()
        return done

    def _alone(self) -> dict[Future, Task]:
        """What nobody is there for."""
        there = [worker["resources"] for worker in self._workers().values()]
        return {
            future: task
            for future, task in self.futures.items()
            if not any(resource(task.needs) in has for has in there)
        }

    def _begun(self, task: Task) -> list[dict[str, str]]:
        """Where a task has been begun."""
        found: list[dict[str, str]] = self.client.get_metadata([self.run, task.name], default=[])
        return found

    def _submit(self, task: Task, others: Sequence[str] = ()) -> None:
        future = self.client.submit(
            plugin.do,
            self.run,
            task,
            key=(self.run, task.name, uuid.uuid4().hex),
            resources={SLOTS: 1, resource(task.needs): 1},
            workers=list(others) or None,
            allow_other_workers=bool(others),
            pure=False,
        )
        self.futures[future] = task

    def _outcome(self, future: Future, task: Task) -> Done | None:
        """What came of a task; None if it was handed out again."""
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):  # though it may only have waited there, again and again
            begun = self._begun(task)
            found = plugin.died(task, begun) if len(begun) > 1 else Again()
        elif isinstance(error, Exception):
            found = Done(task, failure=one_line(error))
        else:
            found = future.result()
        if isinstance(found, Done):
            return found
        self._submit(task, found.others)
        return None
