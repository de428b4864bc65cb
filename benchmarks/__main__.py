"""Runs the benchmarks and writes docs/benchmarks.md: `.venv/bin/python -m benchmarks [MODULE ...]`.

With modules, only their sections are written anew. Each runs in a process of its own, one after the other. That takes
long: torch.onnx.verification alone takes eight minutes. The peers need
`pip install -c constraints.txt -e '.[bench]'`. Of those that are not installed, the tables say so.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.parity.environment import describe

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"

SECTIONS = {
    "The forward pass": ("forward",),
    "Judging the backends of a network": ("parity", "resnet50"),
    "Judging a model of your own": ("prove", "keras.applications:MobileNetV2"),
    "Export to ONNX": ("export", "resnet50"),
    "Porting weights": ("porting",),
    "LRN in ONNX: one node or six": ("lrn", "9"),
    "Grouped convolution in TensorFlow: native or split": ("grouped_convolution",),
}
"""Headings, and modules beside this one with their arguments. The others have their tables elsewhere: see `HEAD`."""

PACKAGES = (
    *("numpy", "torch", "torchvision", "keras", "tensorflow", "jax", "onnx", "onnxruntime", "onnxscript", "tf2onnx"),
    "polygraphy",
)

HEAD = """\
# Benchmarks

What this project does beside what you would use in its place, both in one run. `python -m benchmarks` wrote this page:
under each heading is what a module says of itself, and what it printed. In a table with ratios, times were taken in
turn: the ratios mean more than the times. How exactly libraries compute elementary functions is in
[prove.md](prove.md#elementary-functions), how networks of the same name differ in [the gallery](gallery.md).
"""

MACHINE = (
    "Measured on {day}: {processor}, {cores} cores, of which other work kept {load:.1f} busy before; Python {python}, "
    "{versions}."
)


def machine() -> str:
    """What a section was measured on."""
    found = describe()
    told = MACHINE.format(
        day=date.today().isoformat(),
        processor=found["processor"],
        cores=found["threads"],
        load=min(os.getloadavg()[0], found["threads"]),
        python=found["versions"]["python"],
        versions=", ".join(map(_with_version, PACKAGES)),
    )
    return textwrap.fill(told, 120) + "\n"


def _with_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def section(heading: str) -> str:
    """What a benchmark says of itself, its tables, and the machine.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    module, *arguments = SECTIONS[heading]
    told = ast.get_docstring(ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8")))
    measured_on = machine()
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    tables = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return f"## {heading}\n\n{told}\n\n{tables.strip()}\n\n{measured_on}"


def sections_of(page: Path) -> dict[str, str]:
    """The sections that a page has, by heading."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return {part.partition("\n")[0][3:]: part for part in re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]}


def main() -> None:
    """Run some or all; each section is written when its benchmark has finished."""
    modules = [module for module, *_ in SECTIONS.values()]
    if unknown := set(sys.argv[1:]).difference(modules):
        sys.exit(f"there is no section of {', '.join(sorted(unknown))}; there are {', '.join(modules)}")
    for heading, (module, *_) in SECTIONS.items():
        if module in sys.argv[1:] or len(sys.argv) == 1:
            print(f"{module} …", flush=True)
            written = section(heading)
            found = sections_of(PAGE) | {heading: written}
            parts = [HEAD, *(found[each].strip() + "\n" for each in SECTIONS if each in found)]
            PAGE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
