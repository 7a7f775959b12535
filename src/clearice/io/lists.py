"""Lists of inputs: RELION's STAR files and cryoSPARC's .cs files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clearice.errors import InputFileError
from clearice.io.cryosparc import list_cs
from clearice.io.entries import resolve
from clearice.io.star import list_star
from clearice.types import InputItem

LIST_SUFFIXES = (".star", ".cs")


def read_input_list(path: Path, *, halves: bool = True) -> list[InputItem]:
    """Read a list of movies, or of micrographs with their halves.

    The paths of a list are relative to its project folder: tried are the current folder, the
    folder of the list and those above it. RELION names the halves that `--even_odd_split` writes
    only in tilt series: where a list of micrographs names none, `NAME_EVN.mrc` and `NAME_ODD.mrc`
    beside them are taken.

    Args:
        path: STAR file (`movies.star`, `corrected_micrographs.star`, `micrographs_ctf.star`, the
            motion metadata of a movie) or .cs file of exposures.
        halves: Also find halves; without, they need not be there.

    Returns:
        One item for each row; single files may be missing.

    Raises:
        InputFileError: The list cannot be read or lists nothing usable, or none of its files
            exists.
    """
    readers = {".star": list_star, ".cs": list_cs}
    if path.suffix.lower() not in readers:
        raise InputFileError(path, "is no STAR or .cs file", "give one of these")
    listing = readers[path.suffix.lower()](path)
    if not halves:
        listed = [replace(item, even=None, odd=None) for item in listing.items]
        return resolve(path, listed)
    items = resolve(path, listing.items)
    return items if listing.movies else _with_halves_beside(items)


def _with_halves_beside(items: Sequence[InputItem]) -> list[InputItem]:
    """Add the halves that stand beside micrographs, to all where any has them."""
    found = [item if item.even else _expected(item) for item in items]
    if not any(_exists(item) for item in found):
        return list(items)
    return found


def _expected(item: InputItem) -> InputItem:
    stem, suffix = item.path.stem, item.path.suffix
    even, odd = (item.path.with_name(f"{stem}_{half}{suffix}") for half in ("EVN", "ODD"))
    return replace(item, even=even, odd=odd)


def _exists(item: InputItem) -> bool:
    return bool(item.even and item.odd and item.even.exists() and item.odd.exists())
