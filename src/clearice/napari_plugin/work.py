"""What the widget does, without napari: one layer's pixels through one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearice.denoise import Denoiser
from clearice.denoise.network import describe_mismatch
from clearice.devices import choose_device
from clearice.errors import UserError
from clearice.napari_plugin.layers import Array

SHOWN, EACH, MEAN = "the one that is shown", "each", "their mean"


class StoppedError(Exception):
    """The user does not want the result any more."""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        name: Of the layer.
        pixels: (rows, columns) or (images, rows, columns); may stay on disk.
        pixel_size_angstrom: Å/px, if the layer says so.
        model: A run's folder or a model file.
        device: As the command's `--device`.
        tile: As the command's `--tile`.
        restore_amplitude: As the command's `--restore-amplitude`.
        images: Of a stack: `SHOWN`, `EACH` or `MEAN`.
        shown: Number of the image that is shown.
    """

    name: str
    pixels: Any
    pixel_size_angstrom: float | None
    model: Path
    device: str = "auto"
    tile: int | None = None
    restore_amplitude: bool = False
    images: str = SHOWN
    shown: int = 0


@dataclass(frozen=True)
class Denoised:
    """A result.

    Attributes:
        pixels: (rows, columns), or (images, rows, columns) if each of a stack was denoised.
        label: What was done, in a few words.
        caveats: What the user should know, a sentence each.
    """

    pixels: Array
    label: str
    caveats: tuple[str, ...]


def denoise(request: Request, tick: Callable[[str], None]) -> Denoised:
    """Denoise a layer.

    Args:
        request: What is asked for.
        tick: Called with what is done so far, in words, after each tile; may raise to stop.

    Raises:
        ClearIceError: The layer, the model or the device cannot be used.
    """
    pixels = request.pixels
    if len(pixels.shape) not in (2, 3):
        raise UserError(f"layer '{request.name}': is no micrograph or stack of them")
    denoiser = Denoiser(
        request.model,
        choose_device(request.device),
        request.tile,
        restore_amplitude=request.restore_amplitude,
    )
    ticker = _Ticker(denoiser, tick)
    if len(pixels.shape) == 2 or request.images == SHOWN:
        image = pixels if len(pixels.shape) == 2 else pixels[request.shown]
        result = _denoise_one(request.name, image, denoiser)
    elif request.images == MEAN:
        result = _denoise_one(request.name, _mean(pixels, tick), denoiser)
    else:
        images = []
        for index, image in enumerate(pixels):
            ticker.begin(f"image {index + 1} of {len(pixels)}, ")
            images.append(_denoise_one(request.name, image, denoiser))
        result = np.stack(images)
    size = request.pixel_size_angstrom
    mismatch = None if size is None else describe_mismatch(denoiser.info, size)
    caveats = (mismatch and f"the layer {mismatch}", denoiser.caveat)
    return Denoised(result, denoiser.label, tuple(text for text in caveats if text))


def _denoise_one(name: str, image: Any, denoiser: Denoiser) -> Array:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    least, most = (float(value) for value in pixels.aminmax())
    if not np.isfinite(most - least):
        raise UserError(f"layer '{name}': has NaN or infinite pixels; mask them first")
    if least == most:
        raise UserError(f"layer '{name}': is constant (every pixel {least:g}); choose another")
    return denoiser(pixels).numpy()


def _mean(stack: Any, tick: Callable[[str], None]) -> Array:
    total = np.zeros(stack.shape[1:], np.float64)
    for index in range(len(stack)):
        total += np.asarray(stack[index])
        tick(f"image {index + 1} of {len(stack)} read")
    return total / len(stack)


class _Ticker:
    """Counts the tiles of a denoiser."""

    def __init__(self, denoiser: Denoiser, tick: Callable[[str], None]) -> None:
        self._tick = tick
        self.begin("")
        tick("model loaded")
        denoiser.network.register_forward_hook(self._count)

    def begin(self, image: str) -> None:
        """Count anew, for an image that is called so."""
        self._image = image
        self._done = 0

    def _count(self, _network: torch.nn.Module, _given: Any, _output: Tensor) -> None:
        self._done += 1
        self._tick(f"{self._image}tile {self._done} done")
