"""A real Chromium without a window, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SECONDS = 20.0


def find_chromium() -> str | None:
    """Return the program, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page: events that came meanwhile are kept in `events`."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 0), _SECONDS)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._stream = self._socket.makefile("rb")
        assert b"101" in self._stream.readline()
        while self._stream.readline() != b"\r\n":
            pass
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._socket.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        self._send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._receive())
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression in the page is true."""
        end = time.monotonic() + _SECONDS
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"never came true: {script}"
            time.sleep(0.03)

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send `mousePressed`, `mouseMoved`, `mouseReleased` or `mouseWheel`."""
        held = {"button": "left", "buttons": 1, "clickCount": 1} if kind != "mouseWheel" else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held, **more)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag with the left button."""
        self.mouse("mousePressed", *start)
        self.mouse("mouseMoved", *end)
        self.mouse("mouseReleased", *end)

    def troubles(self) -> list[str]:
        """Return errors and warnings of scripts, requests and policies so far."""
        self.run("0")
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        found = [json.dumps(event) for event in self.events if event.get("method") in kinds]
        # A hint that tests cause, which look at pixels.
        return [text for text in found if "willReadFrequently" not in text]

    def _send(self, text: str) -> None:
        payload, mask = text.encode(), os.urandom(4)
        size = len(payload)
        head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
        masked = bytes(byte ^ mask[k % 4] for k, byte in enumerate(payload))
        self._socket.sendall(head + mask + masked)

    def _receive(self) -> str:
        text = b""
        while True:
            first, second = self._stream.read(2)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(self._stream.read(2 if size == 126 else 8), "big")
            text += self._stream.read(size)
            if first & 0x80:
                return text.decode()


@contextmanager
def open_page(address: str, folder: Path, size: tuple[int, int] = (1280, 800)) -> Iterator[Page]:
    """Open an address in a Chromium of its own, whose files stand in `folder`."""
    program = find_chromium()
    assert program is not None
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += [f"--user-data-dir={folder}", "--remote-debugging-port=0"]
    command += [f"--window-size={size[0]},{size[1]}", "about:blank"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            port_file = folder / "DevToolsActivePort"
            end = time.monotonic() + _SECONDS
            while not port_file.is_file() or "\n" not in port_file.read_text():
                assert time.monotonic() < end, "Chromium did not start"
                time.sleep(0.05)
            port = port_file.read_text().splitlines()[0]
            new = Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
            with urlopen(new, timeout=_SECONDS) as answer:
                page = Page(json.load(answer)["webSocketDebuggerUrl"])
            width, height = size
            page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=False,
            )
            for domain in ("Runtime", "Log", "Page"):
                page.call(f"{domain}.enable")
            page.call("Page.navigate", url=address)
            yield page
            page.close()
        finally:
            process.terminate()
