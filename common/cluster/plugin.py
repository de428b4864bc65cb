"""The other end of `common.cluster.client`: what runs in each of Dask's workers as long as a command uses them."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
from distributed import Worker, WorkerPlugin, get_client, get_worker

from common.cluster.version import version
from common.cluster.work import Done, Machine, Task, Work
from common.errors import TriptychError
from common.process import Process, ProcessFailure

SLOTS = "triptych"
"""The resource of which a worker has as many as tasks may run there at the same time."""


def resource(ability: str) -> str:
    """What Dask calls an ability of these sources."""
    return f"triptych {version()['Triptych']} {ability}"


def found(run: str, dask_worker: Worker) -> Mapping[str, str | None] | str:
    """What keeps a worker from doing what, by ability; or from doing anything, in a sentence."""
    plugin: Any = dask_worker.plugins[run]
    obstacles: Mapping[str, str | None] | str = plugin.found
    return obstacles


@dataclass(frozen=True)
class Again:
    """A task that another worker is to try: the process died here, or it did before and this is no other place."""

    others: Sequence[str] = ()
    """The addresses of those who could."""


class Plugin(WorkerPlugin):
    """At a worker, from when the command begins, or from when the worker does, to when either ends."""

    def __init__(self, run: str, work: Work, jobs: int) -> None:
        self.name, self.work, self.jobs = run, work, jobs
        self.version = version()
        self.found: Mapping[str, str | None] | str = {}

    async def setup(self, worker: Worker) -> None:
        self.folder = tempfile.TemporaryDirectory(
            prefix="triptych-", dir=worker.local_directory, ignore_cleanup_errors=True
        )
        self.lock, self.ended = threading.Lock(), False
        self.processes: list[Process] = []
        self.free: list[Process] = []
        self.threads = max(1, worker.state.nthreads // self.jobs)
        self.machine = f"{socket.gethostname()} ({worker.address.partition('://')[2]})"
        self.nanny = str(worker.nanny or worker.address)
        self.file = Path(self.folder.name) / "work"
        self.file.write_bytes(pickle.dumps(self.work))
        if version() != self.version:  # of a worker that came later: the client has asked the others
            self.found = "it has another version"
            return
        try:
            self.found = await asyncio.to_thread(self.work.obstacles)
        except TriptychError as error:
            self.found = error.message
            return
        able = [resource(ability) for ability, obstacle in self.found.items() if obstacle is None]
        await worker.set_resources(**dict.fromkeys((SLOTS, *able), self.jobs))

    async def teardown(self, worker: Worker) -> None:
        """End all that was started, what is in use included."""
        with self.lock:
            self.ended = True
            for process in self.processes:
                process.kill()
        await asyncio.sleep(0.2)  # what these have started ends when it notices, and writes files until then
        self.folder.cleanup()

    @property
    def here(self) -> dict[str, str]:
        """Where this is; Dask starts a worker that has died again, with another address, but not its nanny."""
        return {"machine": self.machine, "nanny": self.nanny}

    def do(self, task: Task) -> Done | ProcessFailure:
        """Have a task done; or how the process died of it."""
        file = Path(self.folder.name) / uuid.uuid4().hex
        try:
            process = self._take()
            file.write_bytes(pickle.dumps(task.what))
            process.ask(str(file))
        except ProcessFailure as failure:
            if not failure.answer:
                return failure
            self.free.append(process)
            return Done(task, failure=str(failure), traceback=failure.traceback)
        environment, made = pickle.loads(file.read_bytes())
        file.unlink()
        self.free.append(process)
        return Done(task, Machine(self.machine, environment), made)

    def _take(self) -> Process:
        """A process that does nothing yet."""
        with self.lock:
            if self.ended:
                raise ProcessFailure("the command that asked has ended")
            while self.free:
                if (process := self.free.pop()).alive:
                    return process
            variables = {**self.work.variables(self.threads), **_environment(), "TMPDIR": self.folder.name}
            process = Process("common.cluster.task_process", str(self.file), str(self.threads), environment=variables)
            self.processes.append(process)
            return process


def _environment() -> dict[str, str]:
    """That of the worker, without the OMP_NUM_THREADS=1 and its like that Dask's nanny sets, for tasks in threads."""
    of_nanny = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return {
        name: value
        for name, value in os.environ.items()
        if not (name.endswith("_NUM_THREADS") and str(of_nanny.get(name)) == value)
    }


def do(run: str, task: Task) -> Done | Again:
    """What Dask's workers run: a task, unless it has been begun twice. Each beginning is told to the scheduler."""
    plugin: Any = get_worker().plugins[run]
    client = get_client()
    begun = client.get_metadata([run, task.name], default=[])
    if len(begun) > 1:
        return died(task, begun)
    if begun and begun[0]["nanny"] == plugin.nanny and (others := _others(client, task, plugin.nanny)):
        return Again(others)
    client.set_metadata([run, task.name], [*begun, plugin.here])
    found = plugin.do(task)
    if isinstance(found, Done):
        return found
    client.set_metadata([run, task.name], [*begun, plugin.here | {"how": str(found)}])
    return Again()


def _others(client: Any, task: Task, nanny: str) -> list[str]:
    """The workers of other nannies that can do it."""
    return [
        address
        for address, worker in client.scheduler_info()["workers"].items()
        if (worker["nanny"] or address) != nanny and resource(task.needs) in worker["resources"]
    ]


def died(task: Task, begun: Sequence[Mapping[str, str]]) -> Done:
    """What is said of a task at which two workers have died."""
    places = [f"{each['machine']}: {each['how']}" if "how" in each else each["machine"] for each in begun]
    return Done(task, failure=f"the worker died twice ({'; '.join(places)})")
