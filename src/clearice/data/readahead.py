"""Read files from end to end before they are needed, which disks and file servers do best."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, final

_CHUNK_BYTES = 4 * 2**20


@final
class ReadAhead:
    """Brings files into the system's page cache, in a thread, in the order of the last request.

    Random crops of a stack on a spinning disk or a file server cost a seek for each row of each
    group; the same bytes in one pass cost one. A file that cannot be read is left to its reader to
    report.
    """

    def __init__(self) -> None:
        self._wanted: list[Path] = []
        self._read_already: set[Path] = set()
        self._changed = threading.Condition()
        self._stopped = False
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
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def request(self, files: Sequence[Path]) -> None:
        """Ask for files in place of those asked for before; returns at once.

        Files that were read for the last request are not read again for this one.
        """
        with self._changed:
            self._read_already &= set(files)
            self._wanted = [file for file in files if file not in self._read_already]
            self._changed.notify()

    def _next(self) -> Path | None:
        """Wait for a file to read; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or bool(self._wanted))
            if self._stopped:
                return None
            file = self._wanted.pop(0)
            self._read_already.add(file)
            return file

    def _run(self) -> None:
        while (file := self._next()) is not None:
            self._read(file)

    def _read(self, file: Path) -> None:
        try:
            with file.open("rb", buffering=0) as handle:
                while not self._stopped and handle.readinto(self._buffer):
                    pass
        except OSError:
            return
