"""Makes a model ready to be proved: its process, its graph, its runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError, argument
from common.layouts import TURNS
from common.prove.array_files import write_arrays
from common.prove.models import ModelName
from common.prove.runtimes import Here, Process
from common.prove.subject import EXPORT, Example, InMemory, Inputs, KerasSubject, Shapes, Subject, TorchSubject
from common.prove.torch_run import TorchJobs
from common.specs.seeded import seeded_generator


def make_ready(
    name: ModelName | InMemory,
    folder: Path,
    ends: ExitStack,
    *,
    shape: Sequence[int] | None = None,
    example: Example | None = None,
    inputs: Inputs | None = None,
    shapes: Shapes | None = None,
    seed: int = 0,
    backends: Sequence[str] | None = None,
    device: str = "cpu",
    turn: bool = False,
    marked: bool = False,
    checkpoint: Path | None = None,
) -> Subject:
    """A model's graph and its runtimes, which are open until `ends` is closed.

    Args:
        name: the name of the model, or the model itself.
        folder: an empty folder for files.
        ends: closes the processes that are started.
        shape: the shape of its only input, if the model does not say it.
        example: its inputs, in order.
        inputs: its inputs, or some of them, by name.
        shapes: the shapes of others, by name.
        seed: the seed of the weights of models without their own.
        backends: the runtimes of a model that is not a file, by name; all if None.
        device: where they run.
        turn: whether the channels of the example may be on the axis of another framework.
        checkpoint: the checkpoint from which a model that is not a file takes its weights.
        marked: whether a model that is not a file gets marks as weights (`common.prove.marks`); its own weights are
            then in `own`.

    Raises:
        TriptychError: there is no such model, or its input shape is not known.
    """
    folder.mkdir()
    if isinstance(name, ModelName) and name.is_onnx:
        shape = shape or (example[0].shape if example and len(example) == 1 else None)
        return _on(device, _file(name, folder, shape, turn, example, inputs, shapes))
    if isinstance(name, ModelName) and name.is_session:
        path = folder / "export.onnx"
        with Process("common.prove.tf1_export") as exporting:
            answer = exporting.ask({"architecture": name.name, "seed": seed, "export": str(path)})
        if "error" in answer:
            raise TriptychError(f"{name.text} cannot be exported: {answer['error']}")
        return _on(device, Subject(name.text, path, folder, shape, example, inputs, shapes))
    process: Process | Here
    if isinstance(name, InMemory):
        process = Here(TorchJobs(name.model).do)
    else:
        also = ["keras"] if name.is_keras else []
        process = ends.enter_context(Process("common.prove.torch_run", {"KERAS_BACKEND": "torch"}, also))
    official = not backends or not {EXPORT.name, EXPORT.on(device).name}.isdisjoint(backends)
    called = name.home if isinstance(name, ModelName) and not name.name else name.text
    asked: dict[str, Any] = {
        "export": called,
        "shape": shape,
        "folder": str(folder),
        "seed": seed,
        "official": official,
        "turn": turn,
    }
    if checkpoint:
        asked["checkpoint"] = str(checkpoint)
    if marked:
        asked["own"] = str(folder / "own.safetensors")
    drawn = {name: seeded_generator(seed, name).standard_normal(s, np.float32) for name, s in (shapes or {}).items()}
    named = {**drawn, **(inputs or {})} if example is None else {}
    numbered = {f"{place:03}": array for place, array in enumerate(example or ())}
    if named or numbered:
        file = asked["examples"] = str(folder / "examples.safetensors")
        write_arrays(named or numbered, file)
        asked["by_name"] = list(named)
    answer = process.ask(asked)
    if "error" in answer:
        raise TriptychError(f"{name.text} cannot be exported: {answer['error']}")
    subject = TorchSubject(name.text, process, folder)
    if answer["keras"]:
        subject = KerasSubject(called, name.text, process, folder, shape, answer.get("inputs", ()))
    _on(device, subject)
    subject.own = asked.get("own")
    subject.refused = answer.get("refused")
    if backends:
        known = [runtime.name for runtime in subject.runtimes]
        subject.runtimes = tuple(runtime for runtime in subject.runtimes if runtime.name in backends)
        if not subject.runtimes:
            wanted = argument("backends", list(backends))
            raise TriptychError(f"{name.text} has no such runtime on {device}: {wanted}; it has {', '.join(known)}")
    return subject


def _on(device: str, subject: Subject) -> Subject:
    """A model with its runtimes on a device."""
    subject.runtimes = subject.runtimes_on(device)
    return subject


def _file(
    name: ModelName,
    folder: Path,
    shape: Sequence[int] | None,
    turn: bool,
    example: Example | None,
    inputs: Inputs | None,
    shapes: Shapes | None,
) -> Subject:
    """An ONNX file, for an input of some shape. With `turn`, the channels of the image may be on another axis."""
    try:
        return Subject(name.text, Path(name.home), folder, shape, example, inputs, shapes)
    except TriptychError:
        if not turn or shape is None or len(shape) != 4:
            raise
        for axes in TURNS[4][1:]:
            with suppress(TriptychError):
                return Subject(name.text, Path(name.home), folder, [shape[axis] for axis in axes])
        raise
