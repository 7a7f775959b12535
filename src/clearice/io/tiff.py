"""TIFF movies, micrographs and gain references, through `tifffile`."""

from __future__ import annotations

import logging
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float
from tifffile import TiffFile, TiffPage, imwrite
from torch import Tensor

from clearice.errors import InputFileError
from clearice.io.atomic import atomic_path
from clearice.io.formats import GAIN_SUFFIX
from clearice.io.sections import Pixels, one_line, plausible, reading, unpack_nibbles
from clearice.io.tiff_chain import Chain, Page, read_chain

_PALETTE = 3
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
# Units of the resolution tags, and those that ImageJ writes in words, in Å.
_INCH, _CENTIMETRE = 2, 3
_ANGSTROM = {_INCH: 2.54e8, _CENTIMETRE: 1e8}
_ANGSTROM_IN_WORDS = {
    **dict.fromkeys(("a", "å", "angstrom", "angstroms", "\\u00c5"), 1.0),
    **dict.fromkeys(("nm", "nanometer"), 10.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "\\u00b5m"), 1e4),
}
# Rows and columns of K2 and K3 super-resolution movies with two pixels a byte, in either
# orientation: nothing else tells them from bytes. Source: RELION's `rwTIFF.h`, after IMOD.
_HALVED_SHAPES = {(8184, 5760), (11520, 4092), (7676, 3710), (7420, 3838)} | {
    *((5760, 8184), (4092, 11520), (3710, 7676), (3838, 7420))
}
# Else what it remarks on odd tags would go to the terminal, once for every frame.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
# What tifffile and the decoders behind it raise on damaged data.
_DECODING_ERRORS = (ValueError, RuntimeError, KeyError, IndexError, TypeError, struct.error)


@final
@dataclass(frozen=True)
class TiffSections:
    """Pages of a TIFF file, which is opened anew for each read so that it can cross processes."""

    path: Path
    shape: tuple[int, int, int]
    pixel_sizes: tuple[float, float] | None
    pages: tuple[int, ...]
    packed: bool
    dose_e_per_A2: float | None = None
    electron_events: bool = False

    def read(self, index: int) -> Pixels:
        """Return one page, turned as `clearice.io.sections` says.

        Raises:
            InputFileError: It cannot be decoded, or is not like the first one.
        """
        _, rows, columns = self.shape
        with reading(self.path):
            try:
                with TiffFile(self.path) as file:
                    data = file.pages[self.pages[index]].asarray(maxworkers=1)
            except _DECODING_ERRORS as error:
                raise InputFileError(
                    self.path,
                    f"is damaged (page {index + 1}: {one_line(error)})",
                    "copy or export it again",
                ) from None
        if data.ndim == 2 and self.packed:
            data = unpack_nibbles(data, columns)
        if data.shape != (rows, columns):
            raise InputFileError(
                self.path,
                f"has pages of different sizes ({data.shape} px and {rows} × {columns} px)",
                "export its frames alone",
            )
        return data if self.path.suffix.lower() == GAIN_SUFFIX else data[::-1]


def open_tiff(path: Path, chain: Chain | None = None) -> TiffSections:
    """Open a TIFF or BigTIFF file, reading none of its pixels.

    Args:
        path: The file. Of a `.gain` file only the first page counts, as for RELION.
        chain: Its pages, if they are known already.

    Raises:
        InputFileError: The file is missing, truncated, or holds no grey images of one size.
    """
    pages = _whole_pages(path, chain or read_chain(path))
    with reading(path):
        try:
            with TiffFile(path) as file:
                first = file.pages[next(iter(pages))]
                assert isinstance(first, TiffPage)
                _refuse_colours(path, first)
                rows, columns = first.shape
                packed = _is_packed(first)
                sizes = _pixel_sizes(first)
                _refuse_missing(path, len(pages), first)
        except _DECODING_ERRORS as error:
            raise InputFileError(
                path, f"is damaged ({one_line(error)})", "copy or export it again"
            ) from None
    shape = (len(pages), rows, 2 * columns if packed else columns)
    return TiffSections(path, shape, sizes, tuple(pages), packed)


def _whole_pages(path: Path, chain: Chain) -> dict[int, Page]:
    """Return the pages that are images by their number, and refuse a file that misses some."""
    pages = {index: page for index, page in enumerate(chain.pages) if not page.reduced}
    if path.suffix.lower() == GAIN_SUFFIX:
        pages = dict(list(pages.items())[:1])
    elif not chain.whole:
        at_least = len(chain.pages) + chain.cut
        raise InputFileError(
            path,
            f"is truncated: {chain.n_whole} of at least {at_least} frames are whole",
            "copy or export it again",
        )
    if not pages or not all(page.whole for page in pages.values()):
        raise InputFileError(path, "is truncated: it has no whole page", "copy or export it again")
    sizes = sorted({(page.height, page.width) for page in pages.values()})
    if len(sizes) > 1:
        sizes_px = ", ".join(f"{height} × {width}" for height, width in sizes)
        raise InputFileError(
            path, f"has pages of different sizes ({sizes_px} px)", "export its frames alone"
        )
    return pages


def _refuse_colours(path: Path, page: TiffPage) -> None:
    """Refuse what is no grey image of real numbers."""
    if page.samplesperpixel != 1:
        problem = f"has {page.samplesperpixel} values a pixel: colours, not a grey image"
    elif page.photometric == _PALETTE:
        problem = "has a palette of colours: no grey image"
    elif page.dtype is None or page.dtype.kind not in "biuf":
        kind = "complex" if page.dtype is not None and page.dtype.kind == "c" else "unknown"
        problem = f"has {page.bitspersample}-bit pixels of a type that is {kind}"
    else:
        return
    raise InputFileError(path, problem, "export it as grey TIFF or MRC")


def _is_packed(page: TiffPage) -> bool:
    """Tell whether each byte holds two pixels."""
    by_serialem = "SerialEMCCD" in page.description and "4 bits packed" in page.description
    return page.dtype == np.uint8 and (by_serialem or page.shape in _HALVED_SHAPES)


def _refuse_missing(path: Path, present: int, page: TiffPage) -> None:
    """Refuse a file with fewer pages than the program that wrote it says."""
    match = re.search(r"^images=(\d+)", page.description, flags=re.MULTILINE)
    declared = int(match[1]) if match and page.is_imagej else present
    if present < declared:
        raise InputFileError(
            path,
            f"holds {present} of the {declared} images that its description names",
            "copy it again, or export it with one page an image (BigTIFF)",
        )


def _pixel_sizes(page: TiffPage) -> tuple[float, float] | None:
    """Return Å/px along x and y from the resolution tags, as IMOD, SerialEM and RELION write them.

    A resolution that can only be that of a screen or a printer does not count.
    """
    unit = page.tags.valueof(_RESOLUTION_UNIT)
    angstrom = _ANGSTROM.get(int(unit)) if unit is not None else None
    if angstrom is None and page.is_imagej:
        match = re.search(r"^unit=(.+)$", page.description, flags=re.MULTILINE)
        angstrom = _ANGSTROM_IN_WORDS.get(match[1].strip().lower()) if match else None
    x = page.tags.valueof(_X_RESOLUTION)
    y = page.tags.valueof(_Y_RESOLUTION, default=x)
    if angstrom is None or x is None or 0 in (*x, *y):
        return None
    return plausible((angstrom * x[1] / x[0], angstrom * y[1] / y[0]))


def write_tiff(
    path: Path,
    pixels: Float[Tensor, "rows columns"],
    pixel_size_angstrom: float | None,
    *,
    label: str = "clearice",
) -> None:
    """Write an image of one page, uncompressed, turned as it is read, atomically.

    Args:
        path: The file to write.
        pixels: Intensities, written as they are.
        pixel_size_angstrom: Å/px, kept as pixels a centimetre; None leaves it out.
        label: The description of the image.

    Raises:
        OutputError: The file cannot be written.
    """
    upright = np.ascontiguousarray(pixels.detach().cpu().numpy()[::-1])
    scale = {} if pixel_size_angstrom is None else _resolution(pixel_size_angstrom)
    with atomic_path(path) as temporary:
        # Without metadata of tifffile's own: equal pixels give equal files.
        imwrite(
            temporary,
            upright,
            photometric="minisblack",
            metadata=None,
            description=label.encode(),
            **scale,
        )


def _resolution(pixel_size_angstrom: float) -> dict[str, Any]:
    a_centimetre = _ANGSTROM[_CENTIMETRE] / pixel_size_angstrom
    return {"resolution": (a_centimetre, a_centimetre), "resolutionunit": _CENTIMETRE}
