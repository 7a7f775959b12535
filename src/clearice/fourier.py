"""Fourier grids, ring sums and radial filters: pure functions of tensors.

Frequencies are in cycles/px (Nyquist 0.5). Half-spectra are those of `torch.fft.rfft2`,
unnormalised. Device and dtype follow the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor


def frequency_grid(
    height: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "h wf"]:
    """Return the length of the frequency vector of each `rfft2` bin, cycles/px."""
    fy = torch.fft.fftfreq(height, device=device, dtype=dtype)
    fx = torch.fft.rfftfreq(width, device=device, dtype=dtype)
    return torch.hypot(fy[:, None], fx[None, :])


def axis_distance(
    height: int, width: int, *, device: torch.device | None = None
) -> tuple[Int[Tensor, "h 1"], Int[Tensor, "1 wf"]]:
    """Return how many bins each row and each column of an `rfft2` lies from the axes."""
    rows = torch.arange(height, device=device)
    columns = torch.arange(width // 2 + 1, device=device)
    return torch.minimum(rows, height - rows)[:, None], columns[None, :]


def stripe_masks(
    height: int,
    width: int,
    slowest: float,
    beside: tuple[int, int],
    *,
    device: torch.device | None = None,
) -> tuple[Bool[Tensor, "h wf"], ...]:
    """Return the bins of an `rfft2` on each axis, where stripes are, and of those beside it.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        slowest: Lowest frequency along the axis, cycles/px; Nyquist is left out.
        beside: Least and largest distance from the axis of those beside it, bins.
        device: For the masks.

    Returns:
        On the axis of rows, beside it, on the axis of columns, beside it.
    """
    ky, kx = axis_distance(height, width, device=device)
    low, high = beside
    fast_y = (ky > slowest * height) & (2 * ky < height)
    fast_x = (kx > slowest * width) & (2 * kx < width)
    return (
        fast_y & (kx == 0),
        fast_y & (kx >= low) & (kx <= high),
        fast_x & (ky == 0),
        fast_x & (ky >= low) & (ky <= high),
    )


def half_spectrum_weights(width: int, like: Tensor) -> Float[Tensor, "wf"]:
    """Return how often each `rfft2` column stands in the full spectrum: 2, or 1 if mirrored."""
    weights = torch.full((width // 2 + 1,), 2.0, device=like.device, dtype=like.dtype)
    weights[0] = 1.0
    if width % 2 == 0:
        weights[-1] = 1.0
    return weights


def ring_index(
    height: int, width: int, n_rings: int, *, device: torch.device | None = None
) -> Int[Tensor, "h wf"]:
    """Return the ring of each `rfft2` bin: equal widths, `n_rings` of them up to 0.5 cycles/px."""
    frequency = frequency_grid(height, width, device=device, dtype=torch.float64)
    return (frequency * 2 * n_rings).floor().long()


def rings_to_corner(n_rings: int) -> int:
    """Return how many rings of that width reach the corner of the spectrum, √½ cycles/px."""
    return int(math.sqrt(2) * n_rings) + 1


def ring_frequencies(n_rings: int, *, corners: bool = False) -> Float[Tensor, "rings"]:
    """Return the middle of each ring, cycles/px."""
    count = rings_to_corner(n_rings) if corners else n_rings
    return (torch.arange(count, dtype=torch.float64) + 0.5) / (2 * n_rings)


@dataclass(frozen=True)
class RingSums:
    """Sums over Fourier rings for a pair of images; adding two of them pools their images.

    Attributes:
        cross: Re Σ X Y* of each ring.
        power_x: Σ |X|² of each ring.
        power_y: Σ |Y|² of each ring.
        count: Pixels of the full spectrum in each ring.
    """

    cross: Float[Tensor, "rings"]
    power_x: Float[Tensor, "rings"]
    power_y: Float[Tensor, "rings"]
    count: Float[Tensor, "rings"]

    def __add__(self, other: RingSums) -> RingSums:
        return RingSums(
            self.cross + other.cross,
            self.power_x + other.power_x,
            self.power_y + other.power_y,
            self.count + other.count,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> RingSums:
        """Return the same change made to each of the four sums: select rings, or pool them."""
        return RingSums(
            change(self.cross), change(self.power_x), change(self.power_y), change(self.count)
        )


def ring_sums(
    x: Float[Tensor, "h w"], y: Float[Tensor, "h w"], n_rings: int, *, corners: bool = False
) -> RingSums:
    """Sum cross and auto power of two images over Fourier rings, in float64.

    Args:
        x: First image.
        y: Second image, of the same shape.
        n_rings: Number of rings from 0 to Nyquist.
        corners: Go on with rings of the same width up to the corner of the spectrum.

    Returns:
        The sums over the full spectrum (each mirrored bin counted).
    """
    height, width = x.shape
    n_all = rings_to_corner(n_rings)
    fx, fy = torch.fft.rfft2(x.double()), torch.fft.rfft2(y.double())
    rings = ring_index(height, width, n_rings, device=x.device).flatten()
    weights = half_spectrum_weights(width, fx.real).expand(height, -1)

    def total(values: Float[Tensor, "h wf"]) -> Float[Tensor, "rings"]:
        sums = torch.bincount(rings, weights=(values * weights).flatten(), minlength=n_all)
        return sums if corners else sums[:n_rings]

    return RingSums(
        cross=total((fx * fy.conj()).real),
        power_x=total(fx.abs().square()),
        power_y=total(fy.abs().square()),
        count=total(torch.ones_like(fx.real)),
    )


def radial_filter(
    image: Float[Tensor, "*batch h w"], response: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*batch h w"]:
    """Multiply an image's spectrum by a function of frequency (cycles/px)."""
    height, width = image.shape[-2:]
    grid = frequency_grid(height, width, device=image.device, dtype=image.dtype)
    return torch.fft.irfft2(torch.fft.rfft2(image) * response(grid), s=(height, width))


def gaussian_transfer(frequency: Float[Tensor, "..."], sigma_px: float) -> Float[Tensor, "..."]:
    """Return the transfer of a Gaussian of standard deviation `sigma_px` at cycles/px."""
    return torch.exp(-2 * (math.pi * sigma_px * frequency) ** 2)


def highpass_transfer(
    frequency: Float[Tensor, "..."], cutoff: float | Tensor
) -> Float[Tensor, "..."]:
    """Return 1 − exp(−(f/cutoff)² ln 2), f and cutoff in cycles/px."""
    return 1 - torch.exp(-math.log(2) * (frequency / cutoff) ** 2)


def gaussian_lowpass(
    image: Float[Tensor, "*batch h w"], sigma_px: float
) -> Float[Tensor, "*batch h w"]:
    """Convolve with a periodic Gaussian of standard deviation `sigma_px`."""
    return radial_filter(image, lambda f: gaussian_transfer(f, sigma_px))


def highpass(
    image: Float[Tensor, "*batch h w"], cutoff: float | Tensor
) -> Float[Tensor, "*batch h w"]:
    """Remove what is slower than `cutoff` (cycles/px), see `highpass_transfer`.

    A tensor of cutoffs must broadcast with the spectra of the images.
    """
    return radial_filter(image, lambda f: highpass_transfer(f, cutoff))


def apply_ring_gain(
    image: Float[Tensor, "h w"], gain: Float[Tensor, "rings"], n_rings: int | None = None
) -> Float[Tensor, "h w"]:
    """Multiply each Fourier ring of an image by its own factor; beyond the last one it holds.

    Args:
        image: Any image.
        gain: Factor of each ring.
        n_rings: Rings up to Nyquist, if `gain` goes on beyond it.
    """
    height, width = image.shape
    rings = ring_index(height, width, n_rings or len(gain), device=image.device)
    factors = gain.to(image)[rings.clamp(max=len(gain) - 1)]
    return torch.fft.irfft2(torch.fft.rfft2(image) * factors, s=(height, width))


def shift_spectrum(
    spectrum: Complex[Tensor, "h wf"], width: int, shift_px: tuple[float, float]
) -> Complex[Tensor, "h wf"]:
    """Shift an image by (rows, columns) px, given its half-spectrum: white noise stays white."""
    height = spectrum.shape[0]
    fy = torch.fft.fftfreq(height, device=spectrum.device, dtype=spectrum.real.dtype)
    fx = torch.fft.rfftfreq(width, device=spectrum.device, dtype=spectrum.real.dtype)
    angle = -2 * math.pi * (fy[:, None] * shift_px[0] + fx[None, :] * shift_px[1])
    return spectrum * torch.polar(torch.ones_like(angle), angle)


def shift_keeping_power(
    spectrum: Complex[Tensor, "h wf"], width: int, shift_px: tuple[float, float]
) -> Complex[Tensor, "h wf"]:
    """Shift an image by (rows, columns) px with every Fourier pixel keeping its power.

    `shift_spectrum` leaves a half-spectrum that no real image has wherever an axis is even and the
    shift is no whole number, and the inverse transform then drops part of the last column. Here its
    two halves turn in opposite directions, and a pixel that is its own mirror image only changes
    sign: white noise stays exactly white, and the opposite shift gives the image back.

    Args:
        spectrum: Half-spectrum of the image.
        width: Columns of the image.
        shift_px: Rows and columns by which its content moves, wrapping around at the edges.
    """
    height, columns = spectrum.shape
    rows = _ramp(torch.fft.fftfreq(height, dtype=torch.float64), shift_px[0])
    across = _ramp(torch.fft.rfftfreq(width, dtype=torch.float64), shift_px[1])
    shifted = spectrum * rows.to(spectrum)[:, None]
    shifted *= across.to(spectrum)
    mirrored = [0] if width % 2 or width == 1 else [0, columns - 1]
    for column in mirrored:
        phase = rows * across[column]
        half = (height + 1) // 2
        # Row −k of these columns is the mirror image of row k.
        phase[height - half + 1 :] = phase[1:half].flip(0).conj()
        own = [0] if height % 2 else [0, height // 2]
        phase[own] = torch.where(phase[own].real < 0, -1.0, 1.0).to(phase)
        shifted[:, column] = spectrum[:, column] * phase.to(spectrum)
    return shifted


def _ramp(frequency: Float[Tensor, "n"], shift_px: float) -> Complex[Tensor, "n"]:
    angle = -2 * math.pi * shift_px * frequency
    return torch.polar(torch.ones_like(angle), angle)
