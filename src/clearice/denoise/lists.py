"""RELION lists of what was denoised, made from the list that was given."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

from clearice import io
from clearice.denoise.plan import is_list
from clearice.errors import ConfigError, InputFileError

DENOISED_NAME = "micrographs_denoised.star"
PAIRS_NAME = "micrographs_pairs.star"
_NAME, _MOVIE, _EVEN = "rlnMicrographName", "rlnMicrographMovieName", "rlnMicrographNameEven"
# RELION has no label for it, and carries along those that it does not know.
_DENOISED = "rlnMicrographNameDenoised"


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
