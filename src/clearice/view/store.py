"""The pictures of a collection, made when they are asked for and kept while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Generic, TypeVar

from clearice import io
from clearice.errors import ClearIceError
from clearice.types import Micrograph
from clearice.view.collection import Collection, find_collection
from clearice.view.images import (
    Look,
    level_count,
    power_spectrum,
    pyramid,
    radial_profile,
    spectrum_picture,
    tile,
)

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

# Of 4096² pixels: 64 MiB each as numbers, 21 MiB as pictures.
_MICROGRAPHS_KEPT = 6
_PYRAMIDS_KEPT = 24
_SPECTRA_KEPT = 64
# Noise hardly shrinks, however hard one tries.
_PNG_EFFORT = 1


class Recent(Generic[_Key, _Value]):
    """The values used last; each is made once, however many threads ask for it.

    Args:
        make: Makes the value of a key.
        most: How many are kept.
    """

    def __init__(self, make: Callable[[_Key], _Value], most: int) -> None:
        self._make = make
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[_Key, Future[_Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _Key) -> _Value:
        """Return the value of a key; an error is raised to all who wait, and not kept."""
        with self._lock:
            future = self._values.get(key)
            mine = future is None
            if future is None:
                future = self._values[key] = Future()
                while len(self._values) > self._most:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
        if mine:
            try:
                future.set_result(self._make(key))
            except BaseException as error:
                with self._lock:
                    if self._values.get(key) is future:
                        del self._values[key]
                future.set_exception(error)
                raise
        return future.result()


class Store:
    """What can be asked of a collection, by the number of a micrograph and of its version.

    Args:
        collection: The files.
        pixel_size_angstrom: Å/px; overrides lists and headers.
    """

    def __init__(self, collection: Collection, pixel_size_angstrom: float | None = None) -> None:
        self.collection = collection
        self._pixel_size_angstrom = pixel_size_angstrom
        self._micrographs = Recent(self._read, _MICROGRAPHS_KEPT)
        self._pyramids = Recent(self._pictures, _PYRAMIDS_KEPT)
        self._spectra = Recent(self._power, _SPECTRA_KEPT)

    def micrograph(self, number: int, version: int) -> Micrograph:
        """Return one version of a micrograph.

        Raises:
            InputFileError: It cannot be read, or is no micrograph.
        """
        return self._micrographs.get((number, version))

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
        pictures = self.pictures(number, version, look)
        if level >= len(pictures):
            return None
        part = tile(pictures[level], row, column)
        return io.encode_png(part, _PNG_EFFORT) if part.numel() else None

    def pictures(self, number: int, version: int, look: Look) -> Any:
        """Return the pictures of `clearice.view.images.pyramid`.

        Raises:
            InputFileError: The micrograph cannot be read.
        """
        return self._pyramids.get((number, version, look))

    def spectrum(self, number: int, version: int) -> tuple[bytes, dict[str, Any]]:
        """Return the power spectrum as PNG, and its radial mean.

        Raises:
            InputFileError: The micrograph cannot be read.
        """
        return self._spectra.get((number, version))

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
        }

    def _read(self, key: tuple[int, int]) -> Micrograph:
        number, version = key
        source = self.collection.files[number][version]
        return io.read_micrograph(
            source.path, self._pixel_size_angstrom or source.pixel_size_angstrom
        )

    def _pictures(self, key: tuple[int, int, Look]) -> Any:
        number, version, look = key
        micrograph = self.micrograph(number, version)
        return pyramid(micrograph.pixels, micrograph.pixel_size_angstrom, look)

    def _power(self, key: tuple[int, int]) -> tuple[bytes, dict[str, Any]]:
        power = power_spectrum(self.micrograph(*key).pixels)
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
