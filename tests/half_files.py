"""Denoised halves on disk, as `clearice denoise DATASET --halves` leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from helpers import smooth_image, write_image

Denoise = Callable[[Tensor], Tensor]


def write_halves(
    folder: Path,
    denoise: Denoise,
    *,
    micrographs: int = 6,
    size: int = 96,
    noise: float = 1.0,
    sigma_px: float = 1.0,
    pattern: Tensor | float | Callable[[int], Tensor] = 0.0,
    gradient: float = 0.0,
    pixel: float = 1.5,
    seed: int = 0,
) -> Path:
    """Write micrographs of smooth signals, no two alike and not periodic, and their truth."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(micrographs):
        wide = smooth_image(generator, size + 32, sigma_px)
        signal = wide[16:-16, 16:-16] + gradient * torch.linspace(-1, 1, size)[:, None]
        write_image(folder / "truth" / f"mic{index}.mrc", signal, pixel)
        shared = pattern(index) if callable(pattern) else pattern
        for half in ("even", "odd"):
            raw = 10 + signal + shared + noise * torch.randn(size, size, generator=generator)
            write_image(folder / f"raw_{half}" / f"mic{index}.mrc", raw, pixel)
            write_image(folder / f"denoised_{half}" / f"mic{index}.mrc", denoise(raw), pixel)
    return folder
