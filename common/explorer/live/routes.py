"""Which address means which file: the pages, the panel's own files, and the files of each network.

/lenet5.html                      a page, as `write_site` wrote it
/live/panel.js                    a file of the panel, or of ONNX Runtime
/live/lenet5/photo/network.onnx   a file of `networks.write_photo`
/live/lenet5/exact/given.safetensors    a file of `networks.write_exact`
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from common.explorer.live import runtime
from common.explorer.live.making import Making
from common.explorer.live.server import Found
from common.specs import CATALOGUE

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".safetensors": "application/octet-stream",
    ".png": "image/png",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
"""The media types, by suffix. No other file is served."""

PANEL = ("panel.css", "panel.js", "worker.js", "tensors.js", "pillow.js")

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def parts(path: str) -> list[str] | None:
    """A request's path as names of folders and of a file, or None if it is not of that kind.

    No name begins with a dot, or has a character with a meaning in a file system.

    >>> parts("/source/torch_impl/resnet.html?x")
    ['source', 'torch_impl', 'resnet.html']
    >>> parts("/"), parts("/%2e%2e/a"), parts("//a"), parts("/a%00b"), parts("http://b/a"), parts("/a%5c..%5cb")
    (['index.html'], None, None, None, None, None)
    """
    if not path.startswith("/"):
        return None
    names = unquote(path.partition("?")[0].partition("#")[0]).split("/")[1:]
    if names == [""]:
        return ["index.html"]
    return names if all(map(_PART.fullmatch, names)) else None


class Routes:
    """Finds the file of a path.

    Args:
        pages: the folder of the pages.
        making: makes the networks' files.
    """

    def __init__(self, pages: Path, making: Making) -> None:
        self.pages = pages.resolve()
        self.making = making

    def find(self, path: str) -> Found | None:
        """The file of a path, if there is one.

        Raises:
            TriptychError: it is a network's, and cannot be made.
        """
        names = parts(path)
        kind = names and TYPES.get(Path(names[-1]).suffix)
        if not names or not kind:
            return None
        content: bytes | Path | None
        match names:
            case ["live", name] if name in PANEL:
                content = Path(__file__).with_name(name)
            case ["live", name] if name in runtime.SHA256:
                content = runtime.content(name)
            case ["live", architecture, what, name] if architecture in CATALOGUE:
                content = self.making.file(architecture, what, name)
            case _:
                content = self._page(names)
        return Found(kind, content) if content else None

    def _page(self, names: list[str]) -> Path | None:
        """A file in the folder of the pages. A link to a file outside is not followed."""
        try:
            path = self.pages.joinpath(*names).resolve(strict=True)
        except (OSError, RuntimeError):  # not there, too long, a link in a circle
            return None
        return path if path.is_relative_to(self.pages) and path.is_file() else None
