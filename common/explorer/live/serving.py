"""The pages, served until the process is told to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from common.explorer.live.making import Making, Own
from common.explorer.live.routes import Routes
from common.explorer.live.server import Server


def serve(
    port: int,
    write_pages: Callable[[Path], object],
    on_ready: Callable[[str], None],
    *,
    pages: Path | None = None,
    own: Mapping[str, Own] | None = None,
) -> None:
    """Write the pages and answer for them on this machine, until the process is interrupted; then nothing is left.

    Args:
        port: on the loopback address; 0 for any that is free.
        write_pages: writes them into a folder.
        on_ready: called with the address of the first page when all is there.
        pages: the folder, which stays; a temporary one if None.
        own: the user's weights by the network.

    Raises:
        TriptychError: the port cannot be used, or the pages cannot be written.
    """
    with TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as temporary:
        pages = pages or Path(temporary, "pages")
        with Making(Path(temporary), own or {}) as making, Server(port, Routes(pages, making).find) as server:
            write_pages(pages)
            on_ready(server.address)
            server.serve_forever()
