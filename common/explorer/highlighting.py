"""Colours Python source, with little HTML: a span for each coloured token, and nothing for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from markupsafe import Markup, escape
from pygments import lex  # type: ignore[import-untyped]
from pygments.lexers import PythonLexer  # type: ignore[import-untyped]
from pygments.token import (  # type: ignore[import-untyped]
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    String,
    Token,
    _TokenType,
)

CLASSES = (
    (Comment, "c"),
    (String, "s"),
    (Number, "n"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (Name.Builtin.Pseudo, "k"),
    (Name.Function, "f"),
    (Name.Class, "f"),
)
"""Kinds of tokens and their classes in style.css."""


@cache
def highlighted(code: str) -> tuple[Markup, ...]:
    """The lines of some Python as HTML."""
    return tuple(Markup("".join(_span(kind, text) for kind, text in line)) for line in _lines(code))


def _span(kind: str, text: str) -> str:
    inside = text.lstrip(" ")
    indentation = text[: len(text) - len(inside)]  # spaces need no colour
    return f'{indentation}<span class="{kind}">{escape(inside)}</span>' if kind and inside else str(escape(text))


def _lines(code: str) -> Iterator[list[tuple[str, str]]]:
    line: list[tuple[str, str]] = []
    for token, value in lex(code, PythonLexer(stripnl=False)):
        for number, part in enumerate(value.split("\n")):
            if number:
                yield line
                line = []
            kind = _class(token)
            if line and line[-1][0] == kind:
                line[-1] = (kind, line[-1][1] + part)
            elif part:
                line.append((kind, part))
    if line:
        yield line


def _class(token: _TokenType) -> str:
    return next((name for kind, name in CLASSES if token in kind), "") if token is not Token.Text else ""
