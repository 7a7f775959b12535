"""cryoSPARC data sets (.cs): structured NumPy arrays, one row for each exposure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clearice.errors import InputFileError
from clearice.io.atomic import atomic_path
from clearice.io.entries import Listing, number_or_none, path_or_none
from clearice.types import InputItem, ParticlePicks

Table = np.ndarray[Any, Any]

_MOVIE = "movie_blob"
_MICROGRAPHS = ("micrograph_blob_non_dw", "micrograph_blob")
# Endings of two blobs that are the halves of one micrograph.
_HALVES = (("_A", "_B"), ("_even", "_odd"))


def read_cs(path: Path) -> Table:
    """Read a .cs file as it is; nothing in it is ever unpickled.

    Raises:
        InputFileError: The file is missing, damaged, holds Python objects, or is no table.
    """
    if not path.is_file():
        raise InputFileError(path, "does not exist", "check the path")
    with path.open("rb") as handle:
        if handle.read(6) != b"\x93NUMPY":
            raise InputFileError(
                path,
                "is no .cs file in NumPy's format",
                "export the exposures from cryoSPARC again, or give the movies themselves",
            )
        handle.seek(0)
        try:
            table = np.load(handle, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise _unreadable(path, error) from None
    if table.dtype.names is None or table.ndim != 1:
        raise InputFileError(path, "is no table of a cryoSPARC job", "give an exposures .cs file")
    return table


def _unreadable(path: Path, error: Exception) -> InputFileError:
    if "Object arrays" in str(error):
        return InputFileError(
            path,
            "holds pickled Python objects, which could run anything and are never loaded",
            "save it with strings of fixed length (as cryoSPARC does)",
        )
    return InputFileError(path, f"is truncated or damaged ({error})", "copy or export it again")


def write_cs(path: Path, table: Table) -> None:
    """Write a .cs file, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    # By its handle: NumPy would add '.npy' to a name.
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, table, allow_pickle=False)


def list_cs(path: Path) -> Listing:
    """Return what a .cs file lists: halves where it has both, else movies, else micrographs.

    Fields that the file lacks are taken from its passthrough file in the same folder, which has
    the same `uid`s (and from the other way round).

    Raises:
        InputFileError: A file cannot be used, or lists neither movies nor micrographs.
    """
    exposures = _Exposures(path)
    even, odd = exposures.halves()
    movies = exposures.has(_MOVIE) and even is None
    sums = [blob for blob in _MICROGRAPHS if exposures.has(blob)]
    blob = _MOVIE if movies else (even or next(iter(sums), None))
    if blob is None:
        what = "particles" if exposures.has("blob") else "no movies or micrographs"
        raise InputFileError(
            path, f"lists {what}", "give the .cs of an exposures output (movie_blob/path)"
        )
    micrograph = next(iter(sums), blob)
    items = [
        exposures.item(row, _MOVIE if movies else micrograph, even, odd, blob)
        for row in range(exposures.count)
    ]
    return Listing(items, movies)


_LOCATION = tuple(
    f"location/{field}"
    for field in ("micrograph_path", "micrograph_shape", "center_x_frac", "center_y_frac")
)


def read_cs_particles(path: Path) -> list[ParticlePicks]:
    """Read particle centres, each in the pixels of the micrograph that it was picked on.

    A .cs file has them as fractions of the micrograph, whose shape is (rows, columns), from the
    first pixel in the file. Fields that it lacks are taken from its passthrough file, as in
    `list_cs`.

    Source: pyem, `cryosparc_2_cs_particle_locations`.

    Raises:
        InputFileError: The file cannot be used, or has no positions of particles.
    """
    main = read_cs(path)
    tables = [main]
    if any(field not in (main.dtype.names or ()) for field in _LOCATION):
        others = (_aligned(main, read_cs(file)) for file in _companions(path))
        tables += [table for table in others if table is not None]
    columns = [
        next((t[field] for t in tables if field in (t.dtype.names or ())), None)
        for field in _LOCATION
    ]
    if any(column is None for column in columns):
        raise InputFileError(
            path,
            f"has no positions of particles ({_LOCATION[2]})",
            "put the passthrough .cs of the same particles beside it, or give that one",
        )
    found: dict[tuple[str, tuple[int, int]], list[tuple[float, float]]] = {}
    for name, shape, x, y in zip(*columns, strict=True):
        rows, width = int(shape[0]), int(shape[1])
        found.setdefault((_text(name), (rows, width)), []).append(
            (float(x) * width, float(y) * rows)
        )
    return [ParticlePicks(name, xy, shape) for (name, shape), xy in found.items()]


class _Exposures:
    """Rows of a .cs file, completed by those of its passthrough files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        main = read_cs(path)
        self.count = len(main)
        self._tables = [main]
        if f"{_MOVIE}/path" not in (main.dtype.names or ()):
            others = (_aligned(main, read_cs(file)) for file in _companions(path))
            self._tables += [table for table in others if table is not None]

    def _column(self, field: str) -> Table | None:
        return next((t[field] for t in self._tables if field in (t.dtype.names or ())), None)

    def has(self, blob: str) -> bool:
        """Tell whether a blob is there with a path in every row."""
        column = self._column(f"{blob}/path")
        return column is not None and all(path_or_none(_text(value)) for value in column)

    def halves(self) -> tuple[str, str] | tuple[None, None]:
        """Return the two blobs that hold the halves, those without dose weighting first."""
        for micrograph in _MICROGRAPHS:
            for first, second in _HALVES:
                if self.has(micrograph + first) and self.has(micrograph + second):
                    return micrograph + first, micrograph + second
        return None, None

    def item(
        self, row: int, source: str, even: str | None, odd: str | None, sized: str
    ) -> InputItem:
        """Return one row; `sized` is the blob whose pixel size counts."""
        path = self._path_at(row, source)
        if path is None:
            raise InputFileError(self._path, f"has no path in row {row + 1}", "export it again")
        return InputItem(
            path=path,
            even=self._path_at(row, even),
            odd=self._path_at(row, odd),
            pixel_size_angstrom=self._number_at(row, f"{sized}/psize_A"),
            dose_per_frame_e_per_A2=self._dose_per_frame_at(row),
            gain=self._gain_at(row) if source == _MOVIE else None,
        )

    def _path_at(self, row: int, blob: str | None) -> Path | None:
        column = None if blob is None else self._column(f"{blob}/path")
        return None if column is None else path_or_none(_text(column[row]))

    def _number_at(self, row: int, field: str) -> float | None:
        column = self._column(field)
        # Six digits: float32 has no more, and 0.6575 should not become 0.65749997.
        return None if column is None else number_or_none(self._path, field, f"{column[row]:.6g}")

    def _dose_per_frame_at(self, row: int) -> float | None:
        total = self._number_at(row, "mscope_params/total_dose_e_per_A2")
        shape = self._column(f"{_MOVIE}/shape")
        if total is None or shape is None or shape[row][0] < 1:
            return None
        return total / int(shape[row][0])

    def _gain_at(self, row: int) -> Path | None:
        done = self._column(f"{_MOVIE}/is_gain_corrected")
        return None if done is not None and done[row] else self._path_at(row, "gain_ref_blob")


def _companions(path: Path) -> list[Path]:
    """Return the files of the same folder that may complete a .cs file."""
    passthrough = "passthrough" in path.name
    return [f for f in sorted(path.parent.glob("*.cs")) if ("passthrough" in f.name) != passthrough]


def _aligned(main: Table, other: Table) -> Table | None:
    """Return the rows of another table in the order of the main one, or None if some lack."""
    if "uid" not in (main.dtype.names or ()) or "uid" not in (other.dtype.names or ()):
        return None
    if not len(other) or not np.isin(main["uid"], other["uid"]).all():
        return None
    order = np.argsort(other["uid"])
    return other[order[np.searchsorted(other["uid"], main["uid"], sorter=order)]]


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
