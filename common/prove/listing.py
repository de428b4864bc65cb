"""A process that lists the models of a library, and the names that match a pattern."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from common.errors import TriptychError, nearest
from common.process.sparing import spare_imports
from common.prove.models import LIBRARIES, ModelName, import_torchvision, parse
from common.prove.runtimes import Process, serve
from common.specs import list_architectures


def is_pattern(text: str) -> bool:
    """Whether this stands for all models of a library whose names match, as `timm:resnet*` does."""
    home, _, name = text.rpartition(":")
    return home in LIBRARIES and any(letter in name for letter in "*?[")


def expanded(texts: Sequence[str]) -> list[ModelName]:
    """The models that names and patterns stand for, each once.

    Raises:
        TriptychError: a library is not installed, a pattern matches nothing, or a name is none.
    """
    found: dict[str, ModelName] = {}
    listed: dict[str, list[str]] = {}
    for text in texts:
        if not is_pattern(text):
            found.setdefault(text, parse(text))
            continue
        home, _, pattern = text.rpartition(":")
        if home not in listed:
            listed[home] = _listed(home)
        names = [name for name in listed[home] if fnmatchcase(name, pattern)]
        if not names:
            raise TriptychError(f"no model of {home} matches {pattern!r}; {nearest(pattern, listed[home])}")
        for name in names:
            found.setdefault(f"{home}:{name}", ModelName(f"{home}:{name}", home, name))
    return list(found.values())


def _listed(home: str) -> list[str]:
    with Process("common.prove.listing", {"KERAS_BACKEND": "torch"}) as asked:
        answer = asked.ask({"home": home})
    if "error" in answer:
        raise TriptychError(f"the models of {home} cannot be listed: {answer['error']}")
    names: list[str] = answer["names"]
    return names


def names_of(job: dict[str, Any]) -> dict[str, list[str]]:
    """The models of a library, as the library itself lists them."""
    home = job["home"]
    if home == "torchvision":
        import_torchvision()
        return {"names": sorted(importlib.import_module("torchvision.models").list_models())}
    if home == "timm":
        import_torchvision()
        return {"names": sorted(_of("timm").list_models())}
    if home == "keras.applications":
        functions = vars(_of("keras").applications)
        return {"names": sorted(name for name, found in functions.items() if name[0].isupper() and callable(found))}
    return {"names": list_architectures()}


def _of(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise TriptychError(f"there is no module {error.name}; install it") from None


if __name__ == "__main__":
    spare_imports()
    serve(names_of)
