"""The pictures of a collection, made when they are asked for and kept while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from clearice import io
from clearice.errors import ClearIceError
from clearice.types import Micrograph
from clearice.view.collection import Collection, find_collection
from clearice.view.images import (
    Look,
    level_count,
    picture,
    power_spectrum,
    radial_profile,
    spectrum_picture,
    tile,
)

_Asked = TypeVar("_Asked", bound=Hashable)
_Value = TypeVar("_Value")

# Of 4096² pixels: 64 MiB each as numbers, 21 MiB as pictures.
_KEPT_BYTES = 512 << 20
_SPECTRA_BYTES = 16 << 20
# Browsers ask for six things at a time, each of which needs several times the micrograph.
_AT_A_TIME = 2
# Noise hardly shrinks, however hard one tries.
_PNG_EFFORT = 1


class Recent(Generic[_Asked, _Value]):
    """The values used last; each is made once, however many threads ask for it.

    Args:
        make: Makes the value of a key.
        size: Bytes of a value.
        most_bytes: How much is kept; the value used last always is.
    """

    def __init__(
        self, make: Callable[[_Asked], _Value], size: Callable[[_Value], int], most_bytes: int
    ) -> None:
        self._make = make
        self._size = size
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._making: dict[_Asked, Future[_Value]] = {}
        self._values: OrderedDict[_Asked, _Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _Asked) -> _Value:
        """Return the value of a key; an error is raised to all who wait, and not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            future = self._making.get(key)
            mine = future is None
            if future is None:
                future = self._making[key] = Future()
        if mine:
            self._fulfil(key, future)
        return future.result()

    def _fulfil(self, key: _Asked, future: Future[_Value]) -> None:
        try:
            value = self._make(key)
        except BaseException as error:
            with self._lock:
                del self._making[key]
            future.set_exception(error)
            raise
        with self._lock:
            del self._making[key]
            self._values[key] = value
            while len(self._values) > 1 and self._bytes() > self._most_bytes:
                self._values.popitem(last=False)
        future.set_result(value)

    def _bytes(self) -> int:
        return sum(map(self._size, self._values.values()))


class _Key(NamedTuple):
    """A version of a micrograph, as it stands in its file now."""

    number: int
    version: int
    stamp: str


class Store:
    """What can be asked of a collection, by the number of a micrograph and of its version.

    Args:
        collection: The files.
        pixel_size_angstrom: Å/px; overrides lists and headers.
    """

    def __init__(self, collection: Collection, pixel_size_angstrom: float | None = None) -> None:
        self.collection = collection
        self._pixel_size_angstrom = pixel_size_angstrom
        self._micrographs = Recent(self._read, lambda m: m.pixels.nbytes, _KEPT_BYTES)
        self._levels = Recent(self._level, lambda p: p.nbytes, _KEPT_BYTES)
        self._spectra = Recent(self._power, lambda s: len(s[0]), _SPECTRA_BYTES)
        self._turns = threading.BoundedSemaphore(_AT_A_TIME)

    def micrograph(self, number: int, version: int) -> Micrograph:
        """Return one version of a micrograph.

        Raises:
            InputFileError: It cannot be read, or is no micrograph.
        """
        return self._micrographs.get(self._key(number, version))

    def info(self, number: int) -> list[dict[str, Any]]:
        """Return file, size, and levels of each version, or why it cannot be shown."""
        return [self._info(number, version) for version in range(len(self.collection.labels))]

    def tile_png(
        self, number: int, version: int, look: Look, level: int, row: int, column: int
    ) -> bytes | None:
        """Return a tile as PNG, or None where there is none.

        Raises:
            InputFileError: The micrograph cannot be read.
        """
        if level >= level_count(*self.micrograph(number, version).pixels.shape):
            return None
        part = tile(self.picture(number, version, look, level), row, column)
        return io.encode_png(part, _PNG_EFFORT) if part.numel() else None

    def picture(self, number: int, version: int, look: Look, level: int) -> Tensor:
        """Return a picture of `clearice.view.images.picture`.

        Raises:
            InputFileError: The micrograph cannot be read.
        """
        return self._levels.get((self._key(number, version), look, level))

    def spectrum(self, number: int, version: int) -> tuple[bytes, dict[str, Any]]:
        """Return the power spectrum as PNG, and its radial mean.

        Raises:
            InputFileError: The micrograph cannot be read.
        """
        return self._spectra.get(self._key(number, version))

    def values(self, number: int, across: float, down: float) -> list[float | None]:
        """Return the pixel of each version at shares of its width and height; None outside.

        Args:
            number: Of the micrograph.
            across: From the left edge (0) to the right one (1).
            down: From the upper edge to the lower one.
        """
        if not (0 <= across < 1 and 0 <= down < 1):
            return [None] * len(self.collection.labels)
        found: list[float | None] = []
        for version in range(len(self.collection.labels)):
            try:
                pixels = self.micrograph(number, version).pixels
            except ClearIceError:
                found.append(None)
                continue
            rows, columns = pixels.shape
            found.append(float(pixels[rows - 1 - int(down * rows), int(across * columns)]))
        return found

    def _info(self, number: int, version: int) -> dict[str, Any]:
        source = self.collection.files[number][version]
        try:
            micrograph = self.micrograph(number, version)
        except ClearIceError as error:
            return {"file": str(source.path), "error": str(error)}
        height, width = micrograph.pixels.shape
        return {
            "file": str(source.path),
            "width": width,
            "height": height,
            "pixel_size": micrograph.pixel_size_angstrom,
            "assumed": micrograph.pixel_size_assumed,
            "levels": level_count(height, width),
            "stamp": self._key(number, version).stamp,
        }

    def _key(self, number: int, version: int) -> _Key:
        """Return what changes with the file, so that a file made anew is read anew."""
        try:
            status = self.collection.files[number][version].path.stat()
        except OSError:
            return _Key(number, version, "")  # reading it says why
        return _Key(number, version, f"{status.st_mtime_ns:x}-{status.st_size:x}")

    def _read(self, key: _Key) -> Micrograph:
        source = self.collection.files[key.number][key.version]
        return io.read_micrograph(
            source.path, self._pixel_size_angstrom or source.pixel_size_angstrom
        )

    def _level(self, asked: tuple[_Key, Look, int]) -> Tensor:
        key, look, level = asked
        micrograph = self._micrographs.get(key)
        with self._turns:
            return picture(micrograph.pixels, micrograph.pixel_size_angstrom, look, level)

    def _power(self, key: _Key) -> tuple[bytes, dict[str, Any]]:
        pixels = self._micrographs.get(key).pixels
        with self._turns:
            power = power_spectrum(pixels)
        return io.encode_png(spectrum_picture(power)), radial_profile(power)


def open_store(
    inputs: Sequence[Path],
    pixel_size_angstrom: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Store:
    """Find the micrographs of the inputs, and read the first one, so that mistakes show early.

    Args:
        inputs: Files, folders, patterns or STAR lists, one for each version.
        pixel_size_angstrom: Å/px; overrides lists and headers.
        say: Told how many micrographs have not all versions.

    Raises:
        InputFileError: An input is missing or stands for no micrograph, or the first micrograph
            cannot be read.
        PairingError: The inputs have no name in common.
        UserError: There are no inputs, or too many.
    """
    collection = find_collection(inputs)
    if collection.left_out:
        say(f"{collection.left_out} micrographs are not in all inputs and are left out")
    store = Store(collection, pixel_size_angstrom)
    for version in range(len(collection.labels)):
        store.micrograph(0, version)
    return store
