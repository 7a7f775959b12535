"""What every image format has in common: sections of one file, and the checks they must pass.

Rows. Arrays here start with the row that an MRC file stores first, which MRC calls the bottom.
TIFF, PNG and DigitalMicrograph store the top row first, so their readers turn images upside down,
whatever the orientation tag says: IMOD, SerialEM, MotionCor and RELION all do, and only so does a
TIFF movie fit an MRC gain reference, or the other way round. EER events and Falcon's `.gain` files
share one order of rows and RELION turns neither, nor does this. (RELION manual, "Conventions";
its `rwTIFF.h`, `renderEER.h`.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clearice.errors import ClearIceWarning, InputFileError
from clearice.types import Micrograph, Movie

Pixels = np.ndarray[Any, np.dtype[Any]]
# Outside these, a resolution is that of a screen or a printer.
_PIXEL_SIZES_ANGSTROM = (0.01, 100.0)


class PixelSizeFallback(ClearIceWarning):
    """A header has no pixel size, and 1 Å/px was assumed."""


class Sections(Protocol):
    """The images of one file, all of one shape, each read when it is asked for.

    Attributes:
        path: The file.
        shape: (sections, rows, columns).
        pixel_sizes: Å/px along x and y, where the file says so.
        dose_e_per_A2: Dose of each section, where the file says so.
        electron_events: Sections are rendered from electron events.
    """

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def pixel_sizes(self) -> tuple[float, float] | None: ...

    @property
    def dose_e_per_A2(self) -> float | None: ...

    @property
    def electron_events(self) -> bool: ...

    def read(self, index: int) -> Pixels:
        """Return one section as the file stores it, the bottom row first.

        It may be written to only if nothing else ever sees the array.
        """
        ...


def require_file(path: Path) -> None:
    """Refuse what is no file, or an empty one.

    Raises:
        InputFileError: It is missing, a folder or empty.
    """
    with reading(path):
        if not path.exists():
            raise InputFileError(path, "does not exist", "check the path")
        if path.is_dir():
            raise InputFileError(path, "is a folder, not a file", "name the files in it")
        if path.stat().st_size == 0:
            raise InputFileError(path, "is empty (0 bytes)", "copy or export it again")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error that names the file.

    Raises:
        InputFileError: The file cannot be opened or read.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputFileError(path, f"cannot be read ({reason})", "check its permissions") from None


def plausible(pixel_sizes: tuple[float, float]) -> tuple[float, float] | None:
    """Return the pixel sizes if they can be those of a micrograph, else None."""
    low, high = _PIXEL_SIZES_ANGSTROM
    return pixel_sizes if all(low <= size <= high for size in pixel_sizes) else None


def one_line(error: BaseException) -> str:
    """Return the message of another library on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def same_pixel_size(first_angstrom: float, second_angstrom: float) -> bool:
    """Tell whether two pixel sizes are the same to 1 %: headers round."""
    return abs(first_angstrom / second_angstrom - 1) <= 0.01


def unpack_nibbles(packed: Pixels, columns: int) -> Pixels:
    """Return the 4-bit pixels of rows of bytes, the low half of each byte first.

    Source: IMOD's description of MRC files, flag 16 of `imodFlags`; rows are whole bytes.
    """
    pixels = np.empty((packed.shape[0], 2 * packed.shape[1]), dtype=np.uint8)
    pixels[:, 0::2] = packed & 15
    pixels[:, 1::2] = packed >> 4
    return pixels[:, :columns]


def movie_of(source: Sections, pixel_size_angstrom: float | None) -> Movie:
    """Make a movie of at least two sections.

    Raises:
        InputFileError: The file has one section, or oblong pixels.
    """
    sections, rows, columns = source.shape
    size, _ = _pixel_size(source, pixel_size_angstrom)
    if sections < 2:
        raise InputFileError(
            source.path,
            "has one image, not the frames of a movie",
            "give movies, or ready half-sets with --pairs",
        )
    return Movie(
        source.path,
        _Frames(source),
        rows,
        columns,
        size,
        source.dose_e_per_A2,
        source.electron_events,
    )


def micrograph_of(source: Sections, pixel_size_angstrom: float | None) -> Micrograph:
    """Read the only section.

    Raises:
        InputFileError: The file has several sections, NaN or constant pixels, or oblong ones.
    """
    pixels = image_of(source, "micrograph")
    size, assumed = _pixel_size(source, pixel_size_angstrom)
    least, most = pixels.aminmax()
    if least == most:
        raise InputFileError(
            source.path, f"is constant (every pixel {float(pixels[0, 0]):g})", "leave it out"
        )
    return Micrograph(source.path, pixels, size, assumed)


def image_of(source: Sections, kind: str = "image") -> Float[Tensor, "h w"]:
    """Read the only section.

    Args:
        source: The file.
        kind: What it should have been, for the message.

    Raises:
        InputFileError: The file has several sections, or NaN pixels.
    """
    if source.shape[0] != 1:
        raise InputFileError(
            source.path,
            f"is three-dimensional ({' × '.join(map(str, source.shape))}) where a 2-D {kind} is "
            "meant",
            "sum its frames first (movies: 'clearice prepare', 'clearice denoise --movies')",
        )
    return _to_tensor(source.path, source.read(0))


def _to_tensor(path: Path, data: Pixels) -> Float[Tensor, "h w"]:
    """Convert to float32, without a copy where it can be, and refuse what has no usable pixels."""
    array = np.require(data, dtype=np.float32, requirements=["C", "W"])
    # An axis of one pixel may still run backwards, which PyTorch has no way to say.
    pixels = torch.from_numpy(array.copy() if min(array.strides) < 0 else array)
    # Whatever is not finite shows in the sum, which is ten times faster to make than the count.
    if not torch.isfinite(pixels.sum()) and (n_bad := int((~torch.isfinite(pixels)).sum())):
        raise InputFileError(
            path, f"has {n_bad} NaN or infinite pixels", "mask them or export it again"
        )
    return pixels


def _pixel_size(source: Sections, override: float | None) -> tuple[float, bool]:
    """Return the pixel size, and whether it is only assumed."""
    if override is not None:
        return override, False
    if source.pixel_sizes is None:
        warnings.warn(
            f"{source.path}: the header has no pixel size; assuming 1 Å/px (give --pixel-size)",
            PixelSizeFallback,
            stacklevel=4,
        )
        return 1.0, True
    x, y = source.pixel_sizes
    if not abs(x - y) <= 0.01 * x:
        raise InputFileError(source.path, f"has oblong pixels ({x:g} × {y:g} Å)", "resample it")
    return round(x, 6), False


@final
class _Frames:
    """The sections of a file as the frames of a movie; crosses processes as `source` does."""

    def __init__(self, source: Sections) -> None:
        self._source = source

    def __len__(self) -> int:
        return self._source.shape[0]

    def __getitem__(self, index: int) -> Float[Tensor, "h w"]:
        return _to_tensor(self._source.path, self._source.read(range(len(self))[index]))
