"""EER movies written bit by bit, and read back by a decoder that shares nothing with the package.

Source: EER file format (Thermo Fisher, EerReaderLib); RELION's `renderEER.cpp` for compression
65000, whose long runs waste the bits of a position.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Coding:
    """How the events of a raw frame are coded: bits of a run, and of the position in a pixel."""

    compression: int
    run_bits: int
    x_bits: int
    y_bits: int

    @property
    def longest(self) -> int:
        """The run that no event follows."""
        return 2**self.run_bits - 1

    @property
    def wastes(self) -> bool:
        """Whether bits of a position follow that run all the same."""
        return self.compression == 65000


EIGHT_BIT = Coding(65000, 8, 2, 2)
SEVEN_BIT = Coding(65001, 7, 2, 2)
VARIABLE = Coding(65002, 6, 1, 1)


def random_events(
    generator: np.random.Generator, shape: tuple[int, int], count: int, coding: Coding = SEVEN_BIT
) -> Array:
    """Return rows and columns of events in parts of a pixel, at most one event a pixel."""
    pixels = np.sort(generator.choice(shape[0] * shape[1], count, replace=False))
    y = (pixels // shape[1] << coding.y_bits) + generator.integers(0, 2**coding.y_bits, count)
    x = (pixels % shape[1] << coding.x_bits) + generator.integers(0, 2**coding.x_bits, count)
    return np.stack([y, x], axis=1)


def encode(events: Array, shape: tuple[int, int], coding: Coding) -> bytes:
    """Code the events of one raw frame, least significant bit first."""
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend(value >> k & 1 for k in range(count))

    def put_run(length: int) -> None:
        for _ in range(length // coding.longest):
            put(coding.longest, coding.run_bits)
            if coding.wastes:
                put(0, coding.x_bits + coding.y_bits)
        put(length % coding.longest, coding.run_bits)

    position = 0
    for y, x in events.tolist():
        pixel = (y >> coding.y_bits) * shape[1] + (x >> coding.x_bits)
        put_run(pixel - position)
        # The upper bit of either coordinate is inverted.
        put(x % 2**coding.x_bits ^ 2**coding.x_bits >> 1, coding.x_bits)
        put(y % 2**coding.y_bits ^ 2**coding.y_bits >> 1, coding.y_bits)
        position = pixel + 1
    put_run(shape[0] * shape[1] - position)
    return np.packbits(np.array(bits, dtype=np.uint8), bitorder="little").tobytes()


def metadata_xml(**items: tuple[object, str]) -> str:
    """Return acquisition metadata; double underscores in names stand for dots."""
    lines = []
    for name, (value, unit) in items.items():
        given = f' unit="{unit}"' if unit else ""
        lines.append(f'<item name="{name.replace("__", ".")}"{given}>{value}</item>')
    return f"<metadata>{''.join(lines)}</metadata>"


def write_eer(
    path: Path,
    frames: Sequence[Array],
    shape: tuple[int, int],
    coding: Coding = SEVEN_BIT,
    *,
    metadata: str = "",
    big: bool = True,
    order: str = "<",
    strips: int = 1,
    first: Sequence[tuple[int, bytes]] = (),
) -> Path:
    """Write a movie: each raw frame is the bits of its strips, then its page.

    Args:
        path: The file.
        frames: Events of each raw frame, see `random_events`.
        shape: Rows and columns of pixels.
        coding: How events are coded.
        metadata: Text of tag 65001.
        big: BigTIFF.
        order: Byte order, `<` or `>`.
        strips: Strips of a raw frame.
        first: Pages that come before, as compression and content.
    """
    pages = [*first, *((coding.compression, encode(e, shape, coding)) for e in frames)]
    field, count, size = ("Q", "Q", 8) if big else ("I", "H", 4)
    mark = b"II" if order == "<" else b"MM"
    out = bytearray(mark + struct.pack(f"{order}H", 43 if big else 42))
    out += struct.pack(f"{order}HH", 8, 0) if big else b""
    link = len(out)
    out += bytes(size)

    def place(content: bytes) -> int:
        out.extend(content)
        return len(out) - len(content)

    for index, (compression, content) in enumerate(pages):
        parts = [part.tobytes() for part in np.array_split(np.frombuffer(content, "u1"), strips)]
        offsets = [place(part) for part in parts]
        tags: dict[int, tuple[int, list[int]]] = {
            256: (4, [shape[1]]),
            257: (4, [shape[0]]),
            259: (3, [compression]),
            273: (16 if big else 4, offsets),
            278: (4, [-(-shape[0] // strips)]),
            279: (16 if big else 4, [len(part) for part in parts]),
        }
        if coding.compression == 65002:
            tags[65007] = (3, [coding.run_bits])
            tags[65008] = (3, [coding.x_bits])
            tags[65009] = (3, [coding.y_bits])
        if index == 0 and metadata:
            tags[65001] = (7, list(metadata.encode()))
        entries = b""
        for tag, (kind, values) in sorted(tags.items()):
            letter = {3: "H", 4: "I", 7: "B", 16: "Q"}[kind]
            packed = struct.pack(f"{order}{len(values)}{letter}", *values)
            if len(packed) > size:
                packed = struct.pack(f"{order}{field}", place(packed))
            entries += struct.pack(f"{order}HH{field}", tag, kind, len(values))
            entries += packed.ljust(size, b"\0")
        struct.pack_into(f"{order}{field}", out, link, len(out))
        out += struct.pack(f"{order}{count}", len(tags)) + entries
        link = len(out)
        out += bytes(size)
    path.write_bytes(bytes(out))
    return path


def strips_of(path: Path) -> list[bytes]:
    """Return the bits of each raw frame of a little-endian BigTIFF, strips joined."""
    content = path.read_bytes()
    frames: list[bytes] = []
    (page,) = struct.unpack_from("<Q", content, 8)
    while page:
        (count,) = struct.unpack_from("<Q", content, page)
        tags = {}
        for entry in range(page + 8, page + 8 + 20 * count, 20):
            tag, kind, length = struct.unpack_from("<HHQ", content, entry)
            size = {3: 2, 4: 4, 7: 1, 16: 8}[kind]
            (where,) = struct.unpack_from("<Q", content, entry + 12)
            start = where if length * size > 8 else entry + 12
            tags[tag] = np.frombuffer(content, f"<u{size}", length, start).tolist()
        places = zip(tags[273], tags[279], strict=True)
        frames.append(b"".join(content[start : start + size] for start, size in places))
        (page,) = struct.unpack_from("<Q", content, page + 8 + 20 * count)
    return frames


def decode(content: bytes, shape: tuple[int, int], coding: Coding, parts: int = 1) -> Array:
    """Return the events of a raw frame, counted in pixels or in `parts` × `parts` of each."""
    bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8), bitorder="little")
    image = np.zeros((shape[0] * parts, shape[1] * parts), dtype=np.int64)
    cursor = 0

    def take(count: int) -> int:
        nonlocal cursor
        value = int(bits[cursor : cursor + count] @ (1 << np.arange(count)))
        cursor += count
        return value

    pixel = 0
    while True:
        run = take(coding.run_bits)
        pixel += run
        if pixel >= shape[0] * shape[1]:
            assert pixel == shape[0] * shape[1]
            return image
        if run == coding.longest:
            cursor += coding.x_bits + coding.y_bits if coding.wastes else 0
            continue
        x = take(coding.x_bits) ^ 2**coding.x_bits >> 1
        y = take(coding.y_bits) ^ 2**coding.y_bits >> 1
        row = pixel // shape[1] * parts + (y * parts >> coding.y_bits)
        image[row, pixel % shape[1] * parts + (x * parts >> coding.x_bits)] += 1
        pixel += 1
