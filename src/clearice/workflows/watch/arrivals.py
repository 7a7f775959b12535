"""Files that arrive in a folder: found by looking again and again, taken once they are whole.

Looking works on every disk, also those of the network, which tell nobody of changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from clearice import io
from clearice.denoise import walk_micrographs
from clearice.errors import InputFileError

# Looks during which a file may stay cut short without a change: copies stall.
_PATIENCE = 5


@dataclass(frozen=True)
class Stamp:
    """What tells that a file has changed."""

    size: int
    changed_ns: int


@dataclass
class _Watched:
    stamp: Stamp
    state: Literal["arriving", "taken"] = "arriving"
    looks: int = 0


@final
class Arrivals:
    """The micrographs of a folder, and which of them were given out.

    A file counts as whole when its size and time have not changed from one look to the next, and
    its header asks for no more bytes than are there. One that stays cut short is given out all
    the same after some looks, so that whoever reads it says what is wrong.

    Args:
        folder: Where they arrive, with all below it.
        out: Left out.
        known: Absolute paths of what an earlier run has denoised, which counts as whole at once
            while it is unchanged.
    """

    def __init__(self, folder: Path, out: Path, known: Mapping[Path, Stamp]) -> None:
        self._folder = folder
        self._out = out
        self._known = known
        self._files: dict[Path, _Watched] = {}

    def look(self, *, last: bool = False) -> list[Path]:
        """Return the files that are whole and were not given out as they are.

        Args:
            last: There is no further look: have no patience with what is cut short.
        """
        files = walk_micrographs(self._folder, self._out)
        found = {path: stamp for path in files if (stamp := stamp_of(path)) is not None}
        for path in self._files.keys() - found.keys():
            del self._files[path]
        return [path for path, stamp in found.items() if self._is_ready(path, stamp, last=last)]

    @property
    def arriving(self) -> int:
        """How many files are there that are not whole yet."""
        return sum(file.state == "arriving" for file in self._files.values())

    def _is_ready(self, path: Path, stamp: Stamp, *, last: bool) -> bool:
        file = self._files.get(path)
        if file is None or file.stamp != stamp:
            file = self._files[path] = _Watched(stamp)
            ready = self._known.get(path.absolute()) == stamp
        elif file.state == "taken":
            return False
        else:
            file.looks += 1
            ready = last or file.looks >= _PATIENCE or _is_whole(path, stamp)
        if ready:
            file.state = "taken"
        return ready


def stamp_of(path: Path) -> Stamp | None:
    """Return the size and time of a file; None if it has gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return Stamp(stat.st_size, stat.st_mtime_ns)


def _is_whole(path: Path, stamp: Stamp) -> bool:
    if not stamp.size:
        return False
    try:
        io.image_shape(path)
    except (InputFileError, OSError):
        return False
    return True
