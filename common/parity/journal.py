"""What a long run has finished, kept as it finishes, so that an interrupted run can be resumed.

A file of JSON lines: first what the run is made with, then a line for each network, probe and backend that is done. A
line is written whole and at once; a last one that was cut off is not counted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cluster.version import sources_sha256
from common.cluster.work import Machine
from common.errors import TriptychError, argument
from common.files import os_error_sentence, written_atomically
from common.onnx.adapters import find_adapters
from common.parity.environment import describe
from common.parity.results import BackendResult, Plan
from common.parity.verdicts import LayerVerdict
from common.weights import weights_sha256

JOURNAL = "finished.jsonl"


@dataclass(frozen=True)
class Entry:
    """A backend's result on a probe, and what the report says of that probe."""

    architecture: str
    label: str
    """Of the run; see `common.parity.results.labelled`."""
    batch: int
    bounded: Mapping[str, str]
    result: BackendResult


class Notes:
    """What has been finished.

    Args:
        entries: before.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = {(each.architecture, each.result.label, each.label): each for each in entries}

    def finished(self, architecture: str) -> dict[tuple[str, str], Entry]:
        """What is done of a network, by the labels of backend and run."""
        return {
            (backend, label): entry for (name, backend, label), entry in self.entries.items() if name == architecture
        }

    def add(self, entry: Entry) -> None:
        """Keep what is finished now."""
        self.entries[entry.architecture, entry.result.label, entry.label] = entry


class Journal(Notes):
    """The file in a report's folder.

    Args:
        folder: of the report; it exists.
        plan: what is run. Which networks, probes and backends are wanted may change from one time to the next.
        resume: whether to go on with what is there; otherwise it is replaced.

    Raises:
        TriptychError: there is nothing to resume, it was made with other numbers, versions or sources, or the file
            cannot be written.
    """

    def __init__(self, folder: Path, plan: Plan, *, resume: bool) -> None:
        super().__init__()
        self.path = folder / JOURNAL
        self.writing = threading.Lock()
        identity = _identity(plan)
        if resume:
            self._read(identity)
        with written_atomically(self.path) as temporary:
            temporary.write_text(
                "".join(f"{line}\n" for line in [json.dumps(identity), *map(_as_line, self.entries.values())]),
                encoding="utf-8",
            )

    def add(self, entry: Entry) -> None:
        """Keep a result; one that says nothing of the network, such as a crash, is left to be made again.

        That a path is the same as another is known only by running it, and is kept.

        Raises:
            TriptychError: the file cannot be written.
        """
        if entry.result.status not in ("ok", "diverged") and entry.result.evidence is None:
            return
        try:
            with self.writing, self.path.open("a", encoding="utf-8") as file:
                file.write(f"{_as_line(entry)}\n")
        except OSError as error:
            raise TriptychError(f"cannot write {self.path}: {os_error_sentence(error)}") from None

    def _read(self, identity: Mapping[str, Any]) -> None:
        try:
            first, *lines = self.path.read_text(encoding="utf-8").splitlines()
            found = json.loads(first)
        except (OSError, ValueError):
            folder = self.path.parent
            raise TriptychError(
                f"there is nothing to resume in {folder}; leave out {argument('resume')} to start"
            ) from None
        for name, wanted in identity.items():
            if found.get(name) != wanted:
                values = "" if name in _LONG else f", {found.get(name)} then and {wanted} now"
                made = f"{self.path} was made by a run that differs in its {name}{values}"
                raise TriptychError(f"{made}; leave out {argument('resume')} to start again")
        for line in lines:
            try:
                entry = _from_line(line)
            except (ValueError, TypeError, KeyError):
                continue
            super().add(entry)


_LONG = ("versions", "sources")


def _identity(plan: Plan) -> dict[str, Any]:
    """Everything that a result depends on."""
    return {
        "seed": plan.seed,
        "batch": plan.batch,
        "device": plan.hardware.device,
        "precision": plan.hardware.precision,
        "adapter": str(find_adapters().chosen) if plan.hardware.device == "webgpu" else None,
        "weights": None if plan.weights is None else weights_sha256(plan.weights),
        "versions": describe()["versions"],
        "sources": sources_sha256(),
    }


def _as_line(entry: Entry) -> str:
    result = asdict(entry.result) | {"outputs": {name: array.tolist() for name, array in entry.result.outputs.items()}}
    return json.dumps({**vars(entry), "result": result}, ensure_ascii=False)


def _from_line(line: str) -> Entry:
    entry = json.loads(line)
    result = entry["result"]
    result["outputs"] = {name: np.array(values, np.float32) for name, values in result["outputs"].items()}
    result["cause_proved_on"] = tuple(result["cause_proved_on"])
    result["machine"] = Machine(**result["machine"]) if result["machine"] else None
    result["layers"] = [
        LayerVerdict(
            **layer | {name: tuple(layer[name]) for name in ("ulp_histogram", "excluded", "explanations", "untried")}
        )
        for layer in result["layers"]
    ]
    return Entry(**entry | {"result": BackendResult(**result)})
