"""DigitalMicrograph images (`.dm3`, `.dm4`), as Gatan's gain references come, through `vitrio`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from clearice.errors import InputFileError
from clearice.io.events import import_vitrio
from clearice.io.sections import Pixels, one_line, require_file


@final
@dataclass(frozen=True)
class DmSections:
    """The image of a DigitalMicrograph file; its calibration is not read."""

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
        try:
            return np.asarray(import_vitrio(self.path).read(str(self.path)))[::-1]
        except (RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from None


def open_dm(path: Path) -> DmSections:
    """Open a DigitalMicrograph file with one image, beside its thumbnail.

    Raises:
        InputFileError: The file is missing, damaged, or holds a stack.
    """
    require_file(path)
    try:
        extents = import_vitrio(path).query_descriptor(str(path)).extents
    except (RuntimeError, ValueError) as error:
        raise _damaged(path, error) from None
    if len(extents) != 2:
        raise InputFileError(path, "holds a stack of images", "convert it to MRC with dm2mrc")
    return DmSections(path, (1, extents[0], extents[1]))


def _damaged(path: Path, error: Exception) -> InputFileError:
    reason = one_line(error).removeprefix(f"{path}: ")
    return InputFileError(
        path,
        f"cannot be read as a DigitalMicrograph file ({reason})",
        "convert it to MRC with dm2mrc",
    )
