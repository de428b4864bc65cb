"""Porting mistakes that give the right shapes, each with its code in three frameworks and the output of that code.

`python -m common.explorer.traps` runs all code of traps.toml, in one process for each framework. It writes the output
to traps.json, which the pages show. A test runs it again and compares.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import TriptychError
from common.files import written_atomically
from common.implementations import FRAMEWORKS
from common.operations import LRN, BatchNorm, Conv, Dropout, Flatten, MaxPool, Operation, Windowed
from common.process import Process, ProcessFailure, answering, requests
from common.specs.architecture import Architecture

HERE = Path(__file__).parent
DATA, PRINTED = HERE / "traps.toml", HERE / "traps.json"


@dataclass(frozen=True)
class Trap:
    """One mistake."""

    id: str
    title: str
    applies: str
    """A condition in `CONDITIONS`."""
    text: str
    check: str
    """A Python expression that is true of the printed lines. `keras`, `torch` and `tf1` are lists with a value for each
    line."""
    code: dict[str, str]
    """By framework."""


@cache
def read_traps() -> tuple[Trap, ...]:
    """All traps, in the order of the file."""
    entries = tomllib.loads(DATA.read_text(encoding="utf-8"))["trap"]
    return tuple(
        Trap(
            **{name: entry[name].strip() for name in ("id", "title", "applies", "text", "check")},
            code={framework: entry[framework].strip() for framework in FRAMEWORKS},
        )
        for entry in entries
    )


@cache
def preludes() -> dict[str, str]:
    """The code before all code of a framework."""
    prelude: dict[str, str] = tomllib.loads(DATA.read_text(encoding="utf-8"))["prelude"]
    return {framework: code.strip() for framework, code in prelude.items()}


@cache
def printed() -> dict[str, dict[str, list[str]]]:
    """The lines that each framework printed, by trap and framework."""
    recorded: dict[str, dict[str, list[str]]] = json.loads(PRINTED.read_text(encoding="utf-8"))
    return recorded


def holds(trap: Trap, lines: dict[str, list[str]]) -> bool:
    """Whether the printed lines are as the trap claims."""
    return bool(eval(trap.check, {name: [_value(line) for line in lines[name]] for name in FRAMEWORKS}))


def _value(line: str) -> Any:
    try:
        return ast.literal_eval(line)
    except (SyntaxError, ValueError):
        return line


def traps_of(spec: Architecture) -> list[Trap]:
    """The traps that this network has."""
    return [trap for trap in read_traps() if CONDITIONS[trap.applies](spec)]


def _any(spec: Architecture, condition: Callable[[Operation, tuple[int, ...]], bool]) -> bool:
    return any(condition(layer.operation, spec.input_shapes(layer)[0]) for layer in spec.layers)


def _padded_stride(operation: Operation, shape: tuple[int, ...]) -> bool:
    if not isinstance(operation, Windowed):
        return False
    _, stride, padding = operation.window(shape)
    return max(stride) > 1 and any(map(any, padding))


def _padded_max_pool(operation: Operation, shape: tuple[int, ...]) -> bool:
    return isinstance(operation, MaxPool) and any(map(any, operation.window(shape)[2]))


def _ceil(operation: Operation, shape: tuple[int, ...]) -> bool:
    return isinstance(operation, MaxPool) and operation.padding == ((0, 1), (0, 1))


CONDITIONS: dict[str, Callable[[Architecture], bool]] = {
    "classifier": lambda spec: True,
    "convolution": lambda spec: _any(spec, lambda operation, shape: isinstance(operation, Conv)),
    "lrn": lambda spec: _any(spec, lambda operation, shape: isinstance(operation, LRN)),
    "padded_stride": lambda spec: _any(spec, _padded_stride),
    "padded_max_pool": lambda spec: _any(spec, _padded_max_pool),
    "ceil": lambda spec: _any(spec, _ceil),
    "alexnet_227": lambda spec: spec.family == "alexnet" and spec.input_shape == (3, 227, 227),
    "batch_norm": lambda spec: _any(spec, lambda operation, shape: isinstance(operation, BatchNorm)),
    "flattened_map": lambda spec: _any(
        spec, lambda operation, shape: isinstance(operation, Flatten) and max(shape[1:]) > 1
    ),
    "groups": lambda spec: _any(spec, lambda operation, shape: isinstance(operation, Conv) and operation.groups > 1),
    "dropout": lambda spec: _any(spec, lambda operation, shape: isinstance(operation, Dropout)),
    "training_mode": lambda spec: _any(spec, lambda operation, shape: isinstance(operation, Dropout | BatchNorm)),
    "bottleneck": lambda spec: spec.family == "resnet" and any(name.endswith("/conv3") for name in spec.shapes),
    "bgr": lambda spec: spec.preprocessing.channels == "BGR",
}
"""When a trap applies to a network."""


def run_all() -> dict[str, dict[str, list[str]]]:
    """Run all code in processes of their own, and return the printed lines by trap and framework.

    Raises:
        TriptychError: a framework is not installed, or some code failed.
    """
    results = {framework: _run_in_process(framework) for framework in FRAMEWORKS}
    return {trap.id: {framework: results[framework][trap.id] for framework in FRAMEWORKS} for trap in read_traps()}


def _run_in_process(framework: str) -> dict[str, list[str]]:
    fixed = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        with Process("common.explorer.traps", framework, environment={**os.environ, **fixed}) as process:
            lines: dict[str, list[str]] = process.ask({})
    except ProcessFailure as failure:
        raise TriptychError(f"the traps' code for {framework} failed: {failure}") from None
    return lines


def _run(framework: str) -> dict[str, list[str]]:
    """Run the code of one framework in this process."""
    results = {}
    for trap in read_traps():
        namespace: dict[str, Any] = {}
        exec(preludes()[framework], namespace)
        output = io.StringIO()
        with contextlib.ExitStack() as stack:
            if framework == "tf1":
                stack.enter_context(namespace["tf"].Graph().as_default())
            stack.enter_context(contextlib.redirect_stdout(output))
            exec(compile(trap.code[framework], f"{trap.id} ({framework})", "exec"), namespace)
        results[trap.id] = output.getvalue().splitlines()
    return results


def main() -> None:
    """Answer with what one framework's code prints; without an argument, write traps.json."""
    if len(sys.argv) > 1:
        answer, asked = answering(), requests()
        next(asked)
        answer(_run(sys.argv[1]))
        return
    lines = run_all()
    for trap in read_traps():
        if not holds(trap, lines[trap.id]):
            raise SystemExit(f"{trap.id}: {trap.check} is not so: {lines[trap.id]}")
    with written_atomically(PRINTED) as path:
        path.write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
