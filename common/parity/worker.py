"""One backend in a process of its own: `python -m common.parity.worker BACKEND ARCHITECTURE`.

Reads one JSON request a line from standard input and answers each with one JSON line on standard output; the empty
request asks for the shapes of the model. Arrays travel as files: the request names the weights (safetensors) and the
image (npy), the answer names one npy for each layer, which the other side maps into memory. The process ends when its
standard input is closed, whatever it is doing, so that none is left behind.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.parity.backends import BACKENDS, Backend
from common.specs import get_spec
from common.weights import read_weights_file


class Worker:
    """A backend with one network built in it."""

    def __init__(self, backend: Backend, architecture: str) -> None:
        started = time.perf_counter()
        self.backend = backend
        self.implementation = importlib.import_module(backend.implementation)
        self.importing = time.perf_counter() - started
        self.module = importlib.import_module(f"{backend.implementation}.backend")
        self.model = self.implementation.build(architecture)
        self.outputs = tuple(get_spec(architecture).outputs)
        self.loaded: str | None = None
        self.exported: Path | None = None

    def structure(self) -> dict[str, Any]:
        """The shapes of layers and parameters."""
        shapes, parameter_shapes = self.module.structure(self.model)
        return {"shapes": shapes, "parameter_shapes": parameter_shapes}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Load the weights, run the image, write every layer's output; return where they are."""
        folder = Path(request["output"])
        started = time.perf_counter()
        self._load(request["weights"], folder)
        loading = time.perf_counter() - started
        image = np.load(request["image"])
        injected = {name: np.load(path) for name, path in request["injected"].items()}
        started = time.perf_counter()
        recorded = self._record(image, injected)
        running = time.perf_counter() - started
        layers = {}
        for number, (name, array) in enumerate(recorded.items()):
            layers[name] = str(folder / f"{number}.npy")
            np.save(layers[name], array)
        return {
            "layers": layers,
            "timing": {"import": self.importing, "load": loading, "run": running},
        }

    def _load(self, path: str, folder: Path) -> None:
        if path == self.loaded:
            return
        self.implementation.load_weights(self.model, read_weights_file(path))
        self.loaded = path
        if self.backend.through_onnx:
            self.exported = folder.with_suffix(".onnx")
            self.implementation.export_onnx(self.model, self.exported, outputs=self.outputs)

    def _record(self, image: np.ndarray, injected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.exported is not None:
            from common.onnx_graph import record

            return record(self.exported, image, injected)
        return self.module.record(self.model, image, injected)


def _watched_input() -> queue.SimpleQueue[str]:
    """Lines from standard input. A thread watches for its end, which ends the process even in the middle of a run."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def watch() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    return lines


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a framework prints must not get between the answers
    lines = _watched_input()
    worker: Worker | None = None
    try:
        worker = Worker(BACKENDS[sys.argv[1]], sys.argv[2])  # imports the framework before it is asked anything
    except Exception as error:
        failure = _describe(error)
    while True:
        request = json.loads(lines.get())
        if worker is None:
            print(json.dumps({"error": failure}), file=answers, flush=True)
            continue
        try:
            answer = worker.answer(request) if request else worker.structure()
        except Exception as error:  # a framework's own failure is a row in the report, not the end of it
            answer = {"error": _describe(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _describe(error: Exception) -> str:
    if isinstance(error, TriptychError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
