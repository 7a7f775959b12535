"""What is shown of a micrograph: grey levels in several resolutions, and its power spectrum.

Pictures have the top row first; files and coordinates have the bottom row first, see
`clearice.io.sections`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from clearice.fourier import (
    frequency_grid,
    gaussian_lowpass,
    highpass,
    ring_frequencies,
    ring_index,
)

TILE_PX = 512
SPECTRUM_PX = 512
# Å; 0: none. Few, because the pictures of each are kept.
LOWPASSES = (0, 5, 10, 20, 40)
# The 8 bits hold twice the range between the percentiles, so that contrast can be lowered too.
RANGE = 2.0
_CONTRAST = (0.005, 0.995)
_SAMPLE = 1 << 18
_WAVES = 3
_BACKGROUND_PX = 128
_RINGS = 128


@dataclass(frozen=True)
class Look:
    """How a micrograph is filtered before it is shown.

    Attributes:
        even: Remove waves longer than a third of it, as those of uneven ice.
        lowpass_angstrom: Resolution at which half of the amplitude passes, Å; 0: all.
    """

    even: bool = True
    lowpass_angstrom: float = 0


def picture(
    pixels: Float[Tensor, "h w"], pixel_size_angstrom: float, look: Look, level: int
) -> UInt8[Tensor, "ph pw"]:
    """Return a picture of a micrograph, whose pixels are means of squares of 2^level px.

    Filters work on the means, which is faster. Grey 64 to 191 is the range from the 0.5 to the
    99.5 percentile of that picture: averaging takes noise away, so that one range would not do for
    all levels.

    Args:
        pixels: The micrograph, the bottom row first.
        pixel_size_angstrom: Å/px.
        look: Filters.
        level: From 0, each half as large.
    """
    edge = 2**level
    image = pixels.flip(0)  # a copy
    if level:
        kernel = [min(edge, length) for length in image.shape]
        image = functional.avg_pool2d(image[None, None], kernel, ceil_mode=True)[0, 0]
    if look.even:
        image -= background(image)
    if look.lowpass_angstrom:
        image = _lowpass(image, look.lowpass_angstrom / (pixel_size_angstrom * edge))
    return to_grey(image)


def level_count(height: int, width: int) -> int:
    """Return how many levels there are: the last one is at most 512 px wide and high."""
    levels = 1
    while max(height, width) > TILE_PX:
        height, width, levels = -(-height // 2), -(-width // 2), levels + 1
    return levels


def tile(image: UInt8[Tensor, "h w"], row: int, column: int) -> UInt8[Tensor, "th tw"]:
    """Return one of the tiles of 512 px from the upper left on; those at the edges are smaller."""
    top, left = row * TILE_PX, column * TILE_PX
    return image[top : top + TILE_PX, left : left + TILE_PX]


def to_grey(image: Float[Tensor, "h w"]) -> UInt8[Tensor, "h w"]:
    """Return 8 bits that hold twice the range between the 0.5 and 99.5 percentiles."""
    flat = image.flatten()
    sample = flat[:: max(1, flat.numel() // _SAMPLE)]
    low, high = torch.quantile(sample, torch.tensor(_CONTRAST).to(sample))
    span = RANGE * (high - low).clamp(min=torch.finfo(image.dtype).tiny)
    grey = image * (255 / span)
    grey += 127.5 - 255 * (low + high) / (2 * span)
    return grey.clamp_(0, 255).round_().to(torch.uint8)


def background(image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return the mean and the waves longer than a third of an image, from a small copy of it."""
    shape = [min(length, _BACKGROUND_PX) for length in image.shape]
    small = functional.interpolate(image[None, None], shape, mode="area")[0, 0]
    # Mirrored, so that the filter sees no jump from one edge to the other.
    wide = torch.cat([small, small.flip(1)], 1)
    mirrored = torch.cat([wide, wide.flip(0)], 0)
    slow = (mirrored - highpass(mirrored, _WAVES / max(shape)))[: shape[0], : shape[1]]
    size = tuple(image.shape)
    return functional.interpolate(slow[None, None], size, mode="bilinear")[0, 0]


def _lowpass(image: Float[Tensor, "h w"], half_at_px: float) -> Float[Tensor, "h w"]:
    """Let half of the amplitude pass at waves of that length."""
    sigma_px = half_at_px * math.sqrt(math.log(2) / 2) / math.pi
    rows, columns = (min(math.ceil(4 * sigma_px), length - 1) for length in image.shape)
    padding = (columns, columns, rows, rows)
    wide = functional.pad(image[None, None], padding, mode="reflect")[0, 0]
    smooth = gaussian_lowpass(wide, sigma_px)
    return smooth[rows : rows + image.shape[0], columns : columns + image.shape[1]]


def power_spectrum(pixels: Float[Tensor, "h w"]) -> Float[Tensor, "n n"]:
    """Return the power of a micrograph with frequency 0 in the middle and Nyquist at the edges.

    It is the mean over squares under a Hann window, of 512 px or, where few would fit, 256 px, so
    scaled that white noise has its variance. They overlap by half where there are under 64.

    Args:
        pixels: The micrograph; its rows in any order.

    Source: Welch 1967, IEEE Trans. Audio Electroacoust. 15, 70–73.
    """
    edge = SPECTRUM_PX if min(pixels.shape) >= 4 * SPECTRUM_PX else SPECTRUM_PX // 2
    edge = min(edge, *pixels.shape)
    edge -= edge % 2
    hann = torch.hann_window(edge, dtype=pixels.dtype)
    window = hann[:, None] * hann[None, :]
    # Overlap makes the most of few squares.
    step = edge if pixels.numel() >= 64 * edge**2 else max(edge // 2, 1)
    total = torch.zeros(edge, edge // 2 + 1, dtype=torch.float64)
    strips = pixels.unfold(0, edge, step)
    for strip in strips:
        squares = strip.T.unfold(1, edge, step).transpose(0, 1)
        squares = squares - squares.mean((1, 2), keepdim=True)
        total += torch.fft.rfft2(squares * window).abs().square().double().mean(0)
    return _whole(total / (len(strips) * window.double().square().sum())).float()


def _whole(half: Float[Tensor, "n nf"]) -> Float[Tensor, "n n"]:
    """Return the full plane of a half-spectrum's power, centred."""
    mirrored = half.roll(-1, 0).flip(0)[:, 1:-1].flip(1)
    return torch.fft.fftshift(torch.cat([half, mirrored], 1))


def spectrum_picture(power: Float[Tensor, "n n"]) -> UInt8[Tensor, "n n"]:
    """Return log power, its top row first, stretched between percentiles outside of the middle."""
    edge = len(power)
    log = power.clamp(min=torch.finfo(power.dtype).tiny).log()
    frequency = frequency_grid(edge, edge)
    slow = torch.fft.fftshift(torch.cat([frequency, frequency[:, 1:-1].flip(1)], 1)) < 0.02
    low, high = torch.quantile(log[~slow], torch.tensor([0.005, 0.998]).to(log))
    span = (high - low).clamp(min=torch.finfo(log.dtype).eps)
    return (255 * (log - low) / span).clamp(0, 255).round().to(torch.uint8).flip(0)


def radial_profile(power: Float[Tensor, "n n"]) -> dict[str, Any]:
    """Return log₁₀ of the mean power of rings up to Nyquist, and their frequencies in cycles/px."""
    edge = len(power)
    rings_wanted = min(_RINGS, edge // 2)
    rings = ring_index(edge, edge, rings_wanted).flatten()
    half = torch.fft.ifftshift(power)[:, : edge // 2 + 1].double().flatten()
    sums = torch.bincount(rings, half)[:rings_wanted]
    counts = torch.bincount(rings)[:rings_wanted]
    values = (sums / counts).clamp(min=torch.finfo(torch.float32).tiny).log10()
    return {
        "frequency": ring_frequencies(rings_wanted).tolist(),
        "log_power": [round(value, 4) for value in values.tolist()],
    }
