"""One comparison at a time in a folder."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clearice import io
from clearice.errors import OutputError

LOCK_NAME = ".lock"
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


@contextmanager
def alone_in(folder: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Hold a folder until the end, and as long as a process that inherits the lock lives.

    The system releases the lock of a process that dies, so no lock is ever stale.

    Args:
        folder: Created if need be.
        say: Called with a warning where the file system has no locks.

    Yields:
        The descriptor that holds the lock.

    Raises:
        OutputError: Another process holds it, or the folder cannot be written to.
    """
    io.ensure_folder(folder)
    path = folder / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        _take(descriptor, path, say)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, say: Callable[[str], None]) -> None:
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno not in _TAKEN:
            say(
                f"warning: {path} cannot be locked ({error.strerror}): let no other comparison "
                "write there"
            )
            return
        raise OutputError(
            f"{path.parent}: another 'clearice compare' is at work there{_holder(path)}; wait "
            "until it and its trainings have ended, or choose another --out"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def _holder(path: Path) -> str:
    number = ""
    with suppress(OSError):  # Windows lets nobody else read it
        number = path.read_text(encoding="ascii", errors="replace").strip()
    return f", started as process {number}" if number.isdigit() else ""


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
