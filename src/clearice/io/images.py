"""Movies, micrographs and references in any format, told apart by their content and name."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from clearice.io.digital_micrograph import open_dm
from clearice.io.eer import COMPRESSIONS, open_eer
from clearice.io.formats import format_of
from clearice.io.mrc import open_mrc
from clearice.io.png import open_png
from clearice.io.sections import Sections, image_of, micrograph_of, movie_of, require_file
from clearice.io.tiff import open_tiff
from clearice.io.tiff_chain import read_chain
from clearice.types import EventFractions, Micrograph, Movie

_DEFAULT_EVENTS = EventFractions()


def open_movie(
    path: Path,
    pixel_size_angstrom: float | None = None,
    events: EventFractions = _DEFAULT_EVENTS,
    fallback_pixel_size_angstrom: float | None = None,
) -> Movie:
    """Open a movie without reading its frames.

    Args:
        path: MRC stack (also .gz, .bz2), multi-page TIFF or EER.
        pixel_size_angstrom: Å/px of the frames; overrides the file.
        events: How the events of an EER movie become frames.
        fallback_pixel_size_angstrom: Å/px to take where the file says nothing.

    Raises:
        InputFileError: The file is missing, damaged, truncated or has fewer than two frames.
    """
    source = _open(path, events)
    if source.pixel_sizes is None:
        pixel_size_angstrom = pixel_size_angstrom or fallback_pixel_size_angstrom
    return movie_of(source, pixel_size_angstrom)


def read_micrograph(path: Path, pixel_size_angstrom: float | None = None) -> Micrograph:
    """Read a two-dimensional image.

    Args:
        path: MRC file with one section, TIFF with one page, or grey PNG.
        pixel_size_angstrom: Å/px; overrides the file.

    Raises:
        InputFileError: The file is missing, damaged, has several sections, colours, NaN or
            constant pixels.
    """
    return micrograph_of(_open(path), pixel_size_angstrom)


def read_image(path: Path) -> Float[Tensor, "h w"]:
    """Read a gain reference or a map of defects: a 2-D image whose pixel size does not matter.

    Args:
        path: MRC, TIFF, Falcon's `.gain`, DigitalMicrograph or PNG file. Rows are turned so that
            it fits movies of every format, see `clearice.io.sections`.

    Raises:
        InputFileError: The file is missing, damaged, has several sections, colours or NaN pixels.
    """
    return image_of(_open(path))


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return (sections, rows, columns), reading only headers.

    An EER movie has as many sections as fractions by default.

    Raises:
        InputFileError: The file is missing, empty, truncated or not readable as images.
    """
    return _open(path).shape


def _open(path: Path, events: EventFractions = _DEFAULT_EVENTS) -> Sections:
    require_file(path)
    match format_of(path):
        case "tiff" | "eer" as kind:
            chain = read_chain(path)
            if kind == "eer" or (chain.pages and chain.pages[0].compression in COMPRESSIONS):
                return open_eer(path, events, chain)
            return open_tiff(path, chain)
        case "png":
            return open_png(path)
        case "dm":
            return open_dm(path)
        case "mrc":
            return open_mrc(path)
