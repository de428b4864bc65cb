"""Serves the pages until the process is told to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from common.explorer.live.making import Making, Own
from common.explorer.live.routes import Routes
from common.explorer.live.server import Server
from common.porting.matching import Network
from common.weights import write_weights_file


def serve(
    port: int,
    write_pages: Callable[[Path], object],
    on_ready: Callable[[str], None],
    *,
    pages: Path | None = None,
    network: Network | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Write the pages and answer for them on this machine, until the process is interrupted; then nothing is left.

    Args:
        port: on the loopback address; 0 for any that is free.
        write_pages: writes them into a folder.
        on_ready: called with the address of the first page when all is there.
        pages: the folder, which stays; a temporary one if None.
        network: the user's weights of one; the others have starting weights.
        labels: the names of its classes.

    Raises:
        TriptychError: the port cannot be used, or the pages cannot be written.
    """
    with TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as temporary:
        pages = pages or Path(temporary, "pages")
        own = {network.spec.name: _own(network, labels, Path(temporary, "own.safetensors"))} if network else {}
        with Making(Path(temporary), own) as making, Server(port, Routes(pages, making).find) as server:
            write_pages(pages)
            on_ready(server.address)
            server.serve_forever()


def _own(network: Network, labels: Sequence[str] | None, path: Path) -> Own:
    """What is needed to run a network with the user's weights, which are written to a path."""
    write_weights_file(path, network.weights)
    return {
        "weights": str(path),
        "num_classes": network.spec.num_classes,
        "preprocessing": network.preprocessing.as_json() if network.preprocessing else None,
        "labels": list(labels) if labels else None,
        "origin": str(network.source.path),
    }
