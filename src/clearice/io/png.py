"""Grey PNG images, and pictures for pages, through `imagecodecs`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from clearice.errors import InputFileError
from clearice.io.atomic import atomic_path
from clearice.io.formats import PNG_MAGIC
from clearice.io.sections import Pixels, one_line, reading, require_file

_HEAD_BYTES = 33


@final
@dataclass(frozen=True)
class PngSections:
    """The one image of a PNG file, which cannot say how small its pixels are."""

    path: Path
    shape: tuple[int, int, int]
    pixel_sizes: tuple[float, float] | None = None
    dose_e_per_A2: float | None = None
    electron_events: bool = False

    def read(self, index: int) -> Pixels:
        """Return the image, turned as `clearice.io.sections` says.

        Raises:
            InputFileError: It is truncated or damaged.
        """
        # Slow to import, and seldom needed.
        import imagecodecs

        with reading(self.path):
            content = self.path.read_bytes()
        try:
            _check_chunks(content)
            return imagecodecs.png_decode(content)[::-1]
        except (ValueError, RuntimeError) as error:
            raise InputFileError(
                self.path,
                f"is truncated or damaged ({one_line(error)})",
                "copy or export it again",
            ) from None


def open_png(path: Path) -> PngSections:
    """Open a PNG file with 8 or 16 grey bits a pixel, reading only its header.

    Raises:
        InputFileError: The file is missing, empty, or no grey PNG file.

    Source: Portable Network Graphics Specification (W3C), section 11.2.1.
    """
    require_file(path)
    with reading(path), path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.startswith(PNG_MAGIC):
        raise InputFileError(path, "is not a PNG file", "export it as TIFF or MRC")
    if len(head) < _HEAD_BYTES:
        raise InputFileError(path, "is truncated or damaged (no header)", "copy it again")
    columns, rows = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    depth, colours = head[24], head[25]
    if colours != 0 or depth not in (8, 16):
        kind = "colours" if colours & 2 else "transparency" if colours else f"{depth} bits a pixel"
        raise InputFileError(
            path,
            f"has {kind}, where a grey image of 8 or 16 bits is meant",
            "export it as grey PNG, TIFF or MRC",
        )
    return PngSections(path, (1, rows, columns))


def write_png(path: Path, image: UInt8[Tensor, "rows columns *colours"]) -> None:
    """Write a grey picture, or one of red, green and blue, turned as it is read.

    Raises:
        OutputError: It cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(image.flip(0)))


def encode_png(upright: UInt8[Tensor, "rows columns *colours"], effort: int | None = None) -> bytes:
    """Return a picture, grey or of three colours, its top row first, as the content of a PNG file.

    Args:
        upright: The picture.
        effort: Of the compression, 0 to 9 (default: zlib's).
    """
    # Slow to import, and seldom needed.
    import imagecodecs

    return bytes(imagecodecs.png_encode(np.ascontiguousarray(upright.numpy()), level=effort))


def encode_jpeg(upright: UInt8[Tensor, "rows columns"], quality: int = 90) -> bytes:
    """Return a grey picture, its top row first, as the content of a JPEG file.

    Args:
        upright: The picture.
        quality: 1 to 100.
    """
    # Slow to import, and seldom needed.
    import imagecodecs

    pixels = np.ascontiguousarray(upright.numpy())
    return bytes(imagecodecs.jpeg8_encode(pixels, level=quality))


def _check_chunks(content: bytes) -> None:
    """Raise ValueError for a chunk whose checksum is wrong, which the decoder only remarks on."""
    start, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        kind = content[start + 4 : start + 8]
        checksum = zlib.crc32(content[start + 4 : end])
        if checksum.to_bytes(4, "big") != content[end : end + 4]:
            raise ValueError(f"checksum of the part at byte {start}")
        start = end + 4
