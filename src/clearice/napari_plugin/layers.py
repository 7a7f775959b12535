"""What napari's layers are made of: scales in Å, contrast, stacks that stay on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np

from clearice.errors import UserError
from clearice.types import FrameSource

Array = np.ndarray[Any, np.dtype[Any]]

_ANGSTROM_IN: Final = {"angstrom": 1.0, "nanometer": 10.0, "micrometer": 1e4}
_CONTRAST_PERCENT: Final = (0.2, 99.8)
_LOOKED_AT: Final = 512


@final
class LazyStack:
    """Frames as the array that napari slices; each is read from disk when it is looked at.

    Args:
        frames: The frames, (rows, columns) each.
        height: Rows, px.
        width: Columns, px.
    """

    ndim: Final = 3
    dtype: Final = np.dtype(np.float32)

    def __init__(self, frames: FrameSource, height: int, width: int) -> None:
        self._frames = frames
        self.shape = (len(frames), height, width)
        self.size = len(frames) * height * width

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Array:
        """Index as numpy does: an integer, slice or list along the frames, then within them."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        if first is Ellipsis:
            first, rest = slice(None), [Ellipsis, *rest]
        chosen = np.arange(len(self))[first]
        if chosen.ndim == 0:
            return self._frames[int(chosen)].numpy()[tuple(rest)]
        inner = [self._frames[int(i)].numpy()[tuple(rest)] for i in chosen]
        return np.stack(inner) if inner else np.empty((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:].astype(dtype or self.dtype, copy=False)


def contrast_of(image: Array) -> tuple[float, float] | None:
    """Return grey levels that hot pixels do not stretch; None for an image without contrast.

    Args:
        image: (rows, columns).
    """
    rows, columns = (max(1, length // _LOOKED_AT) for length in image.shape)
    low, high = np.percentile(image[::rows, ::columns], _CONTRAST_PERCENT)
    return (float(low), float(high)) if low < high else None


def pixel_size_of(name: str, scale: Sequence[float], units: Sequence[Any]) -> float | None:
    """Return the pixel size of a layer, Å/px; None where its scale is in pixels.

    Args:
        name: Of the layer, for the message.
        scale: Of its axes, rows and columns last.
        units: Of its axes, in words.

    Raises:
        UserError: Rows and columns differ, or the unit is none of Å, nm, µm.
    """
    (row, column), (unit, other) = scale[-2:], (str(unit) for unit in units[-2:])
    if unit == other == "pixel":
        return None
    if unit != other or unit not in _ANGSTROM_IN:
        raise UserError(
            f"layer '{name}': has the units {unit} and {other}; set both to angstrom, or to pixel"
        )
    if not abs(row - column) <= 0.01 * abs(column):
        raise UserError(f"layer '{name}': has oblong pixels ({column:g} × {row:g}); resample it")
    return round(float(column) * _ANGSTROM_IN[unit], 6)
