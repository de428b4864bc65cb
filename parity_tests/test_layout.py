"""The rooms of `common` import each other one way only: no circle, by whatever statement, but for types alone."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

COMMON = Path(__file__).parents[1] / "common"


def room(module):
    """`common.parity` for `common.parity.judge`; a module that lies in no room is one by itself."""
    return ".".join(module.split(".")[:2])


def imported(path):
    """The rooms that a file imports, in functions too; what only a type checker reads is left out."""
    pending = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (room(name.name) for name in node.names if name.name.startswith("common."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "common":
            yield from (room(f"{node.module}.{name.name}") for name in node.names)


def test_no_room_imports_one_above_it():
    rooms = {}
    for path in sorted(COMMON.rglob("*.py")):
        module = ".".join(("common", *path.relative_to(COMMON).with_suffix("").parts))
        rooms.setdefault(room(module), set()).update(imported(path))
    for name, below in rooms.items():
        below.discard(name)
    order = list(TopologicalSorter(rooms).static_order())  # raises CycleError, and names the circle
    assert {"common.operations", "common.parity", "common.process", "common.cli"} <= {*order}
    assert max(map(order.index, ("common.errors", "common.process"))) < order.index("common.parity")
