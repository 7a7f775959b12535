"""Electron events of raw EER frames, counted in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, final

import numpy as np
import torch

from clearice.errors import InputFileError
from clearice.io.sections import Pixels, one_line, reading


class EventCounter(Protocol):
    """Counts the events of raw frames in pixels."""

    def count(self, first: int, end: int, shape: tuple[int, int]) -> Pixels:
        """Return the events in each pixel in the raw frames from `first` to before `end`."""
        ...


@final
@dataclass(frozen=True)
class VitrioEvents:
    """Events that `vitrio` decodes; the file is opened anew for each block.

    Attributes:
        path: The movie.
        upsampling: Pixels along each axis of a physical pixel.
        run_bits: Bits of the number of pixels without an event before each event.
        sizes: Bytes of each raw frame.
    """

    path: Path
    upsampling: int
    run_bits: int
    sizes: tuple[int, ...]

    def count(self, first: int, end: int, shape: tuple[int, int]) -> Pixels:
        vitrio = import_vitrio(self.path)
        try:
            reader = vitrio.detector_event_timeline_reader_provider().acquire(str(self.path))
            given = reader.descriptor
            timeline = vitrio.DetectorEventTimeline(given.rank)
            reader.read(first, end, timeline)
        except (RuntimeError, ValueError, IndexError) as error:
            raise _damaged(self.path, one_line(error).removeprefix(f"{self.path}: ")) from None
        if any(parts % self.upsampling for parts in given.subdivisions):
            raise InputFileError(
                self.path, "has events in whole pixels only", "do without upsampling"
            )
        self._refuse_short(given, timeline, range(first, end))
        y_parts, x_parts = (np.uint32(n // self.upsampling) for n in given.subdivisions)
        y, x = np.asarray(timeline.get_positions()).T
        return _counted(y // y_parts * np.uint32(shape[1]) + x // x_parts, shape)

    def _refuse_short(self, given: Any, timeline: Any, frames: range) -> None:
        """Refuse raw frames whose bits end before the last pixel, which `vitrio` takes for whole.

        That is what holes filled with zeros look like.
        """
        times = np.asarray(timeline.timestamps).tolist()
        groups = {time: group for group, time in enumerate(times)}
        rows, columns = (n // k for n, k in zip(given.extents, given.subdivisions, strict=True))
        longest = 2**self.run_bits - 1
        event_bits = self.run_bits + round(np.log2(np.prod(given.subdivisions)))

        def pixels_of(places: Pixels) -> Pixels:
            row, column = (places // given.subdivisions).T
            return row * columns + column

        for frame in frames:
            places = np.empty((0, 2), dtype=np.uint32)
            if frame in groups:
                places = np.asarray(timeline.get_positions(groups[frame]))
            last = pixels_of(places[-1:])
            rest = rows * columns - 1 - (int(last[0]) if last.size else -1)
            if rest < longest:
                continue
            pixels = pixels_of(places)
            long_runs = (np.diff(pixels, prepend=-1) - 1) // longest
            used = event_bits * pixels.size + self.run_bits * int(long_runs.sum())
            if 8 * self.sizes[frame] - used < self.run_bits * -(-rest // longest):
                raise _not_at_its_end(self.path, frame)


@final
@dataclass(frozen=True)
class EightBitEvents:
    """Events in codes of 12 bits, from early cameras.

    A run of 255 pixels without an event is followed by 4 bits that mean nothing, which `vitrio`
    takes for the next code.
    """

    path: Path
    rows: int
    columns: int
    upsampling: int
    strips: tuple[tuple[Pixels, Pixels], ...]

    def count(self, first: int, end: int, shape: tuple[int, int]) -> Pixels:
        places = [self._places(index) for index in range(first, end)]
        return _counted(np.concatenate(places), shape)

    def _places(self, index: int) -> Pixels:
        """Return the pixel of each event of a raw frame, counted along the rows."""
        runs, parts = self._codes(index)
        has_event = runs < 255
        after = np.cumsum(runs + has_event)
        reached = after - has_event
        size = self.rows * self.columns
        stop = int(np.searchsorted(reached, size))
        if stop == len(reached) or reached[stop] != size:
            raise _not_at_its_end(self.path, index)
        there = has_event[:stop]
        pixel, part = reached[:stop][there], parts[:stop][there]
        row, column = np.divmod(pixel, self.columns)
        if self.upsampling == 2:
            row, column = 2 * row + (part >> 3), 2 * column + ((part >> 1) & 1)
        return row * self.columns * self.upsampling + column

    def _codes(self, index: int) -> tuple[Pixels, Pixels]:
        """Return pixels without an event before each one, and its position within the pixel."""
        content = bytearray()
        with reading(self.path), self.path.open("rb") as file:
            for offset, count in zip(*self.strips[index], strict=True):
                file.seek(int(offset))
                content += file.read(int(count))
        content += bytes(-len(content) % 3)
        low, middle, high = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3).T.astype(np.int64)
        codes = np.stack([low | (middle & 15) << 8, middle >> 4 | high << 4], axis=1).ravel()
        # The upper bit of each coordinate is stored inverted.
        return codes & 255, codes >> 8 ^ 0b1010


def _counted(places: Pixels, shape: tuple[int, int]) -> Pixels:
    """Return how many events fall on each pixel, given their pixels counted along the rows.

    PyTorch adds them up as fast as NumPy or vitrio, and lets other threads work meanwhile.
    """
    image = torch.zeros(shape[0] * shape[1])
    index = torch.from_numpy(places.astype(np.int32))
    return image.index_add_(0, index, torch.ones(len(index))).reshape(shape).numpy()


def _not_at_its_end(path: Path, frame: int) -> InputFileError:
    return _damaged(path, f"raw frame {frame + 1} does not end at its last pixel")


def _damaged(path: Path, reason: str) -> InputFileError:
    return InputFileError(path, f"is damaged ({reason})", "copy or export it again")


def import_vitrio(path: Path) -> ModuleType:
    """Return the package, which is young and only needed for EER and DigitalMicrograph files.

    Args:
        path: The file that it is to read, for the message.

    Raises:
        InputFileError: It is not installed, or not for this machine.
    """
    try:
        import vitrio
    except ImportError as error:
        raise InputFileError(
            path,
            f"needs the package vitrio, which is not there ({one_line(error)})",
            "install vitrio, or convert the file to TIFF or MRC",
        ) from None
    return vitrio
