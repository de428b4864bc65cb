"""What must be the same at both ends: pickles are read there, and sources decide what is right."""

from __future__ import annotations

import platform
from functools import cache
from hashlib import sha256
from pathlib import Path

SOURCES = Path(__file__).parents[2]


def version() -> dict[str, str]:
    """By what it is of."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "Triptych": sources_sha256()[:12]}


@cache
def sources_sha256() -> str:
    """What identifies the sources that results depend on."""
    found = sha256()
    for path in sorted(path for package in ("common", "*_impl") for path in SOURCES.glob(f"{package}/**/*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
