"""RELION lists of what was denoised, made from the list that was given."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

from clearice import io
from clearice.denoise.plan import is_list
from clearice.errors import ConfigError, InputFileError

DENOISED_NAME = "micrographs_denoised.star"
PAIRS_NAME = "micrographs_pairs.star"
PICKS_NAME = "coordinates_raw.star"
_NAME, _MOVIE, _EVEN = "rlnMicrographName", "rlnMicrographMovieName", "rlnMicrographNameEven"
# RELION has no label for it, and carries along those that it does not know.
_DENOISED = "rlnMicrographNameDenoised"
_COORDINATES = "rlnMicrographCoordinates"


def require_lists(inputs: Sequence[Path]) -> list[Path]:
    """Return the STAR list among the inputs, if there is one.

    Raises:
        ConfigError: There are several inputs beside a list, whose rows would be mixed.
        InputFileError: It lists no micrographs.
    """
    lists = [path for path in inputs if is_list(path)]
    if lists and len(inputs) > 1:
        raise ConfigError(f"{lists[0]} is a list: give it alone, or micrographs without it")
    for path in lists:
        _micrographs(path, io.read_star(path))
    return lists


def write_lists(
    path: Path, targets: Sequence[Path], finished: Set[Path], out: Path
) -> tuple[Path, Path]:
    """Write the list of the denoised micrographs, and that of raw ones with their denoised ones.

    Both keep the order, all columns and all other tables, such as the optics groups; micrographs
    that failed are left out.

    Args:
        path: The list that was given.
        targets: The result of each of its rows.
        finished: Those that are there.
        out: Folder for the two lists.

    Returns:
        The two lists.

    Raises:
        InputFileError: The list is damaged.
        OutputError: A list cannot be written.
    """
    blocks = io.read_star(path)
    name = _micrographs(path, blocks)
    rows = [row for row, target in enumerate(targets) if target in finished]
    raw = {label: [column[row] for row in rows] for label, column in blocks[name].items()}
    denoised = [str(targets[row]) for row in rows]
    files = (out / DENOISED_NAME, out / PAIRS_NAME)
    for file, table in zip(
        files, ({**raw, _NAME: denoised}, {**raw, _DENOISED: denoised}), strict=True
    ):
        io.write_star(file, {**blocks, name: table})
    return files


def write_raw_picks(pairs: Path, picks: Path, out: Path) -> tuple[Path, int]:
    """Write a list of picks made on denoised micrographs anew, for the raw ones.

    Args:
        pairs: Raw and denoised micrographs, from `write_lists`.
        picks: RELION's list of micrographs and their files of coordinates (`autopick.star`).
        out: Folder for the new list.

    Returns:
        The list, and of how many micrographs it has picks. Names that are raw already stay.

    Raises:
        InputFileError: A list is damaged or of another kind, or names a micrograph that is not
            among the pairs.
        OutputError: The list cannot be written.
    """
    table = _table_with(pairs, _DENOISED, f"give {PAIRS_NAME}, which `clearice` wrote")
    raw_of = dict(zip(table[_DENOISED], table[_NAME], strict=True))
    raw_of |= {raw: raw for raw in table[_NAME]}
    listed = _table_with(picks, _COORDINATES, "give autopick.star, or such, of RELION 4 or later")
    for name in listed[_NAME]:
        if name not in raw_of:
            raise InputFileError(
                picks, f"has picks of {name}, which {pairs} does not name", "give the list it is of"
            )
    new = {**listed, _NAME: [raw_of[name] for name in listed[_NAME]]}
    io.write_star(out / PICKS_NAME, {"coordinate_files": new})
    return out / PICKS_NAME, len(listed[_NAME])


def _table_with(path: Path, label: str, remedy: str) -> dict[str, list[str]]:
    for table in io.read_star(path).values():
        if _NAME in table and label in table:
            return table
    raise InputFileError(path, f"has no table with _{_NAME} and _{label}", remedy)


def _micrographs(path: Path, blocks: dict[str, dict[str, list[str]]]) -> str:
    """Return the name of the table of micrographs."""
    for name, table in blocks.items():
        if _NAME in table and (_MOVIE not in table or _EVEN in table):
            return name
    raise InputFileError(
        path,
        "lists no micrographs",
        "give a list with _rlnMicrographName, such as corrected_micrographs.star or "
        "micrographs_ctf.star",
    )
