"""The source files of an implementation, and the functions and classes in them; nothing is imported to read them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

from common.errors import TriptychError


@dataclass(frozen=True, order=True)
class Span:
    """Lines of a file, counted from 1, the last one included."""

    file: str
    """Such as `torch_impl/alexnet.py`."""
    first: int
    last: int

    def __contains__(self, other: Span) -> bool:
        return self.file == other.file and self.first <= other.first and other.last <= self.last


@dataclass(frozen=True)
class Module:
    """A source file of an implementation."""

    file: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """The functions and classes at the top level."""
        return {
            node.name: Definition(self, node)
            for node in self.tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }

    @cached_property
    def imported(self) -> dict[str, Definition]:
        """The names that it imports from other model files. `layers.py` is not followed."""
        found: dict[str, Definition] = {}
        for node in self.tree.body:
            if not isinstance(node, ast.ImportFrom) or not node.module or node.module.endswith(".layers"):
                continue
            package, _, name = node.module.partition(".")
            if package == self.file.partition("/")[0] and name:
                others = read_module(package, name).definitions
                found |= {n.asname or n.name: others[n.name] for n in node.names if n.name in others}
        return found


@cache
def read_module(package: str, name: str) -> Module:
    """The source of `package.name`, without importing either."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TriptychError(f"the package {package} is not here; run this in a checkout, or install triptych")
    path = Path(next(iter(spec.submodule_search_locations))) / f"{name}.py"
    return Module(f"{package}/{name}.py", path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Definition:
    """A function or class of a model file."""

    module: Module
    node: ast.FunctionDef | ast.ClassDef

    @property
    def span(self) -> Span:
        return Span(self.module.file, self.node.lineno, self.node.end_lineno or self.node.lineno)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Definition) and self.span == other.span

    def __hash__(self) -> int:
        return hash(self.span)
