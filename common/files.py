"""Files that are either whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import TriptychError


def os_error_sentence(error: OSError) -> str:
    """What the operating system said, without its number: `No space left on device`."""
    return error.strerror or str(error)


def require_space(path: Path, size: int) -> None:
    """Refuse to write a file that the disk has no room for. Some libraries crash on a full disk, or ignore it.

    Args:
        path: of the file; its folder exists.
        size: of the file in bytes, rather too many than too few.

    Raises:
        TriptychError: less than that is free.
    """
    free = shutil.disk_usage(path.parent).free
    if free < size:
        needed, found = (f"{count / 1e6:,.1f} MB" for count in (size, free))
        raise TriptychError(f"cannot write {path}: it takes up to {needed}, and {found} are free; make room")


@contextmanager
def written_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if it does not.

    Raises:
        TriptychError: the folder does not exist, cannot be written to, or is full.
    """
    path = Path(path)
    if path.is_dir():
        raise TriptychError(f"cannot write {path}: it is a folder; give the path of a file")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise TriptychError(f"cannot write {path}: {os_error_sentence(error)} ({path.parent})") from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise TriptychError(f"cannot write {path}: {os_error_sentence(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`; move all files from there to their place at
    the end.

    For frameworks that look at the name of a file, or write several files.

    Raises:
        TriptychError: the folder does not exist, cannot be written to, or is full.
    """
    if path.is_dir():
        raise TriptychError(f"cannot write {path}: it is a folder; give the path of a file")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir(), reverse=True):
                file.replace(path.parent / file.name)
    except OSError as error:
        raise TriptychError(f"cannot write {path}: {os_error_sentence(error)} ({path.parent})") from None


@contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` if the block succeeds, remove it if it does not.

    Raises:
        TriptychError: there is something at `path`, or its parent does not exist or cannot be written to.
    """
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise TriptychError(f"cannot write {path}: {os_error_sentence(error)} ({path.parent})") from None
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.rename(path)
    except OSError as error:
        raise TriptychError(f"cannot write {path}: {os_error_sentence(error)}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
