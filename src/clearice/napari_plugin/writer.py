"""Image layers as MRC files with their pixel size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from clearice import io
from clearice.errors import OutputError
from clearice.napari_plugin.layers import pixel_size_of

# MRC has no unsigned bytes; all other types become float32.
_KEPT: Final = {name: name for name in ("int8", "int16", "uint16", "float16")} | {"uint8": "int16"}


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a layer, atomically; its first row becomes the first of the file.

    Args:
        path: The file to write.
        data: (rows, columns) or (sections, rows, columns).
        attributes: Of the layer: `name`, `scale`, `units` and so on.

    Returns:
        The file.

    Raises:
        UserError: The units or pixels cannot be a micrograph's.
        OutputError: The layer is no grey image or stack, or the file cannot be written.
    """
    if attributes.get("multiscale"):
        data = data[0]
    ndim = len(data.shape)
    if attributes.get("rgb") or ndim not in (2, 3):
        raise OutputError(f"{path}: MRC holds grey images and stacks of them; save it as TIFF")
    scale = attributes.get("scale", (1.0,) * ndim)
    units = attributes.get("units", ("pixel",) * ndim)
    pixel_size = pixel_size_of(str(attributes.get("name", "")), scale, units)
    # float32 holds every value of the types that are kept.
    pixels = torch.from_numpy(np.array(data, dtype=np.float32))
    dtype = _KEPT.get(np.dtype(data.dtype).name, "float32")
    io.write_mrc(Path(path), pixels, pixel_size, dtype=dtype)
    return [path]
