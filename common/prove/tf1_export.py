"""Writes the ONNX export of a network of the catalogue in TensorFlow 1 style; a process of its own.

A job has `architecture`, its name, and `export`, the path of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.onnx.options import ExportOptions
from common.porting.exporting import export_network
from common.prove.runtimes import serve


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job, see the module's docstring."""
    return export_network(job["architecture"], None, "tf1", Path(job["export"]), ExportOptions())


if __name__ == "__main__":
    serve(run)
