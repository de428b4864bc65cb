"""ONNX export: this project's, against what a user would pick instead, in one run.

For a network of each family and each exporter: seconds, the memory that it needed beyond the model's own, nodes in the
graph, and the time that ONNX Runtime takes for one image with the result. Each export is made in a process of its own;
the files of a network are then run in turn, so that the ratios of their times mean something. Run it with
`.venv/bin/python -m benchmarks.export [ARCHITECTURE ...]`; the other exporters need
`pip install -c constraints.txt -e '.[bench]'`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import in_turn, table
from common.onnx.summary import read_summary
from common.specs import get_spec
from common.specs.seeded import random_weights

NETWORKS = ("lenet_caffe", "alexnet_bvlc", "vgg11", "googlenet", "resnet50", "densenet121")
HEADINGS = ("seconds", "÷ writing the bytes", "memory ÷ weights", "nodes", "ONNX Runtime, ms")
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}


def ours(package: str) -> Callable[[str], tuple[Any, Callable[[Path], None]]]:
    """One of the implementations' own `export_onnx`."""

    def prepare(architecture: str) -> tuple[Any, Callable[[Path], None]]:
        import importlib

        implementation = importlib.import_module(package)
        model = implementation.build(architecture)
        implementation.load_weights(model, random_weights(architecture))
        return model, lambda path: implementation.export_onnx(model, path)

    return prepare


def torch_exporter(architecture: str) -> tuple[Any, Callable[[Path], None]]:
    """`torch.onnx.export`, with a dynamic batch."""
    import torch

    model, _ = ours("torch_impl")(architecture)
    image = torch.zeros(2, *model.image_shape)
    batch = ({0: torch.export.Dim("N")},)

    def export(path: Path) -> None:
        torch.onnx.export(model, (image,), path, dynamo=True, dynamic_shapes=batch, external_data=False, verbose=False)

    return model, export


def keras_exporter(architecture: str) -> tuple[Any, Callable[[Path], None]]:
    """`keras.Model.export(format="onnx")`."""
    model, _ = ours("keras_impl")(architecture)
    model(np.zeros((1, *model.inputs[0].shape[1:]), np.float32))  # it refuses a model that was never called
    return model, lambda path: model.export(path, format="onnx", verbose=False)


def tf2onnx_exporter(architecture: str) -> tuple[Any, Callable[[Path], None]]:
    """tf2onnx on a TF1-style graph, its variables frozen into constants, as its documentation shows."""
    import tensorflow.compat.v1 as tf
    import tf2onnx

    session, _ = ours("tf1_style_impl")(architecture)

    def export(path: Path) -> None:
        frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, ["logits"])
        tf2onnx.convert.from_graph_def(
            frozen, input_names=["images:0"], output_names=["logits:0"], opset=18, output_path=str(path)
        )

    return session, export


EXPORTERS: dict[str, Callable[[str], tuple[Any, Callable[[Path], None]]]] = {
    "ours, torch": ours("torch_impl"),
    "ours, keras": ours("keras_impl"),
    "ours, tf1": ours("tf1_style_impl"),
    "torch.onnx.export": torch_exporter,
    "keras Model.export": keras_exporter,
    "tf2onnx": tf2onnx_exporter,
}


def export_here(exporter: str, architecture: str, path: Path) -> dict[str, float]:
    """Export in this process; seconds, bytes beyond those held before, seconds to write the weights' bytes."""
    model, export = EXPORTERS[exporter](architecture)
    size = 4 * sum(map(prod, get_spec(architecture).parameter_shapes.values()))
    block = os.urandom(1 << 20)
    started = time.perf_counter()
    with path.with_suffix(".bytes").open("wb") as file:
        for _ in range(-(-size // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    writing = time.perf_counter() - started
    path.with_suffix(".bytes").unlink()
    with _PeakMemory() as memory:
        started = time.perf_counter()
        export(path)
        seconds = time.perf_counter() - started
    del model
    return {"seconds": seconds, "bytes": memory.grown, "weights": size, "writing": writing}


class _PeakMemory:
    """The largest resident size of this process while it is entered, beyond that at the start, seen every 10 ms."""

    def __enter__(self) -> _PeakMemory:
        self.before = self.largest = _resident()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.01):
            self.largest = max(self.largest, _resident())

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.grown = self.largest - self.before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def export_apart(exporter: str, architecture: str, path: Path) -> dict[str, Any]:
    """Export in a process of its own; `error` where that failed."""
    command = [sys.executable, "-m", "benchmarks.export", "--one", exporter, architecture, str(path)]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode < 0:
        return {"error": f"killed by signal {-done.returncode} (out of memory?)"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1][:60]}
    return json.loads(done.stdout.splitlines()[-1])


def run_in_turn(files: dict[str, Path], architecture: str, runs: int = 11) -> dict[str, float | str]:
    """Median milliseconds for one image with each file, interleaved; why a file cannot be run."""
    import onnxruntime

    ways: dict[str, Callable[[], object]] = {}
    found: dict[str, float | str] = {}
    image = np.random.default_rng(0).standard_normal((1, *get_spec(architecture).input_shape), dtype=np.float32)
    for exporter, path in files.items():
        try:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (entry,) = session.get_inputs()
            feed = {entry.name: image if tuple(entry.shape[1:]) == image.shape[1:] else image.transpose(0, 2, 3, 1)}
            session.run(None, feed)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            found[exporter] = f"does not run: {type(error).__name__}"
            continue
        ways[exporter] = partial(session.run, None, feed)
    return found | {exporter: 1000 * seconds for exporter, seconds in in_turn(ways, runs).items()}


def main(architectures: list[str]) -> None:
    """A table for each network."""
    for architecture in architectures or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            paths = {exporter: Path(folder) / f"{number}.onnx" for number, exporter in enumerate(EXPORTERS)}
            rows = {exporter: export_apart(exporter, architecture, path) for exporter, path in paths.items()}
            files = {exporter: path for exporter, path in paths.items() if "error" not in rows[exporter]}
            speeds = run_in_turn(files, architecture)
            nodes = {exporter: len(read_summary(path).layers) for exporter, path in files.items()}
        lines = []
        for exporter, row in rows.items():
            if "error" in row:
                lines.append((exporter, row["error"]))
                continue
            speed = speeds[exporter]
            cells = (
                f"{row['seconds']:.2f}",
                f"{row['seconds'] / row['writing']:.1f}",
                f"{row['bytes'] / row['weights']:.1f}",
                str(nodes[exporter]),
                speed if isinstance(speed, str) else f"{speed:.1f}",
            )
            lines.append((exporter, *cells))
        print(table((architecture, *HEADINGS), lines), end="\n\n", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(export_here(sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
    else:
        main(sys.argv[1:])
