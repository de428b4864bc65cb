"""Local response normalisation in ONNX: one node against the six that it consists of.

Prints, for networks that have it, the medians of interleaved runs of the whole exported network in ONNX Runtime on the
CPU, and their ratio. Run it with `.venv/bin/python -m benchmarks.lrn [RUNS]`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import torch_impl
from common.onnx.options import ExportOptions
from common.onnx.session import DeployedSession
from common.specs import get_spec
from common.specs.seeded import random_weights

NETWORKS = ("alexnet_bvlc", "googlenet")
FORMS = ("node", "nodes")


def measure(architecture: str, batch: int, runs: int) -> list[float]:
    """Median seconds of each of `FORMS`, on one random batch."""
    model = torch_impl.build(architecture)
    torch_impl.load_weights(model, random_weights(architecture))
    shape = (batch, *get_spec(architecture).input_shape)
    image = np.random.default_rng(0).uniform(-128, 128, shape).astype(np.float32)
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: Path(folder) / f"{form}.onnx" for form in FORMS}
        for form, path in paths.items():
            torch_impl.export_onnx(model, path, ExportOptions(lrn=form))
        sessions = {form: DeployedSession(path) for form, path in paths.items()}
        for _ in range(runs + 1):
            for form, session in sessions.items():
                started = time.perf_counter()
                session.run(image)
                times[form].append(time.perf_counter() - started)
    return [statistics.median(measured[1:]) for measured in times.values()]


def main() -> None:
    """Print a line for each network and batch size."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 31
    for architecture in NETWORKS:
        for batch in (1, 16):
            node, nodes = measure(architecture, batch, runs)
            print(
                f"{architecture} batch {batch:2}: one node {node * 1e3:7.2f} ms, six nodes {nodes * 1e3:7.2f} ms, "
                f"six ÷ one {nodes / node:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
