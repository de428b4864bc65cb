"""The result of a reader: the tensors of a foreign file, as they are stored in it."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from signal import SIGKILL

import numpy as np

from common.errors import Damaged, TriptychError
from common.files import os_error_sentence
from common.process import ProcessFailure
from common.specs.architecture import Preprocessing


@dataclass(frozen=True)
class Source:
    """A weights file, read but not yet understood as a network."""

    path: Path
    format: str
    """The format that was recognised, such as `NumPy`."""
    conventions: tuple[str, ...]
    """The names in `common.porting.conventions.CONVENTIONS` that its tensors may follow."""
    tensors: Mapping[str, np.ndarray]
    """In the file's own layout; most are read-only views of the mapped file, which takes no memory."""
    spelled: Mapping[str, str] = field(default_factory=dict)
    """The file's own name of a tensor, if it is not the key in `tensors`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The metadata of a file of this project: `architecture`, `preprocessing` and so on."""
    notes: tuple[str, ...] = ()
    """Sentences for the report."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """What the reader itself has changed about a tensor's layout."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """The largest relative rounding error of the tensors that the reader had to compute."""
    batch_norm_eps: float | None = None
    """The eps of the file's batch normalisations, if it states one."""
    preprocessing: Preprocessing | None = None
    """How photographs are prepared, where the file itself proves it."""
    unprepared: str = ""
    """What the file's graph does to the image, if the whole preprocessing is not known."""
    departures: tuple[str, ...] = ()
    """How the file's network differs from the one whose weights it has."""
    entries: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """Every collection of tensors that may be a network, by its place in the file. `tensors` is the largest of them."""
    content: memoryview | None = None
    """The file, mapped into memory, if it is one file."""
    files: tuple[Path, ...] = ()
    """The files that it consists of, if there are several."""

    @property
    def sha256(self) -> str:
        """Of the file, or of its files one after the other."""
        digest = sha256()
        if self.content is not None:
            digest.update(self.content)
        for file in self.files:
            digest.update(mapped(file))
        return digest.hexdigest()


def mapped(path: Path) -> memoryview:
    """The content of a file, mapped into memory and not yet read.

    Raises:
        TriptychError: there is no such file, it is empty, or it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise TriptychError(f"{path} is not a file; give the path of a weights file")
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise TriptychError(f"there is no file {path}; give the path of a weights file") from None
    except ValueError:
        raise TriptychError(f"{path} is empty; it was perhaps not downloaded in full") from None
    except OSError as error:
        raise TriptychError(f"cannot read {path}: {os_error_sentence(error)}") from None


def corrupt(path: Path, what: str) -> Damaged:
    """The error of a file whose bytes are not whole."""
    return Damaged(f"cannot read {path}: {one_line(what)}; get a fresh copy of the file")


def unsupported(path: Path, what: str) -> TriptychError:
    """The error of a file that may be whole, but has something that is not read here."""
    return TriptychError(f"cannot read {path}: {one_line(what)}")


def unanswered(path: Path, library: str, failure: ProcessFailure) -> TriptychError:
    """The error of a file whose reader's process gave no answer. The file counts as damaged if the library crashed, but
    not if the process was ended."""
    ended = failure.out_of_time or failure.status == -SIGKILL
    return (unsupported if ended else corrupt)(path, f"{library} failed on it: {failure}")


def told_of(path: Path, error: TriptychError) -> TriptychError:
    """An error from within a file, as a sentence that names the file."""
    if str(path) in str(error):
        return error
    return corrupt(path, str(error)) if isinstance(error, Damaged) else unsupported(path, str(error))


def one_line(text: str, length: int = 600) -> str:
    """A text that may come from a file, made printable and not too long for a sentence."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= length else f"{printable[:length]} …"


DTYPES = {"<f4": "float32", "<f2": "float16", "<f8": "float64", "bf16": "bfloat16"}
"""The floating-point numbers that are read; `bf16` is the upper half of a float32, which NumPy has no name for."""


def numbers(data: memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Data as an array: a view, except for bfloat16, which is widened to float32, exactly."""
    if dtype != "bf16":
        return np.frombuffer(data, dtype).reshape(shape)
    return (np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)).view("<f4").reshape(shape)


def itemsize(dtype: str) -> int:
    """Bytes of a number."""
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize
