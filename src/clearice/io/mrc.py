"""MRC files, through `mrcfile`: micrographs, stacks and movies in, micrographs and stacks out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clearice.errors import ClearIceWarning, InputFileError, OutputError
from clearice.io.atomic import atomic_path
from clearice.types import Micrograph, Movie

READABLE_MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
REFUSED_MODES = {
    3: "complex int16: a Fourier transform",
    4: "complex float32: a Fourier transform",
    101: "4-bit packed",
}
_HEADER_BYTES = 1024


class PixelSizeFallback(ClearIceWarning):
    """A header has no pixel size, and 1 Å/px was assumed."""


def _check_header(path: Path) -> None:
    """Refuse what no reader could make sense of, each with its own reason."""
    if not path.exists():
        raise InputFileError(path, "does not exist", "check the path")
    if path.is_dir():
        raise InputFileError(path, "is a folder, not a file", "name the MRC files in it")
    size = path.stat().st_size
    if size == 0:
        raise InputFileError(path, "is empty (0 bytes)", "copy or export it again")
    if size < _HEADER_BYTES:
        raise InputFileError(
            path, f"is too short for an MRC header ({size} bytes)", "copy or export it again"
        )
    with path.open("rb") as handle:
        head = handle.read(_HEADER_BYTES)
    order = ">" if head[212:214] == b"\x11\x11" else "<"
    *dimensions, mode = np.frombuffer(head, dtype=f"{order}i4", count=4).tolist()
    if head[208:211] != b"MAP":
        raise InputFileError(path, "is not an MRC file (no 'MAP' at byte 208)", "convert it to MRC")
    if mode not in READABLE_MODES:
        reason = REFUSED_MODES.get(mode, "unknown")
        raise InputFileError(
            path,
            f"has MRC mode {mode} ({reason}), which holds no image",
            f"export it as one of the modes {', '.join(map(str, READABLE_MODES))}",
        )
    if min(dimensions) < 1:
        raise InputFileError(
            path, f"claims {' × '.join(map(str, dimensions))} px", "copy or export it again"
        )


def _open(path: Path) -> Any:
    """Memory-map an MRC file."""
    _check_header(path)
    try:
        with warnings.catch_warnings():
            # Volume-or-stack ambiguities are no concern here: the number of sections decides.
            warnings.simplefilter("ignore", RuntimeWarning)
            return mrcfile.mmap(path, mode="r", permissive=False)
    except ValueError as error:
        raise InputFileError(
            path, f"is truncated or damaged ({error})", "copy or export it again"
        ) from None
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error})", "check its permissions") from None


def _pixel_size(path: Path, handle: Any, override: float | None) -> float:
    if override is not None:
        return override
    x, y = float(handle.voxel_size.x), float(handle.voxel_size.y)
    if not (x > 0 and np.isfinite(x)):
        warnings.warn(
            f"{path}: the header has no pixel size; assuming 1 Å/px (give --pixel-size)",
            PixelSizeFallback,
            stacklevel=3,
        )
        return 1.0
    if abs(x - y) > 0.01 * x:
        raise InputFileError(path, f"has oblong pixels ({x:g} × {y:g} Å)", "resample it")
    return round(x, 6)


def same_pixel_size(first_angstrom: float, second_angstrom: float) -> bool:
    """Tell whether two pixel sizes are the same to 1 %: headers round."""
    return abs(first_angstrom / second_angstrom - 1) <= 0.01


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return (sections, rows, columns) of an MRC file, reading only its header.

    Raises:
        InputFileError: The file is missing, empty, truncated or not readable as images.
    """
    with _open(path) as handle:
        shape = handle.data.shape
    return (1, *shape) if len(shape) == 2 else (shape[0], shape[1], shape[2])


def _to_tensor(path: Path, data: np.ndarray[Any, Any]) -> Float[Tensor, "..."]:
    """Copy to float32 and refuse what has no usable pixels."""
    pixels = torch.from_numpy(np.array(data, dtype=np.float32))
    if not torch.isfinite(pixels).all():
        n_bad = int((~torch.isfinite(pixels)).sum())
        raise InputFileError(
            path, f"has {n_bad} NaN or infinite pixels", "mask them or export it again"
        )
    return pixels


def _refuse_constant(path: Path, pixels: Tensor) -> None:
    if pixels.min() == pixels.max():
        raise InputFileError(
            path, f"is constant (every pixel {float(pixels.flatten()[0]):g})", "leave it out"
        )


def read_micrograph(path: Path, pixel_size_angstrom: float | None = None) -> Micrograph:
    """Read a two-dimensional image.

    Args:
        path: MRC file with one section.
        pixel_size_angstrom: Å/px; overrides the header.

    Raises:
        InputFileError: The file is missing, damaged, has several sections, NaN or constant pixels.
    """
    with _open(path) as handle:
        data = handle.data
        if data.ndim == 3 and data.shape[0] == 1:
            data = data[0]
        if data.ndim != 2:
            raise InputFileError(
                path,
                f"is three-dimensional ({' × '.join(map(str, data.shape))}) where a 2-D micrograph "
                "is meant",
                "sum its frames first ('clearice prepare' reads movies)",
            )
        pixels = _to_tensor(path, data)
        size = _pixel_size(path, handle, pixel_size_angstrom)
        assumed = pixel_size_angstrom is None and not float(handle.voxel_size.x) > 0
    _refuse_constant(path, pixels)
    return Micrograph(path, pixels, size, assumed)


class _MrcFrames:
    """Frames of an MRC movie, mapped anew for each read so that it can cross processes."""

    def __init__(self, path: Path, n_frames: int) -> None:
        self._path = path
        self._n_frames = n_frames

    def __len__(self) -> int:
        return self._n_frames

    def __getitem__(self, index: int) -> Float[Tensor, "h w"]:
        with _open(self._path) as handle:
            return _to_tensor(self._path, handle.data[index])


def open_movie(path: Path, pixel_size_angstrom: float | None = None) -> Movie:
    """Open a movie without reading its frames.

    Args:
        path: MRC stack with at least two sections.
        pixel_size_angstrom: Å/px; overrides the header.

    Raises:
        InputFileError: The file is missing, damaged or has fewer than two frames.
    """
    with _open(path) as handle:
        shape = handle.data.shape
        size = _pixel_size(path, handle, pixel_size_angstrom)
    if len(shape) != 3 or shape[0] < 2:
        raise InputFileError(
            path,
            "has one image, not the frames of a movie",
            "give movies, or ready half-sets with --pairs",
        )
    return Movie(path, _MrcFrames(path, shape[0]), shape[1], shape[2], size)


def read_stack(path: Path, *, mapped: bool) -> Float[Tensor, "k h w"]:
    """Read a float16 stack of a data set; `mapped` leaves it on disk until it is indexed.

    Raises:
        InputFileError: The file is missing or damaged.
    """
    with _open(path) as handle:
        data = handle.data
        if data.dtype != np.float16:
            raise InputFileError(path, "is not a float16 stack of a data set", "prepare it again")
        # mrcfile gives a stack of one section as a plain image.
        shape = (1, *data.shape) if data.ndim == 2 else data.shape
        offset = _HEADER_BYTES + int(handle.header.nsymbt)
        if not mapped:
            return torch.from_numpy(np.array(data).reshape(shape))
    # Copy-on-write, because PyTorch has no read-only tensors; nothing is ever written to it.
    array = np.memmap(path, dtype=np.float16, mode="c", offset=offset, shape=shape)
    return torch.from_numpy(array)


def write_mrc(
    path: Path,
    pixels: Tensor,
    pixel_size_angstrom: float | None,
    *,
    dtype: str = "float32",
    like: Path | None = None,
    label: str = "clearice",
) -> None:
    """Write an image (or a stack) with correct statistics, atomically.

    Args:
        path: The file to write.
        pixels: (rows, columns), or (sections, rows, columns) for a stack of images.
        pixel_size_angstrom: Å/px; None leaves the header without one.
        dtype: `int8`, `int16`, `uint16`, `float16` or `float32`.
        like: File whose origin, start, labels and extended header are kept.
        label: Line added to the labels of the header.

    Raises:
        OutputError: The file cannot be written, or a value does not fit the type.
    """
    values = pixels.detach().cpu().numpy()
    kind = np.dtype(dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    if values.min() < limits.min or values.max() > limits.max:
        raise OutputError(
            f"{path}: values from {values.min():g} to {values.max():g} do not fit {dtype}; write "
            "float32"
        )
    data = values.astype(kind)
    with atomic_path(path) as temporary, mrcfile.new(temporary, overwrite=True) as handle:
        handle.set_data(data)
        if data.ndim == 3:
            handle.set_image_stack()
        if like is not None:
            _copy_header(like, handle)
        handle.voxel_size = pixel_size_angstrom or 0.0
        _set_statistics(handle, data)
        handle.add_label(label[:56])


def _copy_header(like: Path, handle: Any) -> None:
    with _open(like) as source:
        for field in ("origin", "nxstart", "nystart", "nzstart", "cellb", "mapc", "mapr", "maps"):
            handle.header[field] = source.header[field]
        handle.set_extended_header(source.extended_header)
        handle.header.exttyp = source.header.exttyp
        # mrcfile appends its own label on creation: the source's labels come first, as history.
        labels = [label for label in source.get_labels() if label]
        handle.header.label = b""
        handle.header.nlabl = 0
        for label in labels[-9:]:
            handle.add_label(label)


def _set_statistics(handle: Any, data: np.ndarray[Any, Any]) -> None:
    # mrcfile sums in the data's own type, which overflows for float16.
    wide = data.astype(np.float64)
    handle.header.dmin, handle.header.dmax = wide.min(), wide.max()
    handle.header.dmean, handle.header.rms = wide.mean(), wide.std()
