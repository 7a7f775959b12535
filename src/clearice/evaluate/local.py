"""Local second moments: what two images have in common around each pixel.

Images are cut to the band that particles are seen in and binned, since nothing finer is left; a
Gaussian window then weighs what lies around each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clearice.fourier import (
    frequency_grid,
    gaussian_lowpass,
    highpass_transfer,
    shift_spectrum,
)

WINDOW_ANGSTROM = 150.0
LOWPASS_ANGSTROM = 20.0
HIGHPASS_ANGSTROM = 400.0
# A third of the low-pass: pixels of this size lose nothing of what is left.
_BINNED_ANGSTROM = LOWPASS_ANGSTROM / 3
_FWHM = 2 * math.sqrt(2 * math.log(2))

Image = Float[Tensor, "h w"]


def band_limited(image: Image, pixel_size_angstrom: float) -> Float[Tensor, "bh bw"]:
    """Return an image between 400 and 20 Å, binned, in float64.

    Both cut-offs are at half of the amplitude: 1 − exp(−ln 2 (400 Å f)²) and exp(−ln 2 (20 Å f)²).
    Edges are mirrored.

    Args:
        image: Intensities; their mean is removed.
        pixel_size_angstrom: Å/px.

    Returns:
        Values at the middles of blocks of `bin_factor` pixels an edge; what is left over at the end
        of rows and columns is a smaller block.
    """
    factor = bin_factor(pixel_size_angstrom)
    padded, origin = _padded(image, math.ceil(HIGHPASS_ANGSTROM / pixel_size_angstrom), factor)
    rows, columns = (length // factor for length in padded.shape)
    spectrum = torch.fft.rfft2(padded)
    # Only what the binned image can hold: the low-pass has left nothing beyond.
    half = rows // 2
    kept = torch.cat([spectrum[: rows - half], spectrum[len(spectrum) - half :]])
    kept = kept[:, : columns // 2 + 1].to(torch.complex128)
    grid = frequency_grid(rows, columns, dtype=torch.float64) / (pixel_size_angstrom * factor)
    # From the first pixel of each block to its middle.
    middle = -(factor - 1) / (2 * factor)
    kept = shift_spectrum(kept * band_transfer(grid), columns, (middle, middle))
    filtered = torch.fft.irfft2(kept, s=(rows, columns)) / factor**2
    top, left = (start // factor for start in origin)
    height, width = (-(-length // factor) for length in image.shape)
    return filtered[top : top + height, left : left + width]


def _padded(
    image: Image, reach: int, factor: int
) -> tuple[Float[Tensor, "ph pw"], tuple[int, int]]:
    """Return an image without its mean, mirrored beyond its edges, and where it starts.

    Its size, in blocks, is one that transforms are fast for.
    """
    pads: list[tuple[int, int, int]] = []
    for length in image.shape:
        before = min(reach, length - 1) // factor * factor
        total = factor * _fast(math.ceil((length + 2 * before) / factor))
        after = min(total - length - before, length - 1)
        pads.append((before, after, total - length - before - after))
    (top, bottom, below), (left, right, beyond) = pads
    centred = (image.double() - image.double().mean()).float()[None, None]
    mirrored = functional.pad(centred, (left, right, top, bottom), mode="reflect")
    return functional.pad(mirrored, (0, beyond, 0, below), mode="replicate")[0, 0], (top, left)


def _fast(length: int) -> int:
    """Return the next length with no prime factor above 5."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def band_transfer(frequency: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the amplitude that is kept at a frequency in 1/Å."""
    low = torch.exp(-math.log(2) * (frequency * LOWPASS_ANGSTROM).square())
    return low * highpass_transfer(frequency, 1 / HIGHPASS_ANGSTROM)


def bin_factor(pixel_size_angstrom: float) -> int:
    """Return how many pixels an edge become one."""
    return max(1, int(_BINNED_ANGSTROM / pixel_size_angstrom))


def local_mean(
    values: Image, pixel_size_angstrom: float, window_angstrom: float = WINDOW_ANGSTROM
) -> Image:
    """Average with a Gaussian window of a full width at half maximum in Å; edges are mirrored."""
    sigma = window_angstrom / _FWHM / pixel_size_angstrom
    height, width = values.shape
    top, left = (min(math.ceil(4 * sigma), length - 1) for length in (height, width))
    padded = functional.pad(values[None, None], (left, left, top, top), mode="reflect")[0, 0]
    return gaussian_lowpass(padded, sigma)[top : top + height, left : left + width]


def local_r2(first: Image, second: Image, pixel_size_angstrom: float) -> Image:
    """Return the squared local correlation of two band-limited images.

    r²(p) = ⟨X Y⟩² / (⟨X²⟩ ⟨Y²⟩), ⟨·⟩ the mean in the window around p. Means are not subtracted
    again: the high-pass has removed what is slower than 400 Å, and a particle that is darker than
    the ice around it is signal.

    Args:
        first: From `band_limited`.
        second: Likewise, of the same shape.
        pixel_size_angstrom: Å/px of both.
    """
    cross = local_mean(first * second, pixel_size_angstrom)
    power = local_mean(first.square(), pixel_size_angstrom) * local_mean(
        second.square(), pixel_size_angstrom
    )
    tiny = torch.finfo(power.dtype).tiny
    return (cross.square() / power.clamp(min=tiny)).clamp(0, 1)


def window_pixels(pixel_size_angstrom: float, window_angstrom: float = WINDOW_ANGSTROM) -> float:
    """Return how many pixels an edge-free window averages: 4π σ²."""
    return 4 * math.pi * (window_angstrom / _FWHM / pixel_size_angstrom) ** 2


def enlarge(values: Image, shape: tuple[int, int], factor: int) -> Float[Tensor, "fh fw"]:
    """Interpolate a binned map back to the pixels it was binned from."""
    wide = [length * factor for length in values.shape]
    large = functional.interpolate(
        values[None, None], size=wide, mode="bilinear", align_corners=False
    )
    return large[0, 0, : shape[0], : shape[1]]


def interpolated(
    values: Float[Tensor, "*shape"], knots: Sequence[float], heights: Sequence[float]
) -> Float[Tensor, "*shape"]:
    """Return the broken line through (knot, height) at each value; beyond the ends it holds."""
    x, y = (torch.tensor(numbers).to(values) for numbers in (knots, heights))
    inside = values.clamp(float(x[0]), float(x[-1]))
    right = torch.bucketize(inside, x[1:-1], right=True) + 1
    part = (inside - x[right - 1]) / (x[right] - x[right - 1])
    return y[right - 1] + part * (y[right] - y[right - 1])
