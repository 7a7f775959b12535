"""A trained network made ready for whole micrographs."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clearice.checkpoint import BEST_NAME, ModelInfo, load_model
from clearice.data import Affine, DeviceAffine
from clearice.denoise import orientations
from clearice.denoise.tiles import plan_tiles, stitch
from clearice.devices import free_memory_bytes
from clearice.errors import CheckpointError, ConfigError
from clearice.fourier import radial_filter
from clearice.networks import (
    Geometry,
    fold,
    inputs_of,
    measure_geometry,
    pad_to_multiple,
    place,
)

# On a CPU a tile should stay in the caches; on a GPU larger ones launch fewer kernels.
_CPU_TILE: Final = 1024
# Largest first; 0 is the whole image.
_GPU_TILES: Final = (0, 4096, 2048, 1024, 512, 256)
# What networks take at most in float32 is measured in docs/results/speed.md: 360 bytes.
_BYTES_PER_PX: Final = 512
_SHARE_OF_FREE_MEMORY: Final = 0.5
_MIRRORED_PX = 64
# The transform of a whole image takes about 30 bytes/px beside it.
_LARGEST_ON_DEVICE_PX = 64 * 2**20


@dataclass(frozen=True)
class Recipe:
    """All that a denoiser is made from but its device, so that other processes can make it too.

    Attributes:
        model: A run's folder or a model file.
        tile: Edge of a tile, px; 0 is the whole image; None: as memory allows.
        precision: Of the network.
        restore_amplitude: Bring each ring of the spectrum to the power of the signal.
        tta: Average over the eight orientations of each image.
    """

    model: Path
    tile: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    restore_amplitude: bool = False
    tta: bool = False

    def on(self, device: torch.device) -> Denoiser:
        """Load it onto a device.

        Raises:
            CheckpointError: The model cannot be loaded, or has no calibration to restore by.
        """
        return Denoiser(
            self.model,
            device,
            self.tile,
            self.precision,
            restore_amplitude=self.restore_amplitude,
            tta=self.tta,
        )


@final
class Denoiser:
    """Denoises whole micrographs with one model.

    Args:
        model: A run's folder or a model file.
        device: Where to compute.
        tile: Edge of a tile, px; 0 is the whole image; None: as memory allows.
        precision: Of the network.
        restore_amplitude: Bring each ring of the spectrum to the power of the signal, by the
            model's calibration.
        tta: Average over the eight orientations of each image, which takes eight times as long.

    Raises:
        CheckpointError: The model cannot be loaded, or has no calibration to restore by.
    """

    def __init__(
        self,
        model: Path,
        device: torch.device,
        tile: int | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        *,
        restore_amplitude: bool = False,
        tta: bool = False,
    ) -> None:
        self.recipe = Recipe(model, tile, precision, restore_amplitude, tta)
        network, self.info = load_model(model)
        gain = _calibrated_gain(model, self.info) if restore_amplitude else None
        self._gain = None if gain is None else gain.to(device)
        stride: int = network.total_stride  # type: ignore[assignment]
        self.geometry: Geometry = measure_geometry(network, stride)
        self.network = place(fold(network), device)
        self.device = device
        self._too_large = sys.maxsize
        self._fits: dict[torch.Size, int] = {}

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
        return self.together(pixels.to(self.device, torch.float32)[None], affine=affine)[0].cpu()

    def together(
        self,
        images: Float[Tensor, "k h w"],
        shares: Sequence[float] = (1.0,),
        affine: Affine | DeviceAffine | None = None,
    ) -> Float[Tensor, "k h w"]:
        """Denoise images of one micrograph with one normalisation, without waiting for a GPU.

        Args:
            images: On the device, in any unit: the full dose first, then parts of it.
            shares: Of each in the full dose.
            affine: Normalisation, if not that of the first image.

        Returns:
            Denoised intensities in the same unit, where `normalised` leaves them.
        """
        if affine is None:
            of = DeviceAffine.of if self.device.type == "cuda" else Affine.of
            affine = of(images[0])
        outputs = [
            self.normalised(affine.apply(image), share)
            for image, share in zip(images, shares, strict=True)
        ]
        results = [affine.invert(output * self.info.output_gain) for output in outputs]
        return results[0][None] if len(results) == 1 else torch.stack(results)

    @torch.inference_mode()
    def normalised(self, image: Float[Tensor, "h w"], dose: float = 1.0) -> Float[Tensor, "h w"]:
        """Apply the network to a normalised image, tile by tile, and restore amplitudes if asked.

        Args:
            image: Normalised as what the network was trained on.
            dose: Of the image, over that of a whole micrograph: 0.5 for a half.

        Returns:
            On the device, or on the CPU if the amplitudes of a large image are restored.
        """
        if self.info.domain is not None:
            return self._by_itself(image.to(self.device), dose)
        return self._output(image, dose)

    def _by_itself(self, image: Float[Tensor, "h w"], dose: float) -> Float[Tensor, "h w"]:
        """Denoise as a general model learnt: each image, a half too, by its own mean and spread."""
        own = DeviceAffine.of(image) if self.device.type == "cuda" else Affine.of(image)
        output = self._output(own.apply(image), dose)
        std, mean = (torch.as_tensor(v).to(output) for v in (own.std, own.mean))
        return output * std + mean / self.info.output_gain

    def _output(self, image: Float[Tensor, "h w"], dose: float) -> Float[Tensor, "h w"]:
        height, width = image.shape
        padded = pad_to_multiple(image.to(self.device)[None, None], self.geometry.stride)[0, 0]
        # A number from the host's memory would make the host wait for the device.
        told = torch.full((1,), math.log2(dose), device=self.device)
        work = partial(self._stitched, told)
        output = orientations.averaged(padded, work) if self.recipe.tta else work(padded)
        output = output[:height, :width]
        if self._gain is None:
            return output
        return restore_amplitude(output.to(_place_to_restore(output)), self._gain)

    def _stitched(
        self, dose: Float[Tensor, "1"], image: Float[Tensor, "h w"]
    ) -> Float[Tensor, "h w"]:
        """Apply the network in tiles that fit; those of the next images are no larger."""
        work = partial(self._window, dose)
        (rows, columns), geometry = image.shape, self.geometry
        for size in self._tile_sizes(image):
            tiles = plan_tiles(rows, columns, size, geometry.halo, geometry.stride)
            try:
                result = stitch(image, tiles, work)
                self._fits[image.shape] = size
                return result
            except torch.OutOfMemoryError:
                self._too_large = size or max(rows, columns)
            torch.cuda.empty_cache()  # outside of the handler, which holds what did not fit
        raise ConfigError(
            f"the network does not fit into the GPU's memory with tiles of {self._too_large} px; "
            f"give --tile {max(64, self._too_large // 2)}, or free memory that other programs hold"
        )

    def _tile_sizes(self, image: Float[Tensor, "h w"]) -> Iterator[int]:
        """Yield edges of tiles to try, the largest first."""
        tile = self.recipe.tile
        if tile is not None or self.device.type != "cuda":
            yield _CPU_TILE if tile is None else tile
            return
        if (known := self._fits.get(image.shape)) is not None:
            yield known
        room = free_memory_bytes(self.device) * _SHARE_OF_FREE_MEMORY / _BYTES_PER_PX
        for size in _GPU_TILES:
            pixels = (size + 2 * self.geometry.halo) ** 2 if size else image.numel()
            last = size == _GPU_TILES[-1]
            if last or (pixels <= room and (size or max(image.shape)) < self._too_large):
                yield size

    @property
    def label(self) -> str:
        """What was done, in a few words for a file's header."""
        restored = "" if self._gain is None else ", amplitudes restored"
        averaged = ", 8 orientations" if self.recipe.tta else ""
        masked = ", masked" if self.info.target == "masked" else ""
        return f"{self.info.network}{masked}{averaged}{restored}"

    @property
    def caveat(self) -> str | None:
        """What a user of the model must know, in a sentence, if it was not learnt from pairs."""
        if self.info.target != "masked":
            return None
        return (
            "this model was trained without halves, by blind spots (Noise2Void, target: masked): "
            "it learnt less than Noise2Noise would, and keeps noise that neighbouring pixels share"
        )

    def _window(
        self, dose: Float[Tensor, "1"], window: Float[Tensor, "1 1 h w"]
    ) -> Float[Tensor, "1 1 h w"]:
        half = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.network(*inputs_of(self.network, window, dose)).float()


def _place_to_restore(image: Float[Tensor, "h w"]) -> torch.device:
    """Return where the transform of an image fits: tiles bound the network's memory, not its."""
    return torch.device("cpu") if image.numel() > _LARGEST_ON_DEVICE_PX else image.device


def _calibrated_gain(model: Path, info: ModelInfo) -> Float[Tensor, "rings"]:
    if info.calibration is None:
        best = model.with_name(BEST_NAME)
        remedy = (
            f"give {best}, which alone of a run is calibrated"
            if model.is_file() and model.name != BEST_NAME and best.exists()
            else "train on movies or halves, without which nothing tells signal from noise"
            if info.target == "masked"
            else "let 'clearice train DATASET --out RUN --resume' add it, with the version that "
            "trained it (the data set needs validation micrographs)"
        )
        raise CheckpointError(
            f"{model}: has no calibration of its amplitudes; leave --restore-amplitude out, or "
            f"{remedy}"
        )
    return torch.tensor(info.calibration.gain)


def restore_amplitude(
    image: Float[Tensor, "h w"], gain: Float[Tensor, "rings"]
) -> Float[Tensor, "h w"]:
    """Multiply the spectrum of an image by a gain, interpolated between rings; its mean stays.

    Frequencies are counted in cycles/px whatever the pixel size: a network sees pixels, so what it
    does to a frequency goes with the pixels too.

    Args:
        image: Any image.
        gain: Of equally wide rings from 0 to 0.5 cycles/px; beyond the last one it holds.
    """
    height, width = image.shape
    mean = image.mean()
    # A jump between opposite edges would ring once fine detail is raised.
    margins = [min(_MIRRORED_PX, length - 1) for length in (height, width)]
    (top, left), pad = margins, functional.pad
    padded = pad((image - mean)[None, None], (left, left, top, top), mode="reflect")[0, 0]
    restored = radial_filter(padded, lambda f: _between_rings(gain.to(image), f))
    return restored[top : top + height, left : left + width] + mean


def _between_rings(
    gain: Float[Tensor, "rings"], frequency: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    last = len(gain) - 1
    position = (frequency * 2 * len(gain) - 0.5).clamp(0, last)
    ring = position.floor().long()
    part = position - ring
    return gain[ring] * (1 - part) + gain[(ring + 1).clamp(max=last)] * part


def describe_mismatch(info: ModelInfo, pixel_size_angstrom: float) -> str | None:
    """Return a sentence if a micrograph's pixel size is over 10 % from the model's."""
    if info.domain is not None:
        return _outside(info.domain.pixel_size_angstrom, pixel_size_angstrom, "has", "Å/px")
    if abs(pixel_size_angstrom / info.pixel_size_angstrom - 1) <= 0.1:
        return None
    return (
        f"has {pixel_size_angstrom:g} Å/px, but the model was trained at "
        f"{info.pixel_size_angstrom:g} Å/px: expect a worse result, or train on this data"
    )


def describe_dose_mismatch(info: ModelInfo, dose_e_per_A2: float | None) -> str | None:
    """Return a sentence if a dose is over 1.5 times the model's, or under two thirds of it.

    Noise grows as the root of the dose: within these bounds it is within a quarter of what the
    network expects.
    """
    if dose_e_per_A2 is not None and info.domain is not None:
        return _outside(info.domain.dose_e_per_A2, dose_e_per_A2, "the dose is", "e/Å²")
    if dose_e_per_A2 is None or info.dose_e_per_A2 is None:
        return None
    if 2 / 3 <= dose_e_per_A2 / info.dose_e_per_A2 <= 1.5:
        return None
    return (
        f"the dose is {dose_e_per_A2:g} e/Å², but the model was trained at "
        f"{info.dose_e_per_A2:g} e/Å²: expect a worse result, or train on this data"
    )


def _outside(span: tuple[float, float], value: float, what: str, unit: str) -> str | None:
    """Return a sentence if a value is outside of what a general model was trained on."""
    low, high = span
    if low <= value <= high:
        return None
    return (
        f"{what} {value:g} {unit}, but the model was trained on {low:g} to {high:g} {unit}: "
        "expect a worse result, or train on this data"
    )
