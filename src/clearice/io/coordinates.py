"""Particle coordinates: STAR tables, cryoSPARC's .cs files, EMAN's .box files.

RELION and EMAN count pixels from the first one of the file, x along columns and y along rows, as
images are read here; pictures in some programs have that row at the bottom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from clearice.errors import InputFileError
from clearice.io.cryosparc import read_cs_particles
from clearice.io.formats import stem
from clearice.io.star import read_star
from clearice.types import ParticlePicks

_X, _Y, _NAME = "rlnCoordinateX", "rlnCoordinateY", "rlnMicrographName"
_REMEDY = "write or copy it again"


def read_coordinates(path: Path, micrographs: Sequence[str]) -> dict[str, ParticlePicks]:
    """Read the particles of micrographs.

    A table that names micrographs is matched by these names, without folders and suffix. A file
    that names none (RELION's `NAME_autopick.star`, `NAME.box`) belongs to the micrograph whose
    name it has or begins with, before an underscore; or, given by itself, to the only micrograph.

    Args:
        path: STAR, .cs or .box file, or a folder of them.
        micrographs: Names without folder and suffix.

    Returns:
        Particles by name; micrographs of which the files say nothing are not there.

    Raises:
        InputFileError: A file cannot be used, two of them have the particles of one micrograph,
            or none of the micrographs is there.
    """
    found: dict[str, ParticlePicks] = {}
    origin: dict[str, str] = {}
    seen: list[str] = []
    for file in _files(path):
        for picks in _read(file):
            name = _owner(file, picks.micrograph, micrographs, alone=file == path)
            seen.append(picks.micrograph or file.name)
            if name is None:
                continue
            if name in found:
                raise InputFileError(
                    file,
                    f"has particles of {name}, as {origin[name]} has",
                    "give one file for each micrograph, and names that differ",
                )
            found[name] = ParticlePicks(name, picks.xy, picks.shape)
            origin[name] = picks.micrograph or file.name
    if not found:
        names = f"{seen[0]}" if seen else "nothing"
        raise InputFileError(
            path, f"has particles of {names}, but not of {micrographs[0]}", "names must be the same"
        )
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [f for f in sorted(path.iterdir()) if f.suffix.lower() in (".star", ".box")]
    if not files:
        raise InputFileError(path, "holds no .star or .box files", "check the folder")
    return files


def _owner(file: Path, named: str, micrographs: Sequence[str], *, alone: bool) -> str | None:
    """Return the micrograph that picks belong to."""
    if named:
        name = stem(Path(named))
        return name if name in micrographs else None
    if alone and len(micrographs) == 1:
        return micrographs[0]
    fits = [m for m in micrographs if file.stem == m or file.stem.startswith(f"{m}_")]
    return max(fits, key=len, default=None)


def _read(path: Path) -> list[ParticlePicks]:
    """Read one file; picks whose micrograph it does not name are under an empty name."""
    match path.suffix.lower():
        case ".star":
            return _read_star_particles(path)
        case ".cs":
            return read_cs_particles(path)
        case ".box":
            return [ParticlePicks("", _read_box(path))]
        case _:
            raise InputFileError(path, "is no STAR, .cs or .box file", "give one of these")


def _read_star_particles(path: Path) -> list[ParticlePicks]:
    table = next((t for t in read_star(path).values() if _X in t and _Y in t), None)
    if table is None:
        raise InputFileError(
            path, "has no particle coordinates", f"give a table with _{_X} and _{_Y}"
        )
    names = table.get(_NAME, [""] * len(table[_X]))
    found: dict[str, list[tuple[float, float]]] = {}
    if _NAME not in table:
        found[""] = []
    for row, (name, x, y) in enumerate(zip(names, table[_X], table[_Y], strict=True), 1):
        where = f"row {row}"
        found.setdefault(name, []).append((_number(path, where, x), _number(path, where, y)))
    return [ParticlePicks(name, xy) for name, xy in found.items()]


def _read_box(path: Path) -> list[tuple[float, float]]:
    """Return the centres of boxes: lines of a corner (x, y), width and height in px.

    Source: EMAN 1 and 2 (`e2boxer.py`), whose corner is the one nearest the first pixel.
    """
    if not path.is_file():
        raise InputFileError(path, "does not exist", "check the path")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputFileError(path, "is no .box file (it is not text)", "check the file") from None
    centres = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 4:
            raise InputFileError(path, f"line {number} is no box (x, y, width, height)", _REMEDY)
        x, y, width, height = (_number(path, f"line {number}", word) for word in words[:4])
        if len(words) > 4 and _number(path, f"line {number}", words[4]) < 0:
            raise InputFileError(path, "marks filaments, not particles", "give single particles")
        centres.append((x + width / 2, y + height / 2))
    return centres


def _number(path: Path, where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputFileError(path, f"{where} has '{text}' where a number should be", _REMEDY)
    return value
