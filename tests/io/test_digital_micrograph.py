"""DigitalMicrograph images, as Gatan's gain references come."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearice import io
from clearice.errors import InputFileError

Array = np.ndarray[Any, np.dtype[Any]]


def _dm_tag(name: str, kinds: Sequence[int], content: bytes) -> bytes:
    body = b"%%%%" + struct.pack(f">Q{len(kinds)}Q", len(kinds), *kinds) + content
    return b"\x15" + struct.pack(">H", len(name)) + name.encode() + _sized(body)


def _dm_group(name: str, tags: Sequence[bytes]) -> bytes:
    body = b"\1\0" + struct.pack(">Q", len(tags)) + b"".join(tags)
    return b"\x14" + struct.pack(">H", len(name)) + name.encode() + _sized(body)


def _sized(body: bytes) -> bytes:
    return struct.pack(">Q", len(body)) + body


def _dm_image(data: Array, kind: int, element: int) -> bytes:
    def number(name: str, value: int) -> bytes:
        return _dm_tag(name, [5], struct.pack("<I", value))

    tags = [
        _dm_tag("Data", [20, element, data.size], data.tobytes()),
        number("DataType", kind),
        _dm_group("Dimensions", [number("", n) for n in reversed(data.shape)]),
        number("PixelDepth", data.itemsize),
    ]
    return _dm_group("", [_dm_group("ImageData", tags)])


def _write_dm4(path: Path, data: Array, kind: int, element: int) -> Path:
    thumbnail = _dm_image(np.zeros((4, 4), dtype=np.uint32), 23, 5)
    index = _dm_tag("ImageIndex", [5], struct.pack("<I", 0))
    tags = [
        _dm_group("ImageList", [thumbnail, _dm_image(data, kind, element)]),
        _dm_group("Thumbnails", [_dm_group("", [index])]),
    ]
    root = b"\1\0" + struct.pack(">Q", len(tags)) + b"".join(tags) + bytes(8)
    path.write_bytes(struct.pack(">IQI", 4, len(root), 1) + root)
    return path


@pytest.mark.parametrize(
    ("dtype", "kind", "element"), [("float32", 2, 6), ("uint16", 10, 4), ("uint8", 6, 10)]
)
def test_a_gatan_gain_reference_is_read(
    tmp_path: Path, dtype: str, kind: int, element: int
) -> None:
    data = np.random.default_rng(1).integers(0, 120, (12, 17)).astype(dtype)
    path = _write_dm4(tmp_path / "CountRef.dm4", data, kind, element)
    np.testing.assert_array_equal(io.read_image(path).numpy(), data[::-1].astype(np.float32))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputFileError, match=r"CountRef\.dm4: .*DigitalMicrograph.*; convert"):
        io.read_image(path)


def test_a_stack_is_refused(tmp_path: Path) -> None:
    data = np.zeros((3, 12, 17), dtype=np.float32)
    with pytest.raises(InputFileError, match="stack"):
        io.read_image(_write_dm4(tmp_path / "x.dm4", data, 2, 6))
