"""Describes a weights file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import TriptychError
from common.porting.formats import read_source
from common.porting.known import known_file
from common.porting.matching import understand


def describe_file(path: Path) -> dict[str, Any]:
    """Describe a weights file: its format, its network if that is known, its metadata, its tensors.

    Raises:
        TriptychError: it cannot be read.
    """
    source = read_source(path)
    digest = source.sha256
    description: dict[str, Any] = {"path": str(path), "format": source.format, "sha256": digest}
    description["known_as"] = known_file(digest)
    try:
        network = understand(source)
        description |= {"architecture": network.spec.name, "names": network.convention}
        description["preprocessing"] = asdict(network.preprocessing) if network.preprocessing else None
        description["notes"] = list(network.notes)
    except TriptychError as error:
        description |= {"architecture": None, "notes": [*source.notes, str(error)]}
    description["metadata"] = dict(source.metadata)
    description["tensors"] = [
        {"name": source.spelled.get(name, name), "shape": array.shape, "dtype": str(array.dtype)}
        for name, array in source.tensors.items()
    ]
    return description
