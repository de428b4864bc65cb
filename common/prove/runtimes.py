"""The programs that run a graph. Each has a process of its own, so a crash is only a row of the report."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import process
from common.errors import TriptychError
from common.onnx.adapters import find_adapters
from common.operations.rounding import FP32, FP32_IN_WGSL, Precision
from common.parity.backends import Hardware, device_environment
from common.process.sparing import KERAS, spare_imports
from common.process.template import Imports
from common.prove.array_files import mapped, write_arrays


@dataclass(frozen=True)
class Runtime:
    """One way to run a model."""

    name: str
    optimise: bool
    """Whether it may fuse and change operations."""
    needs: str | None = None
    """The package that it needs. Without it, the runtime is skipped, or left out for an ONNX file."""
    module: str = "common.prove.onnx_run"
    """The module that runs an ONNX file, as a program."""
    device: str = "cpu"
    """`cpu`, `cuda` or `webgpu`."""

    def on(self, device: str) -> Runtime:
        """It on a GPU, with all optimisations, as it is deployed there."""
        return Runtime(f"{self.name}-{device}", True, self.needs, self.module, device)

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        return FP32_IN_WGSL if self.device == "webgpu" else FP32

    @property
    def is_there(self) -> bool:
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


ONNX_RUNTIMES = (Runtime("onnxruntime", False), Runtime("onnxruntime-optimised", True))
OTHERS = (Runtime("openvino", True, needs="openvino", module="common.prove.openvino_run"),)
FILE_RUNTIMES = (*ONNX_RUNTIMES, *(runtime for runtime in OTHERS if runtime.is_there))
"""The runtimes of an ONNX file: ONNX Runtime, whose values without optimisations are the basis of the proof, and others
that are installed."""


def runtimes_of_file(device: str = "cpu") -> tuple[Runtime, ...]:
    """The runtimes of an ONNX file on a device. Of the CPU's, only the basis of the proof goes with a GPU's."""
    basis = ONNX_RUNTIMES[0]
    return FILE_RUNTIMES if device == "cpu" else (basis, basis.on(device))


@dataclass
class Recorded:
    """The answer of a runtime."""

    values: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    same: bool = True
    """Whether the model, called as a whole, gave the same bits as its single operations."""
    error: str | None = None
    skipped: bool = False
    """Whether only a package is missing."""
    places: Mapping[str, str] = field(default_factory=dict)
    """On a GPU: where values were computed, `cpu` or `gpu`."""
    note: str | None = None
    """A note about the run."""

    def renamed(self, called: Mapping[str, str]) -> Recorded:
        """It with other names for some of its values, and without the rest.

        Args:
            called: the names here, by the other ones.
        """
        values = {name: self.values[theirs] for name, theirs in called.items() if theirs in self.values}
        places = {name: self.places[theirs] for name, theirs in called.items() if theirs in self.places}
        return replace(self, values=values, places=places)


def record(
    runtime: Runtime, model: Path, feeds: Mapping[str, np.ndarray], folder: Path, only: Sequence[str] | None = None
) -> Recorded:
    """Run a model in a process of its own, with every value recorded.

    Args:
        runtime: how.
        model: the file.
        feeds: its inputs, by name.
        folder: a folder for the files of the two processes.
        only: as in `Subject.record`.
    """
    job: dict[str, Any] = {"model": str(model), "optimise": runtime.optimise, "device": runtime.device}
    if only is not None:
        job["only"] = list(only)
    variables = {} if runtime.device == "cpu" else device_environment(Hardware(runtime.device))
    with Process(runtime.module, variables) as process:
        found = process.record(job, feeds, folder)
    if runtime.device == "webgpu" and not found.error:
        adapter = find_adapters().chosen
        found.note = "; ".join(filter(None, (f"on {adapter}", found.note)))
    return found


_IMPORTS = {
    "common.prove.torch_run": Imports(
        (
            "common.prove.torch_export",
            "common.prove.models",
            "common.prove.tensors",
            "onnx",
            "torch._inductor.compile_fx",
            "torch.export._trace",
            "torch.onnx",
            "onnxscript.optimizer",
            "onnxscript.function_libs.torch_lib.ops",
        ),
        KERAS,
    ),
    "common.prove.keras_run": Imports(
        ("common.implementations.keras_initialisation", "common.prove.keras_layers", "common.prove.models", "keras"),
        KERAS,
    ),
    "common.prove.onnx_run": Imports(("common.prove.array_files", "onnx", "onnx.numpy_helper")),
}
"""What the processes import first, by their module. ONNX Runtime starts a thread when it is imported."""


class Jobs:
    """Something that does one job after the other and answers."""

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Do a job; returns the answer, or `{"error": …}`."""
        raise NotImplementedError

    def record(self, job: Mapping[str, Any], feeds: Mapping[str, np.ndarray], folder: Path) -> Recorded:
        """Run a model. The job gets the paths of the inputs and of the values."""
        given = folder / "feeds.safetensors"
        made = Path(tempfile.mkdtemp(dir=folder)) / "values.safetensors"  # where earlier ones are still mapped
        write_arrays(feeds, given)
        answer = self.ask(dict(job) | {"feeds": str(given), "values": str(made)})
        if "error" in answer:
            return Recorded(error=answer["error"])
        values = mapped(made)
        with suppress(OSError):  # Windows keeps a file that is mapped
            made.unlink()
        told = {name: answer[name] for name in ("same", "places", "note") if name in answer}
        return Recorded(values, answer["seconds"], **told)


class Here(Jobs):
    """Does jobs in this process, on a model that is in memory here."""

    def __init__(self, do: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.do = do

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        return answer_of(self.do, dict(job))


class Process(Jobs):
    """A module of this project in a process of its own. It does one job after the other and ends with this process."""

    def __init__(self, module: str, variables: Mapping[str, str] | None = None, also: Sequence[str] = ()) -> None:
        """With extra variables in its environment; a copied process has imported some modules `also`."""
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(variables or {})
        imports = _IMPORTS.get(module)
        if imports and also:
            imports = replace(imports, modules=(*imports.modules, *also))
        self.process = process.Process(module, environment=environment, imports=imports)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *ended: object) -> None:
        self.process.kill()

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self.process.ask(job)
        except process.ProcessFailure as failure:
            return {"error": str(failure)}
        return answer


def serve(jobs: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The other end: do jobs until there are no more."""
    spare_imports(KERAS)
    answer = process.answering()
    for job in process.requests():
        answer(answer_of(jobs, job))


def answer_of(jobs: Callable[[dict[str, Any]], dict[str, Any]], job: dict[str, Any]) -> dict[str, Any]:
    """The answer to a job. If a user's model raises an exception, that becomes the reason in its row."""
    try:
        return jobs(job)
    except Exception as error:
        return {"error": _told(error)}


def _told(error: BaseException) -> str:
    """An exception in one line: a `TriptychError`'s own sentence, else the first line of its original cause."""
    if isinstance(error, TriptychError):
        return str(error)
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else _place(error)
    return f"{type(error).__name__}: {said if len(said) <= _LONGEST else said[:_LONGEST] + ' …'}"


_LONGEST = 400
"""The most letters that are told of an exception."""


def _place(error: BaseException) -> str:
    """Where an exception that says nothing was raised, such as a bare `assert`'s: outside PyTorch, if possible."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if "torch" not in Path(frame.filename).parts] or frames
    if not outside:
        return "no more is said"
    return f"{outside[-1].line} ({Path(outside[-1].filename).name}, line {outside[-1].lineno})"
