"""The processes that backends run in: started, asked, used again, ended."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import TracebackType

from common.parity.backends import Backend, Hardware, process_environment
from common.parity.evidence import listening
from common.parity.paths import with_variables
from common.process import Process, ProcessFailure
from common.process.template import Imports

_WORKERS = "common.onnx.session", "common.parity.evidence", "common.specs.recording", "common.weights"
"""What workers import besides their framework."""

_ON_TENSORFLOW = "tf1_style_impl.backend", "keras_impl.backend"
"""What is imported for both: TensorFlow takes 4 s, Keras after it half a second."""

RESIDENT_LIMIT = 1 << 30
"""Bytes. A process that holds more than this after its network has been released is ended."""


WAITING_LIMIT = 12
"""How many processes may wait for another network. Those of every path of every backend would fill the memory."""


def _imports(backend: Backend) -> tuple[str, ...]:
    """The modules that a backend's process imports first."""
    own = f"{backend.implementation}.backend"
    if own in _ON_TENSORFLOW and "tensorflow" in backend.modules:  # Keras runs on other libraries too
        return (*_ON_TENSORFLOW, *_WORKERS)
    return (own, *_WORKERS)


class WorkerProcess(Process):
    """A running worker."""

    def __init__(
        self,
        backend: Backend,
        hardware: Hardware,
        evidence: Path,
        *,
        module: str = "common.parity.worker",
        often: bool = False,
    ) -> None:
        """Start it. `often` says that there will be others with the same imports."""
        self.backend = backend
        environment = process_environment(backend, hardware)
        if backend.path:
            evidence.mkdir()
            environment = with_variables(environment, listening(evidence))
        arguments = module, backend.name, hardware.device, hardware.precision
        imports = Imports(_imports(backend), spared="*", often=often)
        copied = hardware.device == "cpu" and not backend.path
        super().__init__(*arguments, environment=environment, imports=imports if copied else None)


class Workers:
    """Processes that wait for their next network: importing a framework takes longer than running a small one."""

    def __init__(self, hardware: Hardware = Hardware(), backends: Sequence[Backend] = ()) -> None:
        """On some hardware; `backends` are those that will be taken, as far as that is known."""
        self.hardware = hardware
        self.wanted = Counter(map(_imports, backends))
        self.waiting: dict[str, WorkerProcess] = {}
        self.started: list[WorkerProcess] = []
        self.folder = tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True)
        self.numbers = count()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self.folder.cleanup()

    def take(self, backend: Backend) -> WorkerProcess:
        """Take an idle process of this backend, or start one."""
        worker = self.waiting.pop(backend.label, None)
        if worker is None or not worker.alive:
            evidence = Path(self.folder.name) / f"{backend.name}-{next(self.numbers)}"
            often = self.wanted[_imports(backend)] > 1
            worker = WorkerProcess(backend, self.hardware, evidence, often=often)
            self.started.append(worker)
        return worker

    def give_back(self, worker: WorkerProcess) -> None:
        """Let the process release its network; end it if it does not free the memory."""
        try:
            resident = worker.ask({"release": True}, timeout=60)["resident"]
        except ProcessFailure:
            resident = RESIDENT_LIMIT
        label = worker.backend.label
        if resident < RESIDENT_LIMIT and label not in self.waiting and len(self.waiting) < WAITING_LIMIT:
            self.waiting[label] = worker
        else:
            self.end(worker)

    def end(self, worker: WorkerProcess) -> None:
        """End a process that was taken."""
        worker.kill()
        self.started.remove(worker)

    def kill(self) -> None:
        """End all processes, also those in use."""
        for worker in list(self.started):
            worker.kill()
