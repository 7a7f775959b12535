"""Outputs appear whole or not at all: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clearice.errors import OutputError

TEMPORARY_SUFFIX = ".partial"


def ensure_folder(path: Path) -> Path:
    """Create a folder (with its parents) and check that it can be written to.

    Raises:
        OutputError: It cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot create this folder ({error.strerror}); choose another --out"
        ) from None
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"{path}: folder is not writable ({error.strerror}); choose another --out"
        ) from None
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is flushed and renamed to `path`.

    Raises:
        OutputError: The file cannot be written (folder missing, no permission, disk full).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another "
            "--out"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def copy_file(source: Path, path: Path) -> None:
    """Copy a file atomically.

    Raises:
        OutputError: It cannot be written.
    """
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def remove_partials(folder: Path) -> None:
    """Remove what a killed run left half-written; only for a folder that one process writes to."""
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append a line to a journal and flush it to disk; a kill can cut the last line short.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(f"{line}\n")
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another --out"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
