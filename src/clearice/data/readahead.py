"""Read files from end to end before they are needed, which disks and file servers do best."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, final

_CHUNK_BYTES = 4 * 2**20


@final
class ReadAhead:
    """Brings files into the system's page cache, in a thread, in the order of the requests.

    Random crops of a stack on a spinning disk or a file server cost a seek for each row of each
    group; the same bytes in one pass cost one. A file that cannot be read is left to its reader to
    report.
    """

    def __init__(self) -> None:
        self._files: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._requested: set[Path] = set()
        self._stop = threading.Event()
        self._buffer = bytearray(_CHUNK_BYTES)
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._files.put(None)
        self._thread.join()

    def request(self, files: Sequence[Path]) -> None:
        """Ask for files, but for those that were part of the last request; returns at once."""
        for file in files:
            if file not in self._requested:
                self._files.put(file)
        self._requested = set(files)

    def _run(self) -> None:
        while (file := self._files.get()) is not None and not self._stop.is_set():
            self._read(file)

    def _read(self, file: Path) -> None:
        try:
            with file.open("rb", buffering=0) as handle:
                while not self._stop.is_set() and handle.readinto(self._buffer):
                    pass
        except OSError:
            return
