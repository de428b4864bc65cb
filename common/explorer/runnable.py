"""The source of one network as one piece of code that runs by itself. The copy button copies it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from common.explorer.modules import Definition, Module, read_module
from common.explorer.sources import Panel
from common.specs.architecture import Architecture

Piece = tuple[Module, ast.stmt]

USE = {
    "keras": "model = {builder}()\nmodel.summary()",
    "torch": "model = {builder}().eval()\nprint(model)",
    "tf1": (
        "with tf.Graph().as_default():\n"
        '    images = tf.placeholder(tf.float32, [None, {height}, {width}, {channels}], name="images")\n'
        '    keep_prob = tf.placeholder_with_default(1.0, [], name="keep_prob")\n'
        "    print({builder}(images, keep_prob))"
    ),
}


def runnable(framework: Panel, spec: Architecture, builder: Definition) -> str:
    """The builder, everything that it needs from the implementation's files, and three lines that use it.

    If a file imports its helpers as a module (`from tf1_style_impl import layers`), that import stays.
    """
    pieces = _needed(builder)
    modules = list(dict.fromkeys(module for module, _ in pieces))
    imports = dict.fromkeys(
        line for module in modules for line in _imports(module, [node for owner, node in pieces if owner == module])
    )
    channels, height, width = spec.input_shape
    use = USE[framework.name].format(builder=builder.node.name, channels=channels, height=height, width=width)
    code = ["\n".join(line for line in imports if line.startswith("from __future__"))]
    code += ["\n".join(sorted(line for line in imports if not line.startswith("from __future__")))]
    code += [_text(module, node) for module, node in pieces]
    return "\n\n\n".join(part for part in [*code, use] if part) + "\n"


def _needed(builder: Definition) -> list[Piece]:
    """The top-level statements that the builder needs, those of other files first, each file in its own order."""
    found: dict[str, tuple[Module, set[int]]] = {}
    waiting: list[Piece] = [(builder.module, builder.node)]
    while waiting:
        module, node = waiting.pop()
        _, places = found.setdefault(module.file, (module, set()))
        place = module.tree.body.index(node)
        if place in places:
            continue
        places.add(place)
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        waiting += [piece for name in names for piece in _definition(module, name)]
    ordered = sorted(found.values(), key=lambda entry: _depth(entry[0]))
    return [(module, module.tree.body[place]) for module, places in ordered for place in sorted(places)]


def _depth(module: Module) -> int:
    """The depth of a file's imports from other files of the implementation: `layers.py` has 0."""
    return 1 + max((_depth(other) for other, _ in _internal_imports(module)), default=-1)


def _internal_imports(module: Module) -> Iterator[tuple[Module, ast.ImportFrom]]:
    package = module.file.partition("/")[0]
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}."):
            yield read_module(package, node.module.removeprefix(f"{package}.")), node


def _definition(module: Module, name: str) -> Iterator[Piece]:
    for node in module.tree.body:
        defines = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        assigns = isinstance(node, ast.Assign | ast.AnnAssign) and any(
            isinstance(target, ast.Name) and target.id == name for target in targets
        )
        if defines or assigns:
            yield module, node
    for other, imported in _internal_imports(module):
        if any((alias.asname or alias.name) == name for alias in imported.names):
            yield from _definition(other, name)


def _imports(module: Module, nodes: list[ast.stmt]) -> Iterator[str]:
    """The import lines from outside the files that are copied, as far as they are used."""
    used = {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    internal = [node for _, node in _internal_imports(module)]
    for node in module.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in internal:
            kept = [
                alias
                for alias in node.names
                if (alias.asname or alias.name).partition(".")[0] in used | {"annotations"}
            ]
            if kept and isinstance(node, ast.ImportFrom):
                yield ast.unparse(ast.ImportFrom(node.module, kept, node.level))
            elif kept:
                yield ast.unparse(ast.Import(kept))


def _text(module: Module, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    while module.lines[first - 2].startswith("#"):
        first -= 1
    return "\n".join(module.lines[first - 1 : node.end_lineno])
