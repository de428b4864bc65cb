"""Writes the ONNX export of a network of the catalogue in TensorFlow 1 style; a process of its own.

A job has `architecture`, its name; `seed`, of its weights; and `export`, the path of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.implementations import import_implementation
from common.prove.runtimes import serve
from common.specs.seeded import random_weights


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job, see the module's docstring."""
    implementation = import_implementation("tf1")
    model = implementation.build(job["architecture"])
    implementation.load_weights(model, random_weights(job["architecture"], seed=job["seed"]))
    implementation.export_onnx(model, Path(job["export"]))
    return {}


if __name__ == "__main__":
    serve(run)
