"""Zip archives (npz, PyTorch, Keras) as views of the mapped file; bombs are refused before anything is unpacked."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

from common.porting.source import corrupt, unsupported

LARGEST_RATIO = 4
"""How much larger than the archive its content may be. Trained weights are noise and shrink by a tenth."""

ALLOWANCE = 1 << 20
"""Bytes that any archive may unpack to."""

MOST_MEMBERS = 10_000


class Archive:
    """The members of a zip archive by name.

    Raises:
        TriptychError: the archive is damaged, or unpacks to many times its size.
    """

    def __init__(self, path: Path, content: memoryview) -> None:
        self.path = path
        self.content = content
        try:
            self.zip = zipfile.ZipFile(_View(content))
            members = self.zip.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, RuntimeError) as error:
            raise corrupt(path, f"it is not a whole zip archive ({error})") from None
        self.members = {member.filename: member for member in members}
        if len(members) > MOST_MEMBERS or len(self.members) != len(members):
            raise unsupported(path, f"its {len(members)} entries are too many, or some share a name")
        unpacked = sum(member.file_size for member in members)
        if unpacked > LARGEST_RATIO * len(content) + ALLOWANCE:
            raise unsupported(path, f"its {len(content):,} bytes would unpack to {unpacked:,}, which no weights do")

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def span(self, name: str) -> tuple[int, int]:
        """Where a member that is stored without compression begins in the file, and its length."""
        member = self.members[name]
        try:
            self.zip.open(member).close()  # compares the entry's own header with the directory
        except Exception as error:  # zipfile raises whatever it comes upon
            raise corrupt(self.path, f"its entry {name!r} is damaged ({error})") from None
        start = member.header_offset
        header = bytes(self.content[start : start + 30])
        if member.compress_type != zipfile.ZIP_STORED or header[:4] != b"PK\x03\x04":
            raise unsupported(self.path, f"its entry {name} is compressed, where none is")
        start += 30 + sum(struct.unpack("<HH", header[26:30]))
        if member.file_size != member.compress_size or start + member.file_size > len(self.content):
            raise corrupt(self.path, f"its entry {name} runs past the end")
        return start, member.file_size

    def read(self, name: str) -> memoryview:
        """A member's content, checked against the archive's checksum: a view where it is not compressed."""
        member = self.members[name]
        if member.compress_type == zipfile.ZIP_STORED:
            start, size = self.span(name)
            view = self.content[start : start + size]
            if zlib.crc32(view) != member.CRC:
                raise corrupt(self.path, f"its entry {name} does not have the checksum that the archive states")
            return view
        try:
            with self.zip.open(member) as stream:
                data = stream.read(member.file_size + 1)
        except Exception as error:  # zipfile raises whatever the decompressor does
            raise corrupt(self.path, f"its entry {name} cannot be unpacked ({error})") from None
        if len(data) != member.file_size:
            raise corrupt(self.path, f"its entry {name} is not as long as stated")
        return memoryview(data)


class _View(io.RawIOBase):
    """A memory view as the file that `zipfile` wants, without copying it."""

    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self.position, len(self.content))[whence]
        if position < 0:
            raise OSError("an offset before the beginning")
        self.position = position
        return position

    def read(self, size: int | None = -1) -> bytes:
        end = len(self.content) if size is None or size < 0 else self.position + size
        data = bytes(self.content[self.position : end])
        self.position += len(data)
        return data
