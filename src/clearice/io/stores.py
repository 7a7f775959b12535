"""Bytes of a file as they are once decompressed, read piece by piece."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np

from clearice.errors import InputFileError
from clearice.io.sections import Pixels, one_line, reading

_CHUNK_BYTES = 1 << 24
_MAGIC_BYTES = 3


_Opener = Callable[[Path], gzip.GzipFile | bz2.BZ2File]
_OPENERS: dict[bytes, _Opener] = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File}


class Store(Protocol):
    """Where the bytes of a file come from."""

    def read(self, offset: int, count: int) -> Pixels:
        """Return up to `count` bytes, fewer where the file ends."""
        ...


@final
@dataclass(frozen=True)
class PlainStore:
    """A file that is opened anew for each read, so that nothing open crosses processes."""

    path: Path

    def read(self, offset: int, count: int) -> Pixels:
        with reading(self.path):
            return np.fromfile(self.path, dtype=np.uint8, count=count, offset=offset)


@final
class CompressedStore:
    """A gzip or bzip2 file, decompressed to memory as a whole at the first read.

    It takes `size` bytes of memory, however long the file goes on, until it is dropped, and does
    not take them to other processes. Checksums are checked.

    Args:
        path: The file.
        opener: Opens it for decompression.
        size: How many bytes are needed of it.
    """

    def __init__(self, path: Path, opener: _Opener, size: int) -> None:
        self._path = path
        self._opener = opener
        self._size = size
        self._whole: Pixels | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_whole": None}

    def read(self, offset: int, count: int) -> Pixels:
        if self._whole is None:
            # One byte more makes the decompressor reach the end, where it checks its sum.
            content = _decompress(self._path, self._opener, self._size + 1)
            self._whole = np.frombuffer(content, dtype=np.uint8)
        return self._whole[offset : offset + count]


def read_head(path: Path, count: int) -> bytes:
    """Return the first bytes of a file, decompressed if it is compressed.

    Raises:
        InputFileError: The file cannot be read or decompressed.
    """
    head = PlainStore(path).read(0, count).tobytes()
    opener = _opener(head)
    return head if opener is None else bytes(_decompress(path, opener, count))


def is_compressed(path: Path) -> bool:
    """Tell from its first bytes whether a file is compressed with gzip or bzip2."""
    return _opener(PlainStore(path).read(0, _MAGIC_BYTES).tobytes()) is not None


def open_store(path: Path, size: int) -> PlainStore | CompressedStore:
    """Return where the bytes of a file come from, of which `size` are needed."""
    opener = _opener(PlainStore(path).read(0, _MAGIC_BYTES).tobytes())
    return PlainStore(path) if opener is None else CompressedStore(path, opener, size)


def _opener(head: bytes) -> _Opener | None:
    return next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)


def _decompress(path: Path, opener: _Opener, count: int) -> memoryview:
    """Return up to `count` bytes."""
    content = bytearray()
    with reading(path):
        try:
            with opener(path) as stream:
                while chunk := stream.read(min(_CHUNK_BYTES, count - len(content))):
                    content += chunk
        except (EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InputFileError(
                path,
                f"is truncated or damaged ({one_line(error)})",
                "copy or export it again",
            ) from None
    return memoryview(content).toreadonly()
