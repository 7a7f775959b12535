"""A trained network made ready for whole micrographs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.checkpoint import ModelInfo, load_model
from clearice.data import Affine
from clearice.denoise.tiles import plan_tiles, stitch
from clearice.networks import Geometry, measure_geometry, pad_to_multiple, place

DEFAULT_TILE = 1024


@final
class Denoiser:
    """Denoises whole micrographs with one model.

    Args:
        model: A run's folder or a model file.
        device: Where to compute.
        tile: Edge of a tile, px; 0 is the whole image.
        precision: Of the network.

    Raises:
        CheckpointError: The model cannot be loaded.
    """

    def __init__(
        self,
        model: Path,
        device: torch.device,
        tile: int = DEFAULT_TILE,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        network, self.info = load_model(model)
        stride: int = network.total_stride  # type: ignore[assignment]
        self.geometry: Geometry = measure_geometry(network, stride)
        self.network = place(network, device)
        self._device = device
        self._tile = tile
        self._half = precision == "bfloat16"

    def __call__(
        self, pixels: Float[Tensor, "h w"], affine: Affine | None = None
    ) -> Float[Tensor, "h w"]:
        """Denoise a micrograph.

        Args:
            pixels: Intensities in any unit.
            affine: Normalisation, if not that of the image itself (for a half, that of its
                full-dose image).

        Returns:
            Denoised intensities in the same unit, on the CPU.
        """
        pixels = pixels.to(self._device, torch.float32)
        affine = affine or Affine.of(pixels)
        output = self.normalised(affine.apply(pixels))
        return affine.invert(output * self.info.output_gain).cpu()

    @torch.inference_mode()
    def normalised(self, image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """Apply the network to a normalised image, tile by tile; the result is on the device."""
        image = image.to(self._device)
        height, width = image.shape
        stride = self.geometry.stride
        padded = pad_to_multiple(image[None, None], stride)[0, 0]
        rows, columns = padded.shape
        tiles = plan_tiles(rows, columns, self._tile, self.geometry.halo, stride)
        return stitch(padded, tiles, self._window)[:height, :width]

    def _window(self, window: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 1 h w"]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            return self.network(window).float()


def describe_mismatch(info: ModelInfo, pixel_size_angstrom: float) -> str | None:
    """Return a sentence if a micrograph's pixel size is over 10 % from the model's."""
    if abs(pixel_size_angstrom / info.pixel_size_angstrom - 1) <= 0.1:
        return None
    return (
        f"has {pixel_size_angstrom:g} Å/px, but the model was trained at "
        f"{info.pixel_size_angstrom:g} Å/px: expect a worse result, or train on this data"
    )
