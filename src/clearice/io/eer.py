"""EER movies: electron events of Falcon cameras, counted into frames through `vitrio`.

Each raw frame of the camera (about 250 a second) lists the events of every pixel, at most one a
pixel, with a position within the pixel. Raw frames are summed to fractions, which are the frames
of the movie.

Source: EER file format (Thermo Fisher, EerReaderLib); RELION's `renderEER.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final
from xml.etree import ElementTree

from clearice.errors import InputFileError
from clearice.io.events import EightBitEvents, EventCounter, VitrioEvents
from clearice.io.sections import Pixels, one_line, plausible
from clearice.io.tiff_chain import Chain, Page, read_chain
from clearice.types import EventFractions

_EIGHT_BIT, _SEVEN_BIT, _VARIABLE = 65000, 65001, 65002
COMPRESSIONS = (_EIGHT_BIT, _SEVEN_BIT, _VARIABLE)
_DEFAULT_FRACTIONS = 40
# Raw frames decoded at a time: about 0.4 GB at 4096² and 0.03 events a pixel.
_BLOCK = 32


@final
@dataclass(frozen=True)
class EerSections:
    """Fractions of an EER movie, each counted when it is read.

    Memory is bounded by one image and the events of a few dozen raw frames.
    """

    path: Path
    shape: tuple[int, int, int]
    pixel_sizes: tuple[float, float] | None
    dose_e_per_A2: float | None
    frames_per_fraction: int
    counter: EventCounter
    electron_events: bool = True

    def read(self, index: int) -> Pixels:
        """Return one fraction: events in each pixel.

        Raises:
            InputFileError: Its raw frames cannot be decoded.
        """
        _, rows, columns = self.shape
        first = index * self.frames_per_fraction
        end = first + self.frames_per_fraction
        image = self.counter.count(first, min(end, first + _BLOCK), (rows, columns))
        for begin in range(first + _BLOCK, end, _BLOCK):
            image += self.counter.count(begin, min(end, begin + _BLOCK), (rows, columns))
        return image


def open_eer(path: Path, events: EventFractions, chain: Chain | None = None) -> EerSections:
    """Open an EER movie, reading none of its events.

    Args:
        path: The movie.
        events: Raw frames in a fraction, and how fine pixels are. Raw frames that are left over
            at the end are dropped.
        chain: Its pages, if they are known already.

    Raises:
        InputFileError: The file is missing, truncated, has fewer raw frames than it should have,
            or is no EER movie.
    """
    pages = _raw_frames(path, chain or read_chain(path))
    metadata = _metadata(path, pages[0])
    _refuse_missing(path, len(pages), metadata)
    per_fraction = events.frames_per_fraction or max(1, round(len(pages) / _DEFAULT_FRACTIONS))
    fractions = len(pages) // per_fraction
    if fractions < 1:
        raise InputFileError(
            path,
            f"has {len(pages)} raw frames, fewer than the {per_fraction} of one fraction",
            "put fewer raw frames into a fraction",
        )
    sizes = _pixel_sizes(metadata)
    return EerSections(
        path,
        (fractions, pages[0].height * events.upsampling, pages[0].width * events.upsampling),
        None if sizes is None else (sizes[0] / events.upsampling, sizes[1] / events.upsampling),
        _dose(metadata, sizes, per_fraction / len(pages)),
        per_fraction,
        _counter(path, pages, events.upsampling),
    )


def _raw_frames(path: Path, chain: Chain) -> tuple[Page, ...]:
    """Return the pages, refusing what is cut or no EER movie."""
    if not chain.whole:
        at_least = len(chain.pages) + chain.cut
        raise InputFileError(
            path,
            f"is truncated: {chain.n_whole} of at least {at_least} raw frames are whole",
            "copy it again",
        )
    kinds = {(page.compression, page.height, page.width) for page in chain.pages}
    if not any(page.compression in COMPRESSIONS for page in chain.pages):
        raise InputFileError(path, "holds no electron events", "rename it to .tif if it is TIFF")
    if len(kinds) > 1:
        raise InputFileError(
            path,
            "holds other images among its electron events",
            "convert it to TIFF with relion_convert_to_tiff or EerReaderLib",
        )
    return chain.pages


def _metadata(path: Path, page: Page) -> Mapping[str, tuple[str, str]]:
    """Return values and units by name; an EER movie without metadata has none."""
    # A declaration that XML parsers refuse may come first, and zeros may follow.
    text = page.metadata.decode("utf-8", errors="replace").strip("\0 \r\n\t")
    start = text.find("<metadata")
    if start < 0:
        return {}
    try:
        root = ElementTree.fromstring(text[start:])
    except ElementTree.ParseError as error:
        raise InputFileError(
            path, f"has damaged metadata ({one_line(error)})", "copy it again"
        ) from None
    items = root.iter("item")
    return {i.get("name", ""): ((i.text or "").strip(), i.get("unit", "")) for i in items}


def _number(metadata: Mapping[str, tuple[str, str]], name: str, unit: str) -> float | None:
    """Return a positive number if it is there in the unit that is meant."""
    text, given = metadata.get(name, ("", ""))
    try:
        value = float(text)
    except ValueError:
        return None
    return value if given == unit and 0 < value < float("inf") else None


def _refuse_missing(path: Path, present: int, metadata: Mapping[str, tuple[str, str]]) -> None:
    # More than declared is no fault: an old EPU declared one seventh of them.
    declared = _number(metadata, "numberOfFrames", "")
    if declared is not None and present < declared:
        raise InputFileError(
            path,
            f"holds {present} of the {declared:.0f} raw frames that its metadata name",
            "copy it again",
        )


def _pixel_sizes(metadata: Mapping[str, tuple[str, str]]) -> tuple[float, float] | None:
    """Return Å/px along x and y of a physical pixel, at the specimen."""
    width = _number(metadata, "sensorPixelSize.width", "m")
    height = _number(metadata, "sensorPixelSize.height", "m")
    return plausible((1e10 * width, 1e10 * height)) if width and height else None


def _dose(
    metadata: Mapping[str, tuple[str, str]], sizes: tuple[float, float] | None, share: float
) -> float | None:
    """Return e/Å² in a share of the movie."""
    total = _number(metadata, "totalDose", "e/pixel")
    return total * share / (sizes[0] * sizes[1]) if total and sizes else None


def _counter(path: Path, pages: tuple[Page, ...], upsampling: int) -> EventCounter:
    if upsampling not in (1, 2):
        raise InputFileError(path, f"cannot be upsampled {upsampling} times", "take 1 or 2")
    if pages[0].compression == _EIGHT_BIT:
        strips = tuple((page.offsets, page.byte_counts) for page in pages)
        return EightBitEvents(path, pages[0].height, pages[0].width, upsampling, strips)
    if any(page.offsets.size > 1 for page in pages):
        raise InputFileError(
            path,
            "has raw frames in several strips, which vitrio cannot read",
            "convert it to TIFF with relion_convert_to_tiff",
        )
    run_bits = pages[0].run_bits if pages[0].compression == _VARIABLE else 7
    sizes = tuple(int(page.byte_counts.sum()) for page in pages)
    return VitrioEvents(path, upsampling, run_bits or 7, sizes)
