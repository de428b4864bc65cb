"""The cost of `triptych parity`: judging what each backend recorded, beside its forward pass and `np.allclose`.

Run it with `.venv/bin/python -m benchmarks.parity [ARCHITECTURE] [BACKEND ...]`. One backend at a time; seconds, of all
probes of a run without options together. `np.allclose` compares every layer with the first backend's, which is what a
user would write. It needs a tolerance, and says nothing about which of the two is right. Layers in which a backend has
the bits of one before it are not judged again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import numpy as np

from benchmarks.measuring import table
from common.parity.examining import Recorded
from common.parity.networks import plan_for
from common.parity.runner import run_parity
from common.specs import get_spec

BACKENDS = ("torch", "keras-tensorflow", "keras-jax", "tf1", "onnx-torch")


def main() -> None:
    """Print a row for each backend."""
    architecture, *backends = sys.argv[1:] or ["resnet50"]
    first: dict[str, dict[str, np.ndarray]] = {}
    comparing: Counter[str] = Counter()

    def compare(backend: str, label: str, recorded: Recorded) -> None:
        if label not in first:
            first[label] = {layer: array.copy() for layer, array in recorded["outputs"].items()}
            return
        started = time.perf_counter()
        for layer, array in recorded["outputs"].items():
            if layer in first[label]:
                np.allclose(array, first[label][layer], rtol=1e-3, atol=1e-5)
        comparing[backend] += time.perf_counter() - started

    plan = plan_for([architecture], backends=backends or BACKENDS, jobs=1)
    runs = run_parity(get_spec(architecture), plan, on_recorded=compare)
    rows = []
    for backend in (result.backend for result in runs[0].backends):
        results = [result for run in runs for result in run.backends if result.backend == backend]
        if any(result.status in ("skipped", "crashed") for result in results):
            rows.append((backend, results[0].reason or results[0].status))
            continue
        run, judge = (sum(result.timing.get(what, 0.0) for result in results) for what in ("run", "judge"))
        allclose = f"{comparing[backend]:.2f}" if backend in comparing else "–"
        verdict = "/".join(dict.fromkeys(result.verdict for result in results))
        rows.append((backend, f"{run:.2f}", f"{judge:.2f}", f"{judge / run:.1f}", allclose, verdict))
    headings = architecture, "forward, s", "judging, s", "judging ÷ forward", "np.allclose, s", "verdict"
    print(table(headings, rows))


if __name__ == "__main__":
    main()
