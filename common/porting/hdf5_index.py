"""The places of the arrays in an HDF5 file.

The HDF5 library is written in C and was not made for hostile files. It runs here, in a process of its own with a limit
on memory and time, and reads no array: the other process takes the arrays from the file itself. pyfive, which is
Python, needs the same limits: of 4,000 files with some bytes changed, eleven made it ask for more than 3 GB.
"""

from __future__ import annotations

import io
import resource
from collections.abc import Iterator
from typing import Any

from common.process import answering, requests

MEMORY, SECONDS = 2 << 30, 60
MOST_OBJECTS, DEEPEST = 20_000, 16
TEXTS = ("name", "model_config", "triptych")
"""The attributes that are read."""

LAYER = "weight_names"
"""The attribute that Keras before 3 gives to the group of a layer."""


class _Refused(Exception):
    pass


class _Tail(io.RawIOBase):
    """A file from an offset on."""

    def __init__(self, path: str, start: int, size: int) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115
        self.start, self.size = start, size
        self.seek(0)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self.tell(), self.size)[whence]
        return self.file.seek(self.start + max(0, base + offset)) - self.start

    def tell(self) -> int:
        return self.file.tell() - self.start

    def readinto(self, buffer: Any) -> int:
        room = max(0, min(len(buffer), self.size - self.tell()))
        return self.file.readinto(memoryview(buffer)[:room]) or 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def main() -> None:
    """Answer `{"path", "start", "size"}` with where the arrays lie, and with attributes, or with an error.

    `{"datasets": [{"path", "dtype", "shape", "offset"}, …], "texts": {"path@attribute": …}}`

    The HDF5 file begins at `start` of the file, which may be an archive.

    A group that is a layer of Keras before 3 has a text as well, `path@weight_names`, which is empty.
    """
    answer, asked = answering(), next(requests())
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import h5py

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    texts: dict[str, str] = {}
    try:
        with h5py.File(_Tail(**asked), "r") as file:
            if file.userblock_size:
                raise _Refused("it has a user block, which no Keras file has")
            datasets = list(_walk(h5py, file, "", texts, set(), 0))
        found: dict[str, Any] = {"datasets": datasets, "texts": texts}
    except _Refused as refusal:
        found = {"error": str(refusal)}
    except Exception as error:  # whatever h5py makes of the library's errors
        said = str(error).splitlines()[0][:200] if str(error) else repr(error)
        found = {"error": f"the HDF5 library cannot read it ({said})", "damaged": True}
    answer(found)


def _walk(
    h5py: Any, group: Any, path: str, texts: dict[str, str], seen: set[int], depth: int
) -> Iterator[dict[str, Any]]:
    seen.add(_address(h5py, group, path, seen))
    if depth > DEEPEST or len(seen) > MOST_OBJECTS:
        raise _Refused(f"it has more than {MOST_OBJECTS} objects or {DEEPEST} levels")
    for attribute in TEXTS:
        if attribute in group.attrs and (text := _text(h5py, group, attribute)) is not None:
            texts[f"{path}@{attribute}"] = text
    if LAYER in group.attrs:
        texts[f"{path}@{LAYER}"] = ""
    for name in group:
        child = f"{path}/{name}".lstrip("/")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _Refused(f"{child} is a link to another place or file")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _walk(h5py, item, child, texts, seen, depth + 1)
        elif isinstance(item, h5py.Dataset):
            seen.add(_address(h5py, item, child, seen))
            yield _dataset(item, child)
        else:
            raise _Refused(f"{child} is neither a group nor an array")


def _address(h5py: Any, item: Any, path: str, seen: set[int]) -> int:
    address = h5py.h5o.get_info(item.id).addr
    if address in seen:
        raise _Refused(f"{path} is in the file under two names")
    return address


def _text(h5py: Any, group: Any, attribute: str) -> str | None:
    handle = group.attrs.get_id(attribute)
    if handle.shape != () or h5py.check_string_dtype(handle.dtype) is None:
        return None
    value = group.attrs[attribute]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _dataset(item: Any, path: str) -> dict[str, Any]:
    if item.is_virtual or item.external:
        raise _Refused(f"the data of {path} lie in another file")
    if item.dtype.hasobject:
        raise _Refused(f"{path} is an array of objects, expected float32")
    return {"path": path, "dtype": item.dtype.str, "shape": item.shape, "offset": item.id.get_offset()}


if __name__ == "__main__":
    main()
