"""The chain of pages of a TIFF file, walked to find out how many of them are whole.

TIFF readers stop without an error where a chain breaks off, so that a truncated movie looks like a
shorter one.

Source: TIFF Revision 6.0 (Adobe, 1992), section 2; The BigTIFF File Format (Aware Systems).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from clearice.errors import InputFileError
from clearice.io.formats import TIFF_MAGICS
from clearice.io.sections import Pixels, reading, require_file

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _COMPRESSION = 254, 256, 257, 259
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325
_METADATA, _RUN_BITS = 65001, 65007
_WANTED = (
    *(_SUBFILE_TYPE, _WIDTH, _HEIGHT, _COMPRESSION),
    *(_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _METADATA, _RUN_BITS),
)
# Types of values by their number in TIFF; UNDEFINED (7) is what EER metadata come as.
_TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8"}


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        width: Columns as the tag says; 0 where there is none.
        height: Rows.
        compression: Number of the compression scheme.
        reduced: It is a thumbnail of another page.
        whole: All of its pixels are in the file.
        offsets: Where its strips or tiles stand.
        byte_counts: How long they are.
        metadata: Metadata of an EER movie (tag 65001), empty if there are none.
        run_bits: Bits of a run in an EER movie (tag 65007), 0 if not told.
    """

    width: int
    height: int
    compression: int
    reduced: bool
    whole: bool
    offsets: Pixels
    byte_counts: Pixels
    metadata: bytes
    run_bits: int


@dataclass(frozen=True)
class Chain:
    """All pages.

    Attributes:
        pages: As far as the chain goes.
        cut: The chain goes on beyond the end of the file.
    """

    pages: tuple[Page, ...]
    cut: bool

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.cut and all(page.whole for page in self.pages)

    @property
    def n_whole(self) -> int:
        """How many pages before the first that is not whole."""
        ends = (index for index, page in enumerate(self.pages) if not page.whole)
        return next(ends, len(self.pages))


class _CutError(Exception):
    """The file ends before what was to be read."""


@dataclass(frozen=True)
class _Layout:
    """How numbers are written: byte order, and type of offsets."""

    file: IO[bytes]
    size: int
    order: str
    big: bool

    def bytes_at(self, offset: int, count: int) -> bytes:
        if offset < 0 or offset + count > self.size:
            raise _CutError
        self.file.seek(offset)
        return self.file.read(count)

    def number_at(self, offset: int, kind: str) -> int:
        dtype = np.dtype(self.order + kind)
        return int(np.frombuffer(self.bytes_at(offset, dtype.itemsize), dtype=dtype)[0])


def read_chain(path: Path) -> Chain:
    """Walk the pages of a TIFF or BigTIFF file, reading none of their pixels.

    Raises:
        InputFileError: The file is missing, empty, no TIFF file, or its pages go round in a circle.
    """
    require_file(path)
    with reading(path), path.open("rb") as file:
        layout = _layout(path, file)
        pages: list[Page] = []
        seen: set[int] = set()
        try:
            offset = layout.number_at(8 if layout.big else 4, "u8" if layout.big else "u4")
            while offset:
                if offset in seen:
                    raise InputFileError(
                        path, "is damaged (its pages go round in a circle)", "copy it again"
                    )
                seen.add(offset)
                page, offset = _read_page(layout, offset)
                pages.append(page)
        except _CutError:
            return Chain(tuple(pages), cut=True)
    return Chain(tuple(pages), cut=False)


def _layout(path: Path, file: IO[bytes]) -> _Layout:
    magic = file.read(4)
    if magic not in TIFF_MAGICS:
        raise InputFileError(
            path, f"is not a TIFF file (it begins with {magic!r})", "export it as TIFF or MRC"
        )
    return _Layout(file, path.stat().st_size, "<" if magic[:1] == b"I" else ">", b"+" in magic)


def _read_page(layout: _Layout, offset: int) -> tuple[Page, int]:
    """Return a page and the offset of the next one."""
    count_kind, entry_bytes, next_kind = ("u8", 20, "u8") if layout.big else ("u2", 12, "u4")
    first = offset + np.dtype(count_kind).itemsize
    count = layout.number_at(offset, count_kind)
    block = layout.bytes_at(first, count * entry_bytes)
    following = layout.number_at(first + count * entry_bytes, next_kind)
    tags: dict[int, Pixels] = {}
    whole = True
    for tag, kind, values, where in _entries(layout, block, first):
        if tag in _WANTED and kind in _TYPES:
            try:
                tags[tag] = _values(layout, kind, values, where)
            except _CutError:
                whole = False
    return _page(tags, layout.size, whole=whole), following


def _entries(layout: _Layout, block: bytes, first: int) -> list[tuple[int, int, int, int]]:
    """Return tag, type and number of values of each entry, and where its value field stands."""
    field, width = ("u8", 8) if layout.big else ("u4", 4)
    kinds = [("tag", "u2"), ("type", "u2"), ("count", field)]
    dtype = np.dtype([(n, layout.order + k) for n, k in kinds] + [("value", f"V{width}")])
    entries = np.frombuffer(block, dtype=dtype)
    places = first + dtype.itemsize * np.arange(1, len(entries) + 1) - width
    columns = [entries[name].tolist() for name in ("tag", "type", "count")]
    return list(zip(*columns, places.tolist(), strict=True))


def _values(layout: _Layout, kind: int, count: int, where: int) -> Pixels:
    """Return the values of an entry, which stand in its value field if they fit there."""
    dtype = np.dtype(layout.order + _TYPES[kind])
    size = count * dtype.itemsize
    if size > (8 if layout.big else 4):
        where = layout.number_at(where, "u8" if layout.big else "u4")
    return np.frombuffer(layout.bytes_at(where, size), dtype=dtype)


def _page(tags: Mapping[int, Pixels], file_size: int, *, whole: bool) -> Page:
    def number(tag: int) -> int:
        values = tags.get(tag)
        return 0 if values is None or not values.size else int(values[0])

    none = np.empty(0, dtype=np.uint64)
    tiled = _TILES in tags
    offsets = tags.get(_TILES if tiled else _STRIPS, none).astype(np.uint64)
    counts = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, none).astype(np.uint64)
    there = (
        offsets.size == counts.size > 0
        and bool((counts > 0).all())
        and bool((offsets <= file_size).all())
        and bool((counts <= file_size - offsets).all())
    )
    metadata = tags.get(_METADATA, none)
    return Page(
        width=number(_WIDTH),
        height=number(_HEIGHT),
        compression=number(_COMPRESSION),
        reduced=bool(number(_SUBFILE_TYPE) & 1),
        whole=whole and there,
        offsets=offsets,
        byte_counts=counts,
        metadata=metadata.tobytes() if metadata.dtype == np.uint8 else b"",
        run_bits=number(_RUN_BITS),
    )
