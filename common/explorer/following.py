"""Follows a builder through its syntax tree, as a reader would.

It follows calls of functions and classes in the model files, with the arguments of the call. It reads both branches of
a condition. It reads a loop once, and its variables may have any value, so that `name=f"conv{stage}_block{number}"`
becomes the pattern `conv*_block*`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from common.explorer.modules import Definition, Span

WILD = "*"
"""In a pattern, a loop's variable: one or more letters or digits."""


@dataclass(frozen=True)
class _Bound:
    """`functools.partial` of a definition."""

    definition: Definition
    keywords: Mapping[str, Any]


@dataclass(frozen=True)
class _Made:
    """The result of a call of something outside the model files, such as `nn.Conv2d(…)`."""

    span: Span


_UNKNOWN = object()
_SELF = object()


@dataclass
class Follower(ast.NodeVisitor):
    """Follows definitions, and collects the patterns of layer names with their lines.

    Each visit of an expression returns what is known about its value.
    """

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
        """An assignment names a module: the right side is that layer, or contains its layers."""
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
