"""An HTTP server for one visitor on this machine: it answers GET and HEAD on the loopback address.

Any page that is open in the visitor's browser can send requests to it. None of them is answered. `Sec-Fetch-Site` or
`Origin` names a page of another host. `Host` tells a page whose name was made to point to this machine (DNS rebinding).
The pages that are served run only this server's own scripts and send nothing elsewhere (`Content-Security-Policy`).
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from time import monotonic
from typing import Any

from common.errors import TriptychError, argument
from common.files import os_error_sentence

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")
"""The names of this machine in `Host` and `Origin`."""

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self' 'wasm-unsafe-eval'",  # WebAssembly may be compiled; text is never run
            "worker-src 'self'",
            "style-src 'self'",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    # Together these two give threads to WebAssembly.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""The headers of every answer, also of refusals."""

LONGEST_REQUEST = 1 << 14
"""The longest first line and headers together, in bytes."""
SECONDS = 10.0
"""The time in which a whole request must arrive, and in which each part of an answer must be taken."""
CONNECTIONS = 256
"""The most connections at once. Others wait."""


@dataclass(frozen=True)
class Found:
    """The content at an address."""

    type: str
    """Its media type."""
    content: bytes | Path
    """The bytes, or the file that has them."""


Find = Callable[[str], Found | None]
"""Finds the content for the path of a request; raises `TriptychError` if it cannot be made."""


class Server(ThreadingHTTPServer):
    """Answers with what `find` finds, until it is told to stop.

    Args:
        port: on the loopback address; 0 for any that is free.
        find: finds the content of a path. It is called by many threads at once.

    Raises:
        TriptychError: something else uses the port, or this user may not.
    """

    daemon_threads = True
    request_queue_size = CONNECTIONS
    # Where Windows has the first, and Linux the second, another server could have the same port.
    allow_reuse_address = os.name != "nt"
    allow_reuse_port = False

    def __init__(self, port: int, find: Find) -> None:
        self.find = find
        self.free = threading.BoundedSemaphore(CONNECTIONS)
        try:
            super().__init__((ADDRESS, port), _Request)
        except OSError as error:
            other = argument("port", 0)
            raise TriptychError(
                f"cannot serve on port {port} of {ADDRESS}: {os_error_sentence(error)}; "
                f"name another port, or {other} for any that is free"
            ) from None

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer would ask for the name of this machine, which can take seconds
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    @property
    def address(self) -> str:
        """The address of the first page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    @property
    def hosts(self) -> frozenset[str]:
        """The allowed values of `Host`."""
        of_port = {f"{name}:{self.server_port}" for name in NAMES}
        return frozenset(of_port | (set(NAMES) if self.server_port == 80 else set()))

    def process_request(self, request: Any, client_address: Any) -> None:
        self.free.acquire()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started for it
            self.free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a visitor who disconnects in the middle of an answer."""


class _Arriving(io.RawIOBase):
    """The bytes that a visitor sends: limited in number for each request, and to `SECONDS` in all."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.begin()

    def begin(self) -> None:
        """A request begins."""
        self.until, self.left = monotonic() + SECONDS, LONGEST_REQUEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.until - monotonic()
        if left <= 0:
            raise TimeoutError
        if self.left <= 0:
            raise _TooLong
        self.connection.settimeout(left)
        count = self.connection.recv_into(memoryview(buffer)[: self.left])
        self.left -= count
        return count


class _TooLong(Exception):
    """A request is longer than it may be."""


class _Request(BaseHTTPRequestHandler):
    """One connection, and the requests on it."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # 0.9 has no headers
    server_version, sys_version = "Triptych", ""
    server: Server

    def setup(self) -> None:
        super().setup()
        self.arriving, self.refused = _Arriving(self.connection), False
        self.rfile = io.BufferedReader(self.arriving)

    def finish(self) -> None:
        super().finish()
        if self.refused:  # what is still arriving would reset the connection, and the refusal would not be read
            until = monotonic() + 1
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                while (left := until - monotonic()) > 0:
                    self.connection.settimeout(left)
                    if not self.connection.recv(1 << 16):
                        break

    def handle_one_request(self) -> None:
        self.arriving.begin()
        try:
            super().handle_one_request()
        except _TooLong:
            self.requestline, self.command, self.request_version = "", "", self.protocol_version
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request is too long.")
        except OSError:  # gone, or too slow
            self.close_connection = True

    def parse_request(self) -> bool:
        """Read a request; whether it is to be answered. If not, it has been refused."""
        if not super().parse_request():
            return False
        refusal = self._refusal()
        if refusal:
            self.send_error(*refusal)
        return refusal is None

    def _refusal(self) -> tuple[HTTPStatus, str] | None:
        """The reason for refusing this request, if there is one."""
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        if self.command not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are answered here."
        if len(hosts) != 1:
            return HTTPStatus.BAD_REQUEST, "A request names one host."
        if hosts[0].lower() not in self.server.hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, f"This is {self.server.address} and no other host."
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") or (
            origin is not None and origin.lower() not in {f"http://{host}" for host in self.server.hosts}
        ):
            return HTTPStatus.FORBIDDEN, f"Pages of other hosts get nothing here; open {self.server.address} itself."
        if "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0":
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "A request has no content here."
        return None

    def do_GET(self) -> None:
        try:
            found = self.server.find(self.path)
            if found is None:
                self.send_error(HTTPStatus.NOT_FOUND, "There is no such page.")
            elif isinstance(found.content, bytes):
                self._answer(found.type, io.BytesIO(found.content), len(found.content))
            else:
                with found.content.open("rb") as file:
                    self._answer(found.type, file, os.fstat(file.fileno()).st_size)
        except TriptychError as error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    do_HEAD = do_GET

    def _answer(self, kind: str, content: Any, size: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.connection.settimeout(SECONDS)
            shutil.copyfileobj(content, self.wfile)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse, in one sentence of plain text, and hang up."""
        status = HTTPStatus(code)
        content = f"{message or status.phrase}\n".encode()
        self.close_connection = self.refused = True
        self.send_response(status)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Connection", "close")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.connection.settimeout(SECONDS)
            self.wfile.write(content)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Visits are not logged."""
