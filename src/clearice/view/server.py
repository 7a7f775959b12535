"""A small HTTP server for this machine's browser, which gives out pictures of its files only."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import socketserver
import sys
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from clearice.errors import ClearIceError, OutputError
from clearice.view.images import LOWPASSES, Look
from clearice.view.page import page
from clearice.view.store import Store

_HOME = "127.0.0.1"
# A page elsewhere that has its own name point here would send that name.
_OWN_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_NUMBER = r"(\d{1,9})"
_SHARE = r"(\d(?:\.\d{1,9})?)"
_INFO = re.compile(rf"info/{_NUMBER}\.json")
_TILE = re.compile(rf"tile/{_NUMBER}/{_NUMBER}/([01])-{_NUMBER}/{_NUMBER}/{_NUMBER}_{_NUMBER}\.png")
_SPECTRUM = re.compile(rf"spectrum/{_NUMBER}/{_NUMBER}\.(png|json)")
_VALUE = re.compile(rf"value/{_NUMBER}/{_SHARE}/{_SHARE}\.json")
_JSON, _PNG = "application/json", "image/png"


class Viewer(ThreadingHTTPServer):
    """Serves one collection at `address`, a name that nobody can guess, until it is closed.

    Args:
        store: What is shown.
        port: To listen at; 0: any that is free.

    Raises:
        OutputError: The port is taken.
    """

    daemon_threads = True
    # On Windows this would let a second viewer share the port.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, store: Store, port: int = 0) -> None:
        self.store = store
        # Other users of this machine reach the port too.
        self.token = secrets.token_urlsafe(12)
        try:
            super().__init__((_HOME, port), _Handler)
        except (OSError, OverflowError) as error:
            raise OutputError(
                f"port {port} cannot be used ({error}); leave --port out for one that is free"
            ) from None

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{_HOME}:{self.server_address[1]}/{self.token}/"

    def server_bind(self) -> None:
        """Bind without asking for the machine's full name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOME, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report bugs, and not that a browser hung up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(viewer: Viewer, *, open_browser: bool = False) -> None:
    """Serve until Ctrl-C.

    Args:
        viewer: What is served.
        open_browser: Show the page, where there is a screen for it.
    """
    if open_browser and _has_screen():
        webbrowser.open(viewer.address)
    try:
        viewer.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        viewer.server_close()


def _has_screen() -> bool:
    """Tell whether a browser would have a window; one in the terminal is of no use."""
    if platform.system() in {"Windows", "Darwin"}:
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


class _Handler(BaseHTTPRequestHandler):
    """Answers by numbers alone: no part of a request is ever used as a file name."""

    server: Viewer
    protocol_version = "HTTP/1.1"
    server_version = "clearice"
    sys_version = ""
    # Of a connection that is kept open.
    timeout = 60

    def do_GET(self) -> None:
        """Answer one request."""
        if not _OWN_NAMES.fullmatch(self.headers.get("Host", "")):
            self._refuse(HTTPStatus.FORBIDDEN, "this server only goes by its local name")
            return
        first, _, rest = urlsplit(self.path).path.lstrip("/").partition("/")
        if not secrets.compare_digest(first.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.NOT_FOUND, "open the address that `clearice view` printed")
            return
        try:
            answered = self._page() if not rest else self._part(rest)
        except ClearIceError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
            return
        if not answered:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such thing here")

    def _page(self) -> bool:
        nonce = secrets.token_urlsafe(12)
        content = page(self.server.store.collection, nonce=nonce).encode()
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
        self._answer(HTTPStatus.OK, "text/html; charset=utf-8", content, headers)
        return True

    def _part(self, name: str) -> bool:
        """Answer with what the page asks for, or return False."""
        store = self.server.store
        if match := _TILE.fullmatch(name):
            number, version, even, lowpass, level, row, column = map(int, match.groups())
            look = Look(bool(even), lowpass)
            known = self._known(number, version) and lowpass in LOWPASSES
            content = store.tile_png(number, version, look, level, row, column) if known else None
            return content is not None and self._send(_PNG, content)
        if match := _INFO.fullmatch(name):
            number = int(match[1])
            return self._known(number) and self._send_json(store.info(number))
        if match := _SPECTRUM.fullmatch(name):
            number, version = int(match[1]), int(match[2])
            if not self._known(number, version):
                return False
            picture, profile = store.spectrum(number, version)
            return self._send(_PNG, picture) if match[3] == "png" else self._send_json(profile)
        if match := _VALUE.fullmatch(name):
            number = int(match[1])
            return self._known(number) and self._send_json(
                store.values(number, float(match[2]), float(match[3]))
            )
        return False

    def _known(self, number: int, version: int = 0) -> bool:
        collection = self.server.store.collection
        return number < len(collection.names) and version < len(collection.labels)

    def _send(self, kind: str, content: bytes) -> bool:
        # Addresses of pictures name the state of their file, those of numbers do not.
        keep = "private, max-age=86400" if kind == _PNG else "no-store"
        self._answer(HTTPStatus.OK, kind, content, {"Cache-Control": keep})
        return True

    def _send_json(self, value: Any) -> bool:
        return self._send(_JSON, json.dumps(value).encode())

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._answer(status, "text/plain; charset=utf-8", why.encode(), {})

    def _answer(
        self, status: HTTPStatus, kind: str, content: bytes, headers: dict[str, str]
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base's name)
        """Say nothing of single requests."""
