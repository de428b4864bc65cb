"""Reading a full-size `bvlc_alexnet.npy` and porting it, against NumPy's copy of the bytes and the historic way.

Prints seconds and ratios; each measurement is the best of seven, in a process of its own for its peak of memory. Run it
with `.venv/bin/python -m benchmarks.porting`; it takes 2 GB of disk in a temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measuring import table

RUNS = 7


def make_file(path: Path) -> None:
    """A file like BVLC's, with random weights."""
    from common import random_weights
    from common.layouts import conv_to_hwio, dense_to_io

    layers: dict[str, list[np.ndarray]] = {}
    for name, array in random_weights("alexnet_bvlc").items():
        flattened = (6, 6, 256) if name == "fc6/weight" else None
        turned = {4: conv_to_hwio, 2: lambda kernel, f=flattened: dense_to_io(kernel, f), 1: np.asarray}[array.ndim](
            array
        )
        layers.setdefault(name.split("/")[0], []).append(np.ascontiguousarray(turned))
    np.save(path, np.array(layers, dtype=object))


def copy(source: Path, folder: Path) -> None:
    """Read, hash and write the bytes through NumPy."""
    content = np.fromfile(source, np.uint8)
    hashlib.sha256(content.data).hexdigest()
    content.tofile(folder / "copy")


def port_to(kind: str, name: str) -> Callable[[Path, Path], None]:
    def run(source: Path, folder: Path) -> None:
        from common.porting.port import port
        from common.porting.targets import Target

        port(source, Target(kind, folder / name), verify=False)

    return run


def own_save(kind: str, name: str) -> Callable[[Path, Path], None]:
    """What the framework itself takes to make the model, take the weights and save them."""

    def run(source: Path, folder: Path) -> None:
        from common.implementations import import_implementation

        implementation = import_implementation(kind)
        model = implementation.build("alexnet_bvlc")
        implementation.load_weights(model, _canonical(source))
        implementation.save_weights(model, folder / name)

    return run


def historic(source: Path, folder: Path) -> None:
    """np.load with pickle, one session.run for each variable, a Saver."""
    import tensorflow.compat.v1 as tf

    import tf1_style_impl

    session = tf1_style_impl.build("alexnet_bvlc")
    layers = np.load(source, allow_pickle=True, encoding="latin1").item()
    with session.graph.as_default():
        variables = {variable.op.name: variable for variable in tf.global_variables()}
        for layer, (weights, biases) in layers.items():
            session.run(variables[f"{layer}/weight"].assign(weights))
            session.run(variables[f"{layer}/bias"].assign(biases))
        tf.train.Saver().save(session, str(folder / "historic"))


def _canonical(source: Path) -> dict[str, np.ndarray]:
    from common.porting.formats import read_source
    from common.porting.matching import understand

    return {name: np.ascontiguousarray(array) for name, array in understand(read_source(source)).weights.items()}


CASES = {
    "copy through NumPy": copy,
    "port to safetensors": port_to("safetensors", "a.safetensors"),
    "torch's own save": own_save("torch", "b.pth"),
    "port to torch": port_to("torch", "a.pth"),
    "Keras' own save": own_save("keras", "b.weights.h5"),
    "port to Keras": port_to("keras", "a.weights.h5"),
    "TF1's own save": own_save("tf1", "b"),
    "port to TF1": port_to("tf1", "a"),
    "the historic way to TF1": historic,
    "port to ONNX": port_to("onnx", "a.onnx"),
}


def measure(case: str, source: Path, folder: Path) -> None:
    """Print the best of some runs, in seconds of the clock and of the processor, and the peak of memory, as JSON."""
    best = (float("inf"), float("inf"))
    for _ in range(RUNS):
        started, used = time.perf_counter(), time.process_time()
        CASES[case](source, folder)
        best = min(best, (time.perf_counter() - started, time.process_time() - used))
    print(json.dumps([*best, _peak()]))


def _peak() -> int:
    """The most bytes that this process has held; what `getrusage` says includes its parent before it started anew."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def main() -> None:
    """Measure every case and print a row for each."""
    if len(sys.argv) > 1:
        measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "bvlc_alexnet.npy"
        make_file(source)
        size, rows = source.stat().st_size, []
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.porting", case, str(source), name]
            quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            answer = subprocess.run(command, stdout=subprocess.PIPE, env=quiet, check=True, text=True).stdout
            seconds, used, peak = json.loads(answer.splitlines()[-1])
            rows.append((case, f"{seconds:.2f}", f"{used:.2f}", f"{peak / size:.1f}"))
        print(table(("bvlc_alexnet.npy", "seconds", "of processor", "peak of memory ÷ file"), rows))


if __name__ == "__main__":
    main()
