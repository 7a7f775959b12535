"""Which format a file has: by its first bytes where they tell, else by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from clearice.io.stores import PlainStore

Format = Literal["mrc", "tiff", "eer", "png", "dm"]

_MRC_SUFFIXES = (".mrc", ".mrcs", ".st")
_COMPRESSED_SUFFIXES = tuple(s + c for c in (".gz", ".bz2") for s in _MRC_SUFFIXES)
_TIFF_SUFFIXES = (".tif", ".tiff")
# Lower-case; names are compared without regard to case.
MOVIE_SUFFIXES = (*_MRC_SUFFIXES, *_COMPRESSED_SUFFIXES, *_TIFF_SUFFIXES, ".eer")
MICROGRAPH_SUFFIXES = (*_MRC_SUFFIXES, *_COMPRESSED_SUFFIXES, *_TIFF_SUFFIXES, ".png")
# Gain references as Falcon cameras write them: TIFF files.
GAIN_SUFFIX = ".gain"

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_BY_SUFFIX: dict[str, Format] = {
    ".tif": "tiff",
    ".tiff": "tiff",
    GAIN_SUFFIX: "tiff",
    ".eer": "eer",
    ".png": "png",
    ".dm3": "dm",
    ".dm4": "dm",
}


def format_of(path: Path) -> Format:
    """Tell the format of a file that exists; EER movies are told from TIFF by their name alone."""
    head = PlainStore(path).read(0, len(PNG_MAGIC)).tobytes()
    by_suffix = _BY_SUFFIX.get(path.suffix.lower(), "mrc")
    if head.startswith(TIFF_MAGICS):
        return "eer" if by_suffix == "eer" else "tiff"
    if head == PNG_MAGIC:
        return "png"
    return by_suffix


def is_movie_name(path: Path) -> bool:
    """Tell whether a file can be a movie, going by its name."""
    return path.name.lower().endswith(MOVIE_SUFFIXES)


def is_micrograph_name(path: Path) -> bool:
    """Tell whether a file can be a micrograph, going by its name."""
    return path.name.lower().endswith(MICROGRAPH_SUFFIXES)


def stem(path: Path) -> str:
    """Return the name without the suffix of its format, which may be double (`.mrc.gz`)."""
    name = path.name
    known = [s for s in (*MOVIE_SUFFIXES, *MICROGRAPH_SUFFIXES) if name.lower().endswith(s)]
    return name[: -max(map(len, known))] if known else path.stem
