"""Runs the benchmarks and writes docs/benchmarks.md: `.venv/bin/python -m benchmarks`.

Each runs in a process of its own, one after the other; together they take about half an hour. The peers need
`pip install -c constraints.txt -e '.[bench]'`. Of those that are not installed, the tables say so.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.parity.environment import describe

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"

SECTIONS = {
    "forward": "The forward pass",
    "parity": "Judging the backends of a network",
    "prove": "Judging a model of your own",
    "export": "Export to ONNX",
    "porting": "Porting weights",
    "lrn": "LRN in ONNX: one node or six",
    "grouped_convolution": "Grouped convolution in TensorFlow: native or split",
}
"""Modules beside this one, and their headings. The others have their tables elsewhere: see `HEAD`."""

PACKAGES = (
    *("numpy", "torch", "torchvision", "keras", "tensorflow", "jax", "onnx", "onnxruntime", "onnxscript", "tf2onnx"),
    "polygraphy",
)

HEAD = """\
# Benchmarks

What this project does beside what you would use in its place, both in one run. `python -m benchmarks` wrote this page:
under each heading is what its module says of itself and prints. How exactly libraries compute elementary functions is
in [prove.md](prove.md#elementary-functions), how networks of the same name differ in [the gallery](gallery.md).

Measured on {day}: {processor}, {cores} cores, Python {python}, {versions}. When it began, other work kept {load:.1f} of
the cores busy. In a table the ratios are of times that were taken in turn; they mean more than the seconds.
"""


def head() -> str:
    """What the page is, and of which machine."""
    found = describe()
    return HEAD.format(
        day=date.today().isoformat(),
        processor=found["processor"],
        cores=found["threads"],
        python=found["versions"]["python"],
        versions=", ".join(map(_with_version, PACKAGES)),
        load=os.getloadavg()[0],
    )


def _with_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def section(module: str) -> str:
    """What a benchmark says of itself, and its tables.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    told = ast.get_docstring(ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8")))
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    tables = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return f"## {SECTIONS[module]}\n\n{told}\n\n{tables.strip()}\n"


def main() -> None:
    """Run them all; the page is written when all have finished."""
    parts = [head()]
    for module in SECTIONS:
        print(f"benchmarks.{module} …", flush=True)
        parts.append(section(module))
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
