"""Networks of the catalogue in every backend, on the machines of a Dask cluster.

A task is a network in one backend, on all probes and on all of its paths: whether two paths are the same kernels is
seen where both are run. What comes back is what the journal keeps, and is put together here as at home.
"""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.cluster.client import Cluster
from common.cluster.work import Done, Machine, Task
from common.parity.backends import Backend, require
from common.parity.examining import skipped
from common.parity.journal import Entry, Notes
from common.parity.outcome import environment_on
from common.parity.paths import THREADS
from common.parity.processes import Workers
from common.parity.results import INCOMPLETE, BackendResult, Plan, Run
from common.parity.runner import Results, run_parity, runs_of
from common.probes import PROBES
from common.specs import get_spec
from common.specs.photographs import read_photograph
from common.weights import check_weights


@dataclass(frozen=True)
class Unit:
    """A network in one backend."""

    architecture: str
    backend: str
    plan: int = 0
    """Which of the plans, where there is one for a GPU and one for the CPU."""
    finished: tuple[Entry, ...] = ()
    """What of it has been finished before."""


def variables(threads: int) -> dict[str, str]:
    """What tells the frameworks how many threads to use, and PyTorch's compiler where it keeps what it has compiled.

    That would be in the folder for temporary files, which is new with each command.
    """
    cache = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    return dict.fromkeys(THREADS, str(threads)) | {"TORCHINDUCTOR_CACHE_DIR": str(cache)}


@dataclass(frozen=True)
class Parity:
    """What workers do; see `common.cluster.work.Work`."""

    plans: Sequence[Plan]

    def obstacles(self) -> dict[str, str | None]:
        """By backend; one that is on any path is there, whatever this machine lacks for some of them."""
        plan = self.plans[0]
        require(plan.hardware)
        for probe in plan.probes:
            if probe not in PROBES:
                read_photograph(probe)
        return {each.name: replace(each, path=None).obstacle(plan.hardware.device) for each in plan.backends}

    def variables(self, threads: int) -> dict[str, str]:
        return variables(threads)

    def environment(self) -> dict[str, Any]:
        return environment_on(self.plans[0].hardware.device)

    @contextmanager
    def ready(self, threads: int) -> Iterator[Callable[[Unit], list[Entry]]]:
        plans = [replace(plan, hardware=replace(plan.hardware, threads=threads)) for plan in self.plans]
        with ExitStack() as ends:
            workers = [ends.enter_context(Workers(plan.hardware)) for plan in plans]
            yield lambda unit: _entries(unit, plans[unit.plan], workers[unit.plan])


def _entries(unit: Unit, plan: Plan, workers: Workers) -> list[Entry]:
    """Every row of a unit, judged by itself."""
    notes = Notes(unit.finished)
    plan = replace(plan, backends=_of(plan, unit.backend))
    runs = run_parity(get_spec(unit.architecture), plan, workers=workers, journal=notes)
    alone = notes.finished(unit.architecture)
    return [
        alone.get((row.label, run.label)) or Entry(unit.architecture, run.label, run.batch, run.bounded, row)
        for run in runs
        for row in run.backends
    ]


def _of(plan: Plan, name: str) -> list[Backend]:
    """A backend, on each of its paths."""
    return [backend for backend in plan.backends if backend.name == name]


class _Network:
    """What has come back of a network."""

    def __init__(self, name: str, plan: Plan, notes: Notes | None) -> None:
        self.spec, self.plan = get_spec(name), plan
        self.labels = plan.runs(self.spec)
        self.results: Results = {}
        self.told: dict[str, tuple[int, Mapping[str, str]]] = dict.fromkeys(self.labels, (plan.batch or 2, {}))
        self.finished = notes.finished(name) if notes else {}
        wanted = {(backend.label, label) for backend in plan.backends for label in self.labels}
        for pair, entry in self.finished.items():
            self.told[entry.label] = entry.batch, entry.bounded
            if pair in wanted:
                self.results[pair] = entry.result

    def lacks(self, name: str) -> bool:
        """Whether there is something to run in a backend."""
        rows = [backend.label for backend in _of(self.plan, name)]
        return any((row, label) not in self.results for row in rows for label in self.labels)

    def of(self, name: str) -> tuple[Entry, ...]:
        """What of a backend has been finished before."""
        return tuple(entry for entry in self.finished.values() if entry.result.backend == name)

    def add(self, entry: Entry) -> None:
        self.told[entry.label] = entry.batch, entry.bounded
        self.results[entry.result.label, entry.label] = entry.result

    def skip(self, name: str, obstacle: str) -> None:
        """Give what is not there of a backend a row that says why."""
        for backend in _of(self.plan, name):
            for label in self.labels:
                self.results.setdefault((backend.label, label), skipped(backend, obstacle, self.plan))

    def runs(self) -> list[Run]:
        return runs_of(self.spec, self.plan, self.results, self.told)


def prove_on_cluster(
    names: Sequence[str],
    plans: Sequence[Plan],
    journal: Notes | None,
    *,
    on_result: Callable[[str], None],
    on_network: Callable[[list[list[Run]]], list[Run]],
) -> list[Run]:
    """As `common.parity.networks.prove_networks`, by the workers of the plans' cluster.

    Args:
        names: of the networks.
        plans: what to run them on; the journal is of the first.
        journal: as there.
        on_result: as there.
        on_network: is given what each plan found of a network, and returns what is told of it.

    Raises:
        TriptychError: the cluster cannot be used, or is lost.
    """
    for name in names:
        if plans[0].weights is not None:
            check_weights(get_spec(name).parameter_shapes, plans[0].weights)
    networks = {
        (name, number): _Network(name, plan, None if number else journal)
        for name in names
        for number, plan in enumerate(plans)
    }
    backends = list(dict.fromkeys(backend.name for backend in plans[0].backends))
    found: dict[str, list[Run]] = {}
    machines = {m.name: m for network in networks.values() for row in network.results.values() if (m := row.machine)}
    address = plans[0].dask
    assert address is not None
    with Cluster(address, Parity(plans), plans[0].jobs) as cluster:
        left: dict[str, int] = dict.fromkeys(names, 0)
        tasks = []
        for (name, number), network in networks.items():
            for backend, label in network.results:
                on_result(f"{name} {backend} {label}")
            for backend in (each for each in backends if network.lacks(each)):
                if obstacle := cluster.obstacles.get(backend):
                    network.skip(backend, obstacle)
                elif _of(network.plan, backend):
                    unit = Unit(name, backend, number, network.of(backend))
                    on = "" if len(plans) == 1 else f" on {network.plan.hardware.device}"
                    tasks.append(Task(f"{name} {backend}{on}", backend, unit))
                    left[name] += 1

        def close(name: str) -> None:
            found[name] = on_network([networks[name, number].runs() for number in range(len(plans))])

        for name in names:
            if not left[name]:
                close(name)
        for done in cluster.done(tasks):
            unit = done.task.what
            network = networks[unit.architecture, unit.plan]
            machine = _told_apart(done.machine, machines) if done.machine else None
            for entry in _fresh(done, network, machine):
                network.add(entry)
                if journal and not unit.plan:
                    journal.add(entry)
                on_result(f"{unit.architecture} {entry.result.label} {entry.label}")
            left[unit.architecture] -= 1
            if not left[unit.architecture]:
                close(unit.architecture)
    return [run for name in names for run in found[name]]


def _fresh(done: Done, network: _Network, machine: Machine | None) -> list[Entry]:
    """The rows that a task has added."""
    unit: Unit = done.task.what
    if done.failure is None:
        before = network.finished
        rows = [entry for entry in done.made if (entry.result.label, entry.label) not in before]
        return [replace(entry, result=replace(entry.result, machine=machine)) for entry in rows]
    return [
        Entry(
            unit.architecture,
            label,
            *network.told[label],
            BackendResult(
                backend.name, "crashed", INCOMPLETE, done.failure, backend.path_name, traceback=done.traceback
            ),
        )
        for backend in _of(network.plan, unit.backend)
        for label in network.labels
        if (backend.label, label) not in network.finished
    ]


def _told_apart(machine: Machine, known: dict[str, Machine]) -> Machine:
    """The machine; by another name if one that was another had its address in a run before."""
    while known.setdefault(machine.name, machine) != machine:
        machine = replace(machine, name=f"{machine.name}′")
    return known[machine.name]
