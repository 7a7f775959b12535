"""STAR files: tables as RELION reads and writes them, and particle coordinates.

`gemmi` writes the coordinates. Reading is line by line, as in RELION: a CIF parser refuses names
that RELION allows (`data_001.tif`, `_001.tif`, letters beyond ASCII).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import gemmi

from clearice.errors import InputFileError, OutputError
from clearice.io.atomic import atomic_path, write_text
from clearice.io.entries import Listing, number_or_none, path_or_none
from clearice.types import InputItem, ParticlePicks

Table = dict[str, list[str]]

# ASCII: a no-break space in a path separates nothing.
_WORD = re.compile(r"""'(?:[^']|'(?=\S))*'(?=\s|$)|"(?:[^"]|"(?=\S))*"(?=\s|$)|\S+""", re.ASCII)
# Words with a meaning of their own, in whichever case, for parsers that follow CIF.
_RESERVED = "(?!data_|loop_|save_|stop_|global_)"
_BARE = re.compile(rf"""{_RESERVED}[^\s'"#$_;][^\s'"]*""", re.ASCII | re.IGNORECASE)
_PLAIN = re.compile(rf"{_RESERVED}[a-z0-9][a-z0-9._/@+-]*", re.ASCII | re.IGNORECASE)
_REMEDY = "write or copy it again"


def write_coordinates(path: Path, picks: Sequence[ParticlePicks]) -> None:
    """Write particle centres as RELION coordinates (px from the first pixel, x along columns)."""
    document = gemmi.cif.Document()
    block = document.add_new_block("particles")
    loop = block.init_loop("_rln", ["MicrographName", "CoordinateX", "CoordinateY"])
    for pick in picks:
        # Quotes only where a name needs them: many STAR readers split lines at spaces.
        plain = _PLAIN.fullmatch(pick.micrograph)
        name = pick.micrograph if plain else gemmi.cif.quote(pick.micrograph)
        for x, y in pick.xy:
            loop.add_row([name, f"{x:.3f}", f"{y:.3f}"])
    write_text(path, document.as_string())


def read_star(path: Path) -> dict[str, Table]:
    """Read all tables of a STAR file.

    Args:
        path: STAR file with at most one table in a block, as RELION writes them.

    Returns:
        Columns of each block, keyed by the block's name without `data_` (which may be empty); the
        columns are keyed by their labels without the underscore. A list of single values
        (`_rlnImageSizeX 3710`) is a table of one row.

    Raises:
        InputFileError: The file is missing, no STAR file, truncated or damaged.
    """
    reader = _Reader(path)
    for number, line in enumerate(_read_lines(path), 1):
        words = _words(line)
        if words:
            reader.take(number, words)
    if not reader.blocks:
        raise InputFileError(path, "is no STAR file (it has no line 'data_…')", "check the file")
    return reader.blocks


def write_star(path: Path, blocks: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Write tables as `read_star` returns them, atomically.

    Raises:
        OutputError: Columns of one block differ in length, a value can be quoted in no way, or the
            file cannot be written.
    """
    text = "\n".join(_block_text(path, name, table) for name, table in blocks.items())
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def _block_text(path: Path, name: str, table: Mapping[str, Sequence[str]]) -> str:
    if len({len(column) for column in table.values()}) > 1:
        raise OutputError(f"{path}: columns of 'data_{name}' differ in length; nothing was written")
    labels = [f"_{label} #{number}" for number, label in enumerate(table, 1)]
    rows = (" ".join(_quoted(path, v) for v in row) for row in zip(*table.values(), strict=True))
    return "\n".join([f"data_{name}", "", "loop_", *labels, *rows, ""])


def _quoted(path: Path, value: str) -> str:
    """Return a value as one word, with quotes only where it needs them."""
    if _BARE.fullmatch(value):
        return value
    for quote in "'\"":
        if quote not in value and not re.search(r"[\r\n]", value):
            return f"{quote}{value}{quote}"
    raise OutputError(f"{path}: {value!r} cannot be a value of a STAR file; rename it")


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputFileError(path, "does not exist", "check the path")
    data = path.read_bytes()
    if b"\0" in data:
        raise InputFileError(path, "is no STAR file (it is not text)", "check the file")
    # Undecodable bytes of a path come back as the file system itself spells them.
    return data.decode("utf-8-sig", "surrogateescape").split("\n")


def _words(line: str) -> list[str]:
    words: list[str] = []
    for match in _WORD.finditer(line):
        if match[0].startswith("#"):
            break
        words.append(match[0])
    return words


def _unquoted(word: str) -> str:
    quoted = len(word) > 1 and word[0] in "'\"" and word[-1] == word[0]
    return word[1:-1] if quoted else word


class _Reader:
    """Tables so far, and where in the current one the next line belongs."""

    def __init__(self, path: Path) -> None:
        self.blocks: dict[str, Table] = {}
        self._path = path
        self._table: Table | None = None
        self._looping = False
        self._rows = 0

    def take(self, number: int, words: list[str]) -> None:
        """Take one line that is not empty."""
        if len(words) == 1 and words[0].startswith("data_"):
            self._start_block(number, words[0][5:])
        elif self._table is None:
            raise self._refusal(number, "a value outside of any block")
        elif words == ["loop_"]:
            if self._table:
                raise self._refusal(number, "a second table in one block")
            self._looping = True
        elif self._looping and not self._rows and len(words) == 1 and words[0].startswith("_"):
            self._add_column(number, words[0], [])
        elif self._looping:
            self._add_row(number, words)
        elif len(words) == 2 and words[0].startswith("_"):
            self._add_column(number, words[0], [_unquoted(words[1])])
        else:
            raise self._refusal(number, "neither a label with its value nor 'loop_'")

    def _start_block(self, number: int, name: str) -> None:
        if name in self.blocks:
            raise self._refusal(number, f"a second block 'data_{name}'")
        self._table = self.blocks[name] = {}
        self._looping, self._rows = False, 0

    def _add_column(self, number: int, label: str, values: list[str]) -> None:
        if self._table is None or label[1:] in self._table:
            raise self._refusal(number, f"a second column '{label}'")
        self._table[label[1:]] = values

    def _add_row(self, number: int, words: list[str]) -> None:
        columns = list((self._table or {}).values())
        if len(words) != len(columns):
            raise self._refusal(number, f"{len(words)} values for {len(columns)} columns")
        for column, word in zip(columns, words, strict=True):
            column.append(_unquoted(word))
        self._rows += 1

    def _refusal(self, number: int, what: str) -> InputFileError:
        return InputFileError(self._path, f"line {number} has {what}", _REMEDY)


_EVEN, _ODD = "rlnMicrographNameEven", "rlnMicrographNameOdd"
_MOVIE, _MICROGRAPH = "rlnMicrographMovieName", "rlnMicrographName"
_PARTICLES = ("rlnImageName", "rlnCoordinateX")
# A movie has the pixels of the camera, a micrograph those after binning.
_PIXEL_SIZES = ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize")


def list_star(path: Path) -> Listing:
    """Return what a STAR file lists: halves where it names them, else movies, else micrographs.

    Read are `movies.star`, `corrected_micrographs.star`, `micrographs_ctf.star`, the motion
    metadata of one movie, tilt-series tables with even and odd columns, with or without optics.

    Raises:
        InputFileError: The file is no STAR file, or lists neither movies nor micrographs.
    """
    blocks = read_star(path)
    table = next((t for t in blocks.values() if _MOVIE in t or _MICROGRAPH in t), None)
    if table is None or any(label in table for label in _PARTICLES):
        what = "no movies or micrographs" if table is None else "particles"
        raise InputFileError(
            path,
            f"lists {what}",
            "give a list with _rlnMicrographMovieName or _rlnMicrographName, such as movies.star "
            "or corrected_micrographs.star",
        )
    halves = _EVEN in table and _ODD in table
    movies = _MOVIE in table and not (halves and _MICROGRAPH in table)
    rows = _Rows(path, table, blocks.get("optics", {}))
    count = len(table[_MOVIE if movies else _MICROGRAPH])
    return Listing([_item(rows, row, movies, halves) for row in range(count)], movies)


def _item(rows: _Rows, row: int, movies: bool, halves: bool) -> InputItem:
    path = rows.path_at(row, _MOVIE if movies else _MICROGRAPH)
    if path is None:
        raise InputFileError(rows.path, f"has no name in row {row + 1}", _REMEDY)
    return InputItem(
        path=path,
        even=rows.path_at(row, _EVEN) if halves else None,
        odd=rows.path_at(row, _ODD) if halves else None,
        pixel_size_angstrom=rows.pixel_size_at(row, movies),
        dose_per_frame_e_per_A2=rows.number_at(row, "rlnMicrographDoseRate"),
        gain=rows.path_at(row, "rlnMicrographGainName") if movies else None,
    )


class _Rows:
    """Rows of a table, completed by those of their optics groups."""

    def __init__(self, path: Path, table: Table, optics: Table) -> None:
        self.path = path
        self._table = table
        self._optics = optics
        self._groups = {group: at for at, group in enumerate(optics.get("rlnOpticsGroup", []))}

    def _text_at(self, row: int, label: str) -> str:
        if label in self._table:
            return self._table[label][row]
        if label not in self._optics or "rlnOpticsGroup" not in self._table:
            return ""
        group = self._table["rlnOpticsGroup"][row]
        if group not in self._groups:
            raise InputFileError(
                self.path, f"row {row + 1} is of optics group {group}, which is not there", _REMEDY
            )
        return self._optics[label][self._groups[group]]

    def path_at(self, row: int, label: str) -> Path | None:
        return path_or_none(self._text_at(row, label))

    def number_at(self, row: int, label: str) -> float | None:
        return number_or_none(self.path, label, self._text_at(row, label))

    def pixel_size_at(self, row: int, movies: bool) -> float | None:
        for label in _PIXEL_SIZES if movies else reversed(_PIXEL_SIZES):
            size = self.number_at(row, label)
            if size is not None:
                return size
        pixel_um = self.number_at(row, "rlnDetectorPixelSize")
        magnification = self.number_at(row, "rlnMagnification")
        if pixel_um is None or magnification is None:
            return None
        return 1e4 * pixel_um / magnification
