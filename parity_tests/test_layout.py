"""Imports run one way only, from room to room and from file to file: no circle, by whatever statement, types included.

A room is a folder of `common`, a file that stands beside these, or one of the packages beside `common`.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "keras_impl", "tf1_style_impl", "torch_impl", "triptych")


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def room_of(module):
    """`common.parity` for `common.parity.judge`, `torch_impl` for `torch_impl.layers`."""
    return ".".join(module.split(".")[: 2 if module.startswith("common.") else 1])


def imported(text):
    """The files of ours that a file imports, in functions and for types too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            whole = (f"{node.module}.{name.name}" for name in node.names)
            yield from (name if name in FILES else node.module for name in whole)


def floors(imports):
    """On which floor each stands: above all that it imports. A circle raises CycleError, which names it."""
    found = {}
    for name in TopologicalSorter(imports).static_order():
        found[name] = 1 + max((found[below] for below in imports.get(name, ())), default=0)
    return found


@pytest.fixture(scope="module")
def files():
    return {name: {*imported(path.read_text(encoding="utf-8"))} - {name} for name, path in FILES.items()}


def test_no_file_is_imported_by_one_that_it_imports(files):
    found = floors(files)
    assert found["common.errors"] == 1
    assert found["common.operations.conv"] < found["common.specs.architecture"] < found["common.parity.judge"]


def test_no_room_is_imported_by_one_that_it_imports(files):
    """Nor do floors grow: weights stand beside what they are for; what a run is given, the exports and the training
    stand side by side, below parity."""
    rooms = {}
    for name, below in files.items():
        rooms.setdefault(room_of(name), set()).update(room_of(module) for module in below)
    found = floors({name: below - {name} for name, below in rooms.items()})
    assert max(found.values()) <= 8
    assert found["common.errors"] == found["common.process"] == 1
    assert found["common.weights"] == found["common.specs"] == 3
    assert {found[f"common.{room}"] for room in ("onnx", "probes", "training")} == {4}
    assert found["common.parity"] < found["common.porting"] < found["common.cli"]


def test_a_circle_is_found_whatever_statement_closes_it():
    texts = {
        "common.errors": "def later():\n    from common.operations import names",
        "common.operations.names": "if TYPE_CHECKING:\n    import common.files",
        "common.files": "from common.errors import TriptychError",
    }
    with pytest.raises(CycleError):
        floors({name: {*imported(text)} for name, text in texts.items()})
