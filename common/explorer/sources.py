"""Where each layer stands in the source of an implementation: found by reading the source, never by running it.

A network's builder is followed through its syntax tree as a reader would follow it: into the functions and classes of
the model files that it calls, with the names that it passes. Both branches of a condition are read, and a loop is read
once, its variables standing for anything, so that `name=f"conv{stage}_block{number}"` becomes the pattern
`conv*_block*`, which is then looked up among the layers of the specification. What names a layer differs: in Keras and
TensorFlow 1 the argument `name` of a call, inside the scopes around it; in PyTorch the attribute, key or keyword that a
module is bound to, inside those around it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import TriptychError
from common.names import keras_layer, tf1_layer
from common.specs.architecture import Architecture

WILD = "*"
"""In a pattern, what a loop's variable stands for: one or more letters or digits."""


@dataclass(frozen=True)
class Framework:
    """One of the three implementations, as something to read."""

    name: str
    title: str
    package: str
    spell: Callable[[str], str]
    """A canonical layer name as the names found in the source spell it."""


FRAMEWORKS = (
    Framework("keras", "Keras", "keras_impl", keras_layer),
    Framework("torch", "PyTorch", "torch_impl", str),  # found as paths of attributes, joined by "/"
    Framework("tf1", "TF1 style", "tf1_style_impl", tf1_layer),
)


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
        """What it imports by name from other model files; `layers.py` is vocabulary, and is not followed."""
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


def builder(framework: Framework, architecture: str, form: str = "") -> Definition | None:
    """The builder that `BUILDERS` in a catalogue names, or its other `form` (`sequential`) if there is one."""
    for node in read_module(framework.package, "catalogue").tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "BUILDERS":
            entries = node.value
            assert isinstance(entries, ast.Dict)
            for key, value in zip(entries.keys, entries.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == architecture:
                    assert isinstance(value, ast.Attribute)
                    assert isinstance(value.value, ast.Name)
                    definitions = read_module(framework.package, value.value.id).definitions
                    return definitions.get(f"{value.attr}_{form}" if form else value.attr)
    raise TriptychError(f"{framework.package} has no builder of {architecture}")


@dataclass(frozen=True)
class Reading:
    """What the source of one network says."""

    definitions: tuple[Definition, ...]
    """The functions and classes that make the network, in the order in which a reader meets them."""
    written: Mapping[Span, frozenset[str]]
    """The lines that say what a layer is, or call what says it: the canonical names of all layers they stand for."""
    used: Mapping[Span, frozenset[str]]
    """Further lines that mention a layer, such as those of a `forward`."""

    def lines_of(self, layer: str) -> list[Span]:
        """The lines that a layer is written in, from the builder inwards."""
        lines = [span for span, layers in self.written.items() if layer in layers]
        order = [definition.span for definition in self.definitions]
        return sorted(lines, key=lambda line: (next(i for i, whole in enumerate(order) if line in whole), line.first))


def read_network(framework: Framework, spec: Architecture, form: str = "") -> Reading | None:
    """Read the source of a network; None if it does not exist in this form.

    Args:
        framework: whose implementation.
        spec: the network.
        form: `sequential` for the other form that Keras has of a chain.
    """
    definition = builder(framework, spec.name, form)
    if definition is None:
        return None
    reader = _Reader()
    reader.enter(definition, [], {})
    names = {framework.spell(layer.name): layer.name for layer in spec.layers}
    stands_for = _resolve({pattern for pattern, _ in (*reader.written, *reader.used)}, names)
    return Reading(
        tuple(dict.fromkeys(reader.definitions)),
        _by_span(reader.written, stands_for),
        _by_span(reader.used, stands_for),
    )


def _by_span(
    found: Sequence[tuple[str, tuple[Span, ...]]], stands_for: Mapping[str, frozenset[str]]
) -> dict[Span, frozenset[str]]:
    layers: dict[Span, frozenset[str]] = {}
    for pattern, spans in found:
        for span in spans if stands_for[pattern] else ():
            layers[span] = layers.get(span, frozenset()) | stands_for[pattern]
    return layers


def _resolve(patterns: set[str], names: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The layers that each pattern stands for; where several fit a layer, those that spell out the most of its name."""
    stands_for: dict[str, set[str]] = {pattern: set() for pattern in patterns}
    expressions = {pattern: re.compile(re.escape(pattern).replace(r"\*", "[0-9A-Za-z]+")) for pattern in patterns}
    for spelling, layer in names.items():
        fitting = [pattern for pattern, expression in expressions.items() if expression.fullmatch(spelling)]
        most = max((len(pattern.replace(WILD, "")) for pattern in fitting), default=0)
        for pattern in fitting:
            if len(pattern.replace(WILD, "")) == most:
                stands_for[pattern].add(layer)
    return {pattern: frozenset(layers) for pattern, layers in stands_for.items()}


@dataclass(frozen=True)
class _Bound:
    """`functools.partial` of a definition."""

    definition: Definition
    keywords: Mapping[str, Any]


@dataclass(frozen=True)
class _Made:
    """What a call of something outside the model files gives, such as `nn.Conv2d(…)`."""

    span: Span


_UNKNOWN = object()
_SELF = object()


@dataclass
class _Reader(ast.NodeVisitor):
    """Follows definitions. Each visit of an expression returns what is known of its value."""

    definitions: list[Definition] = field(default_factory=list)
    written: list[tuple[str, tuple[Span, ...]]] = field(default_factory=list)
    used: list[tuple[str, tuple[Span, ...]]] = field(default_factory=list)
    scope: list[str] = field(default_factory=list)
    """The names around the current line."""
    calls: list[Span] = field(default_factory=list)
    """The lines of the calls that led to the current definition."""
    active: list[Definition] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)
    returned: Any = _UNKNOWN

    def enter(self, definition: Definition, positional: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """Read a definition as called with these arguments, and return what it returns."""
        if definition in self.active:
            return _UNKNOWN
        self.definitions.append(definition)
        self.active.append(definition)
        outer, self.returned = (self.variables, self.returned), _UNKNOWN
        if isinstance(definition.node, ast.ClassDef):
            methods = {node.name: node for node in definition.node.body if isinstance(node, ast.FunctionDef)}
            for name, given in (("__init__", ([_SELF, *positional], keywords)), ("forward", ([_SELF], {}))):
                if name in methods:
                    self._run(methods[name], *given)
            value: Any = _UNKNOWN
        else:
            self._run(definition.node, positional, keywords)
            value = self.returned
        self.variables, self.returned = outer
        self.active.pop()
        return value

    def _run(self, function: ast.FunctionDef, positional: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        arguments = function.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
        defaults = dict(zip(reversed(names), reversed(arguments.defaults), strict=False))
        defaults |= {
            argument.arg: default
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if default
        }
        self.variables = {name: self.visit(default) for name, default in defaults.items()}
        self.variables |= dict(zip(names, positional, strict=False)) | dict(keywords)
        for statement in function.body:
            self.visit(statement)

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> Span:
        return Span(self.active[-1].module.file, node.lineno, node.end_lineno or node.lineno)

    @contextmanager
    def _within(self, stack: list[Any], *entries: Any) -> Iterator[None]:
        stack.extend(entries)
        try:
            yield
        finally:
            del stack[len(stack) - len(entries) :]

    def _record(self, name: str, *spans: Span) -> None:
        self.written.append(("/".join((*self.scope, name)), (*self.calls, *spans)))

    def _use(self, name: str, node: ast.expr | ast.keyword) -> None:
        self.used.append(("/".join((*self.scope, name)), (self._span(node),)))

    def _bind(self, name: Any, value: ast.expr, where: ast.expr | ast.stmt | ast.keyword) -> None:
        """A module gets its name: what is made on the right is that layer, or has its layers inside it."""
        if not isinstance(name, str):
            self.visit(value)
            return
        with self._within(self.scope, name):
            made = self.visit(value)
        if isinstance(value, ast.Name) and isinstance(made, _Made):  # made before: that is where it is written
            self.written.append(("/".join((*self.scope, name)), (made.span,)))
            self._use(name, value)
        elif isinstance(made, _Made):
            self._record(name, self._span(where))

    # Statements

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if isinstance(target, ast.Attribute) and self.visit(target.value) is _SELF:
            self._bind(target.attr, node.value, node)
        elif isinstance(target, ast.Subscript):
            self._bind(self.visit(target.slice), node.value, node)
        else:
            value = self.visit(node.value)
            for target in node.targets:
                self._assign(target, value, node)

    def _assign(self, target: ast.expr, value: Any, where: ast.stmt) -> None:
        if isinstance(target, ast.Name):
            self.variables[target.id] = value
        elif isinstance(target, ast.Attribute) and isinstance(value, _Made):
            self._record(target.attr, self._span(where), value.span)
        elif isinstance(target, ast.Tuple):
            values = value if isinstance(value, tuple) and len(value) == len(target.elts) else ()
            for number, element in enumerate(target.elts):
                self._assign(element, values[number] if values else _UNKNOWN, where)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._assign(node.target, _UNKNOWN, node)
        for statement in node.body:
            self.visit(statement)

    def visit_With(self, node: ast.With) -> None:
        scopes = [
            self.visit(call.args[0])
            for item in node.items
            if isinstance(call := item.context_expr, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "variable_scope"
        ]
        with self._within(self.scope, *scopes):
            for statement in node.body:
                self.visit(statement)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value:
            self.returned = self.visit(node.value)

    # Expressions

    def generic_visit(self, node: ast.AST) -> Any:
        super().generic_visit(node)
        return _UNKNOWN

    def visit_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def visit_JoinedStr(self, node: ast.JoinedStr) -> str:
        parts = (self.visit(part.value if isinstance(part, ast.FormattedValue) else part) for part in node.values)
        return "".join(part if isinstance(part, str) else WILD for part in parts)

    def visit_Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.visit(element) for element in node.elts)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        self.visit(node.test)
        values = self.visit(node.body), self.visit(node.orelse)
        return next((value for value in values if isinstance(value, _Made)), _UNKNOWN)

    def visit_Name(self, node: ast.Name) -> Any:
        module = self.active[-1].module
        for known in (self.variables, module.definitions, module.imported):
            if node.id in known:
                return known[node.id]
        return _UNKNOWN

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        if self.visit(node.value) is _SELF:
            self._use(node.attr, node)
        return _UNKNOWN

    def visit_Call(self, node: ast.Call) -> Any:
        function = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if function == "OrderedDict":
            for keyword in node.keywords:
                self._bind(keyword.arg, keyword.value, keyword)
            return _UNKNOWN
        if function == "add_module":
            self._bind(self.visit(node.args[0]), node.args[1], node)
            return _UNKNOWN
        callee = self.visit(node.func)
        positional = [self.visit(argument) for argument in node.args]
        keywords = {keyword.arg: self.visit(keyword.value) for keyword in node.keywords if keyword.arg}
        if function == "partial":
            bound = positional[0]
            return _Bound(bound, keywords) if isinstance(bound, Definition) else _UNKNOWN
        if function == "replace" and isinstance(node.func, ast.Attribute):
            before = self.visit(node.func.value)
            return before.replace(*positional) if isinstance(before, str) else _UNKNOWN
        if function == "getattr" and positional[0] is _SELF:
            self._use(positional[1], node)
        if isinstance(callee, _Bound):
            keywords = {**callee.keywords, **keywords}
            callee = callee.definition
        if isinstance(callee, Definition):
            with self._within(self.calls, self._span(node)):
                return self.enter(callee, positional, keywords)
        if isinstance(keywords.get("name"), str):
            self._record(keywords["name"], self._span(node))
        return _Made(self._span(node))
