"""Models proved on the machines of a Dask cluster.

A task is a model in all its runtimes. A task for each runtime would take 2 to 3 times the work: most of the time goes
into the export, and into the values of ONNX Runtime that every row starts from. Keras' MobileNet at 96 × 96 took 56
seconds of a processor for its 7 rows on both probes, and 18 to 24 seconds for one row alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.cluster.client import Cluster
from common.cluster.work import Task
from common.errors import TriptychError
from common.parity.on_cluster import variables
from common.parity.outcome import environment_on
from common.prove.devices import require_device
from common.prove.many import Draw, Proved
from common.prove.models import ModelName
from common.prove.proof import Advance, Request, require_packages
from common.prove.results import ProofRun

_PACKAGES = {"timm": ("timm", "torchvision"), "keras.applications": ("keras",)}
"""What the models of a library need beside what every proof needs, where it is called otherwise than the library."""


@dataclass(frozen=True)
class Proofs:
    """What workers do; see `common.cluster.work.Work`."""

    request: Request
    draw: Draw | None
    files: Sequence[str]
    packages: Sequence[Sequence[str]]
    """What there are models of, each an ability."""

    def obstacles(self) -> dict[str, str | None]:
        require_packages("torch", "onnxscript", "onnx", "onnxruntime")
        if self.request.device != "cpu":
            require_device(self.request.device)
        for file in self.files:
            if not Path(file).is_file():
                raise TriptychError(f"there is no file {file}; workers read files by the same path")
        missing = {name: [p for p in name if importlib.util.find_spec(p) is None] for name in map(tuple, self.packages)}
        return {_ability(name): f"{lacks[0]} is not installed" if lacks else None for name, lacks in missing.items()}

    def variables(self, threads: int) -> dict[str, str]:
        return variables(threads)

    def environment(self) -> dict[str, Any]:
        return environment_on(self.request.device)

    @contextmanager
    def ready(self, threads: int) -> Iterator[Callable[[Sequence[ModelName]], Proved]]:
        yield lambda names: Proved.of(names, self.request, self.draw)


def proved_there(
    address: str,
    subjects: Sequence[Sequence[ModelName]],
    request: Request,
    draw: Draw | None,
    advance: Advance,
    jobs: int = 1,
) -> Generator[Proved]:
    """Have the workers of a cluster prove each subject, in the order in which they are finished.

    Args:
        address: of the scheduler.
        subjects: each a model, and those that are judged by it.
        request: on what.
        draw: draws the page of each, if there is to be one.
        advance: is told of each that is finished.
        jobs: how many each worker proves at the same time.

    Raises:
        TriptychError: the cluster cannot be used, or is lost.
    """
    subjects = [[_absolute(name) for name in names] for names in subjects]
    files = {name.home for names in subjects for name in names if name.is_file}
    needs = [_packages(names) for names in subjects]
    with Cluster(address, Proofs(request, draw, sorted(files), list(dict.fromkeys(needs))), jobs) as cluster:
        tasks = []
        for number, (names, packages) in enumerate(zip(subjects, needs, strict=True)):
            ability = _ability(packages)
            if obstacle := cluster.obstacles[ability]:
                yield Proved.refused(names, request, f"no worker can prove {names[0].text}: {obstacle}", draw)
                advance(names[0].text)
            else:
                called = names[0].text if len(names) == 1 else f"{names[0].text} and {len(names) - 1} more"
                tasks.append(Task(f"{called} ({number})", ability, names))
        for done in cluster.done(tasks):
            names = done.task.what
            found = Proved.refused(names, request, done.failure, draw) if done.failure else done.made
            if done.machine:
                found = replace(found, runs=[_on(run, done.machine) for run in found.runs])
            yield found
            advance(names[0].text)


def _on(run: ProofRun, machine: Any) -> ProofRun:
    return replace(run, backends=[replace(row, machine=machine) for row in run.backends])


def _absolute(name: ModelName) -> ModelName:
    """A name that means the same in another folder."""
    if not name.is_file:
        return name
    home = str(Path(name.home).resolve())
    return ModelName(f"{home}:{name.name}" if name.name else home, home, name.name)


def _packages(names: Sequence[ModelName]) -> tuple[str, ...]:
    """What must be installed for some models."""
    homes = dict.fromkeys(name.home for name in names if name.name and not name.is_file)
    return tuple(dict.fromkeys(package for home in homes for package in _PACKAGES.get(home, (home.partition(".")[0],))))


def _ability(packages: Sequence[str]) -> str:
    return "prove " + " ".join(packages)
