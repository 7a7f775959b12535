"""MRC files: micrographs, stacks and movies in, also compressed; micrographs and stacks out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import mrcfile.mrcfile
import numpy as np
import torch
from jaxtyping import Float
from mrcfile.dtypes import HEADER_DTYPE, get_ext_header_dtype
from mrcfile.utils import printable_string_from_bytes
from torch import Tensor

from clearice.errors import InputFileError, OutputError
from clearice.io.atomic import atomic_path
from clearice.io.formats import format_of
from clearice.io.sections import Pixels, plausible, require_file, unpack_nibbles
from clearice.io.stores import PlainStore, Store, is_compressed, open_store, read_head

READABLE_MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
REFUSED_MODES = {
    3: "complex int16: a Fourier transform",
    4: "complex float32: a Fourier transform",
    16: "RGB colours",
}
# Read, but no mode to advise: SerialEM's 4-bit K2 and K3 movies, an extension of IMOD's.
_PACKED_MODE = 101
_HEADER_BYTES = 1024
_PIECE = 1 << 18
_IMOD_STAMP = 1146047817
_IMOD_SIGNED_BYTES = 1
_IMOD_TWO_PIXELS_A_BYTE = 16


@dataclass(frozen=True)
class _Header:
    """The main header, in the byte order of its file (`<` or `>`), and IMOD's flags."""

    fields: Any
    order: Literal["<", ">"]
    imod_flags: int

    def __getitem__(self, name: str) -> int:
        return int(self.fields[name])


@final
@dataclass(frozen=True)
class MrcSections:
    """The sections of an MRC file: its header is parsed once, each section is one read."""

    path: Path
    shape: tuple[int, int, int]
    pixel_sizes: tuple[float, float] | None
    dtype: np.dtype[Any]
    offset: int
    packed: bool
    store: Store
    dose_e_per_A2: float | None = None
    electron_events: bool = False

    def read(self, index: int) -> Pixels:
        """Return one section.

        Raises:
            InputFileError: The file has become shorter, or its compression is damaged.
        """
        sections, rows, columns = self.shape
        size = _section_bytes(self.shape, self.dtype, packed=self.packed)
        content = self.store.read(self.offset + index * size, size)
        if content.size < size:
            raise _truncated(self.path, f"section {index + 1} of {sections} is not whole")
        if self.packed:
            return unpack_nibbles(content.reshape(rows, -1), columns)
        return content.view(self.dtype).reshape(rows, columns)


def open_mrc(path: Path) -> MrcSections:
    """Open an MRC file, plain or compressed with gzip or bzip2, reading only its header.

    Modes 0, 1, 2, 6, 12 and 101 (4-bit) are read, in either byte order. Bytes are signed, as MRC
    has them, unless IMOD's flags say otherwise.

    Raises:
        InputFileError: The file is missing, empty, truncated or not readable as images. That a
            compressed file is truncated shows only when a section is read.
    """
    header = _read_header(path)
    _check_header(path, header)
    mode, flags = header["mode"], header.imod_flags
    halved = mode == 0 and bool(flags & _IMOD_TWO_PIXELS_A_BYTE)
    unsigned = mode == _PACKED_MODE or (mode == 0 and not flags & _IMOD_SIGNED_BYTES)
    dtype = np.dtype("uint8" if unsigned else READABLE_MODES[mode]).newbyteorder(header.order)
    shape = (header["nz"], header["ny"], header["nx"] * (2 if halved else 1))
    packed = halved or mode == _PACKED_MODE
    offset = _HEADER_BYTES + header["nsymbt"]
    section = _section_bytes(shape, dtype, packed=packed)
    store = open_store(path, offset + shape[0] * section)
    if isinstance(store, PlainStore):
        _refuse_truncated(path, offset, section, shape[0])
    return MrcSections(path, shape, _pixel_sizes(path, header), dtype, offset, packed, store)


def _section_bytes(shape: tuple[int, int, int], dtype: np.dtype[Any], *, packed: bool) -> int:
    _, rows, columns = shape
    return rows * ((columns + 1) // 2 if packed else columns * dtype.itemsize)


def _refuse_truncated(path: Path, offset: int, section: int, sections: int) -> None:
    size, expected = path.stat().st_size, offset + sections * section
    if size < expected:
        whole = max(0, (size - offset) // section)
        raise _truncated(
            path, f"{size} of {expected} bytes, so {whole} of {sections} sections are whole"
        )


def _truncated(path: Path, reason: str) -> InputFileError:
    return InputFileError(path, f"is truncated or damaged ({reason})", "copy or export it again")


def _read_header(path: Path) -> _Header:
    """Read the main header, whatever it says."""
    require_file(path)
    head = read_head(path, _HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        raise InputFileError(
            path, f"is too short for an MRC header ({len(head)} bytes)", "copy or export it again"
        )
    if head[208:211] != b"MAP":
        # A damaged bzip2 file gives other bytes before its checksum is reached.
        doubt = ", or is damaged" if is_compressed(path) else ""
        raise InputFileError(
            path, f"is not an MRC file (no 'MAP' at byte 208){doubt}", "convert it to MRC"
        )
    order: Literal["<", ">"] = ">" if head[212:213] == b"\x11" else "<"
    stamp, flags = np.frombuffer(head, dtype=f"{order}i4", count=2, offset=152).tolist()
    fields = np.frombuffer(head, dtype=HEADER_DTYPE.newbyteorder(order))[0]
    return _Header(fields, order, flags if stamp == _IMOD_STAMP else _IMOD_SIGNED_BYTES)


def _check_header(path: Path, header: _Header) -> None:
    """Refuse what no reader could make sense of, each with its own reason."""
    mode = header["mode"]
    if mode not in READABLE_MODES and mode != _PACKED_MODE:
        reason = REFUSED_MODES.get(mode, "unknown")
        raise InputFileError(
            path,
            f"has MRC mode {mode} ({reason}), which holds no image",
            f"export it as one of the modes {', '.join(map(str, READABLE_MODES))}",
        )
    dimensions = [header[name] for name in ("nx", "ny", "nz")]
    if min(dimensions) < 1:
        raise InputFileError(
            path, f"claims {' × '.join(map(str, dimensions))} px", "copy or export it again"
        )
    if header["nsymbt"] < 0:
        raise _truncated(path, f"an extended header of {header['nsymbt']} bytes")


def _pixel_sizes(path: Path, header: _Header) -> tuple[float, float] | None:
    """Return Å/px along x and y from the main header, else from a microscope's own."""
    cell, grid = header.fields["cella"], (header["mx"], header["my"])
    x, y = (float(cell[a]) / n if n > 0 else 0.0 for a, n in zip("xy", grid, strict=True))
    if x > 0 and np.isfinite(x):
        return x, y
    return _fei_pixel_sizes(path, header)


def _fei_pixel_sizes(path: Path, header: _Header) -> tuple[float, float] | None:
    """Return Å/px from the first entry of an extended header as Thermo Fisher writes it."""
    kind = bytes(header.fields["exttyp"])
    if kind not in (b"FEI1", b"FEI2"):
        return None
    entry = get_ext_header_dtype(kind, "<")
    content = _extended_header(path, header)
    if len(content) < entry.itemsize:
        return None
    first = np.frombuffer(content, dtype=entry, count=1)[0]
    metres = float(first["Pixel size X"]), float(first["Pixel size Y"])
    return plausible((1e10 * metres[0], 1e10 * metres[1]))


def _extended_header(path: Path, header: _Header) -> bytes:
    return read_head(path, _HEADER_BYTES + header["nsymbt"])[_HEADER_BYTES:]


def read_stack(path: Path, *, mapped: bool) -> Float[Tensor, "k h w"]:
    """Read a float16 stack of a data set; `mapped` leaves it on disk until it is indexed.

    Raises:
        InputFileError: The file is missing or damaged.
    """
    source = open_mrc(path)
    if source.dtype != np.float16 or not isinstance(source.store, PlainStore):
        raise InputFileError(path, "is not a float16 stack of a data set", "prepare it again")
    if not mapped:
        return torch.from_numpy(np.stack([source.read(i) for i in range(source.shape[0])]))
    # Copy-on-write, because PyTorch has no read-only tensors; nothing is ever written to it.
    return torch.from_numpy(
        np.memmap(path, dtype=np.float16, mode="c", offset=source.offset, shape=source.shape)
    )


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
        like: MRC file whose origin, start, labels and extended header are kept; other formats
            have none.
        label: Line added to the labels of the header.

    Raises:
        OutputError: The file cannot be written, or a value does not fit the type.
    """
    kind = np.dtype(dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    least, most = (float(value) for value in pixels.detach().aminmax())
    if least < limits.min or most > limits.max:
        raise OutputError(
            f"{path}: values from {least:g} to {most:g} do not fit {dtype}; write float32"
        )
    data = pixels.detach().cpu().numpy().astype(kind, copy=False)
    with atomic_path(path) as temporary, _MrcFile(temporary, "w+", overwrite=True) as handle:
        handle.set_data(data)
        if data.ndim == 3:
            handle.set_image_stack()
        # mrcfile's own label has the time in it: equal pixels must give equal files.
        handle.header.label = b""
        handle.header.nlabl = 0
        if like is not None:
            _copy_header(like, handle)
        handle.voxel_size = pixel_size_angstrom or 0.0
        handle.add_label(label[:56])


def _copy_header(like: Path, handle: Any) -> None:
    require_file(like)
    if format_of(like) != "mrc":
        return
    source = _read_header(like)
    _check_header(like, source)
    for field in ("origin", "nxstart", "nystart", "nzstart", "cellb", "mapc", "mapr", "maps"):
        handle.header[field] = source.fields[field]
    if extended := _extended_header(like, source):
        handle.set_extended_header(np.frombuffer(extended, dtype=f"V{len(extended)}"))
    handle.header.exttyp = source.fields["exttyp"]
    # The source's labels come first, as history.
    texts = map(printable_string_from_bytes, source.fields["label"][: source["nlabl"]])
    labels = [text for text in texts if text]
    for label in labels[-9:]:
        handle.add_label(label)


class _MrcFile(mrcfile.mrcfile.MrcFile):  # type: ignore[misc]
    """A file whose statistics are right, and taken in one pass.

    mrcfile sums in the data's own type, which overflows for float16 and is slow; here pieces that
    stay in the processor's cache are widened and summed, so that the image is read once.
    """

    def update_header_stats(self) -> None:
        """Write least, largest, mean and standard deviation into the header."""
        values = self.data.reshape(-1)
        pieces = [values[i : i + _PIECE] for i in range(0, values.size, _PIECE)]
        least, most, means, spreads = np.array([_statistics(piece) for piece in pieces]).T
        shares = np.array([piece.size for piece in pieces]) / values.size
        mean = (shares * means).sum()
        self.header.dmin, self.header.dmax, self.header.dmean = least.min(), most.max(), mean
        self.header.rms = np.sqrt((shares * (spreads + (means - mean) ** 2)).sum())


def _statistics(piece: Pixels) -> tuple[float, float, float, float]:
    """Return least, largest, mean and mean square about the mean.

    numpy adds float32 in pairs, with errors that grow with the logarithm of their number; about
    their own mean nothing is lost of the squares.
    """
    wide = piece.astype(np.float32, copy=False)
    centre = wide.mean()
    rest = wide - centre
    off = float(rest.mean())
    spread = float(np.square(rest, out=rest).mean()) - off**2
    return float(wide.min()), float(wide.max()), float(centre) + off, max(0.0, spread)
