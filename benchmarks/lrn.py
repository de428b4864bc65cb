"""Local response normalisation in ONNX: one node against the six that it consists of.

Prints, for networks that have it, the medians of interleaved runs of the whole exported network in ONNX Runtime on the
CPU, and their ratio. Run it with `.venv/bin/python -m benchmarks.lrn [RUNS]`.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import torch_impl
from benchmarks.measuring import in_turn, table
from common.onnx.options import ExportOptions
from common.onnx.session import DeployedSession
from common.specs import get_spec
from common.specs.seeded import random_weights

NETWORKS = ("alexnet_bvlc", "googlenet")
FORMS = ("node", "nodes")


def measure(architecture: str, batch: int, runs: int) -> dict[str, float]:
    """Median seconds of each of `FORMS`, on one random batch."""
    model = torch_impl.build(architecture)
    torch_impl.load_weights(model, random_weights(architecture))
    shape = (batch, *get_spec(architecture).input_shape)
    image = np.random.default_rng(0).uniform(-128, 128, shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: Path(folder) / f"{form}.onnx" for form in FORMS}
        for form, path in paths.items():
            torch_impl.export_onnx(model, path, ExportOptions(lrn=form))
        return in_turn({form: partial(DeployedSession(path).run, image) for form, path in paths.items()}, runs)


def main() -> None:
    """Print a row for each network and batch size."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 31
    rows = []
    for architecture in NETWORKS:
        for batch in (1, 16):
            node, nodes = measure(architecture, batch, runs).values()
            cells = f"{node * 1e3:.2f}", f"{nodes * 1e3:.2f}", f"{nodes / node:.2f}"
            rows.append((f"{architecture}, batch {batch}", *cells))
    print(table(("network", "one node, ms", "six nodes, ms", "six ÷ one"), rows))


if __name__ == "__main__":
    main()
