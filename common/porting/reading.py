"""What the user says about a file, applied to its tensors."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from common.errors import TriptychError, argument
from common.porting.source import Source


@dataclass(frozen=True)
class Reading:
    """What the user says about a file."""

    entry: str | None = None
    """The collection of tensors to read, if there are several."""
    prefix: str | None = None
    """The prefix of the names; found by itself if None."""
    rename: tuple[str, ...] = ()
    """`OLD=NEW`, each of a tensor or of a layer."""
    ignore: tuple[str, ...] = ()
    """Shell-style patterns of tensors to leave out."""
    round: bool = False
    """Whether float64 may be rounded to float32."""
    force: bool = False
    """Whether to accept weights of a network that is not in the catalogue as those of the named architecture."""
    preprocessing: str | None = None
    """How to prepare photographs: a name in `common.porting.preparation.NAMED`, or JSON."""
    finite: bool = True
    """Whether NaN and infinity are refused. False only for looking at such weights."""


def entries(source: Source, reading: Reading) -> Mapping[str, Mapping[str, np.ndarray]]:
    """The collections of tensors that may be the network, by their places in the file.

    Raises:
        TriptychError: the user names one that is not there.
    """
    if reading.entry is None:
        return source.entries or {"": source.tensors}
    if reading.entry not in source.entries:
        known = ", ".join(map(repr, source.entries)) or "none"
        raise TriptychError(f"{source.path} has no entry {reading.entry!r} that could be a network; it has {known}")
    return {reading.entry: source.entries[reading.entry]}


def edited(
    source: Source, tensors: Mapping[str, np.ndarray], reading: Reading
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors that are not ignored, by their new names, and the file's own names of these.

    Raises:
        TriptychError: an edit is malformed, finds nothing, or would give two tensors the same name.
    """
    spelled = {name: source.spelled.get(name, name) for name in tensors}
    for pattern in reading.ignore:
        left = {name: full for name, full in spelled.items() if not fnmatch.fnmatchcase(full, pattern)}
        if len(left) == len(spelled):
            raise TriptychError(
                f"{argument('ignore', [pattern])} matches no tensor in {source.path}; {some_of(spelled.values())}"
            )
        spelled = left
    names = {name: name for name in spelled}
    for pair in reading.rename:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise TriptychError(f"{argument('rename')} is {pair!r}, expected OLD=NEW")
        changed = {name: _renamed(current, old, new) for name, current in names.items()}
        if changed == names:
            raise TriptychError(f"nothing to rename: {source.path} has no {old!r}; {some_of(spelled.values())}")
        names = changed
    if len(set(names.values())) != len(names):
        raise TriptychError(f"{argument('rename')} would give two tensors in {source.path} the same name")
    return {names[name]: tensors[name] for name in spelled}, {names[name]: full for name, full in spelled.items()}


def _renamed(name: str, old: str, new: str) -> str:
    if name == old:
        return new
    return f"{new}{name[len(old) :]}" if name.startswith((f"{old}.", f"{old}/")) else name


def some_of(names: Collection[str]) -> str:
    """The end of a sentence that lists names."""
    return f"its tensors are named {', '.join(map(repr, list(names)[:3]))} …"
