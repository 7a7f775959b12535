"""Where in the spectrum the card sums: bands, all frequencies, and places that show a pattern."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from clearice.fourier import (
    axis_distance,
    frequency_grid,
    half_spectrum_weights,
    highpass_transfer,
    ring_index,
    rings_to_corner,
    stripe_masks,
)

N_BANDS = 24
HIGHPASS_ANGSTROM = 400.0
# Narrow bands where the signal is strong and changes fast: edges grow with this power.
_SPACING = 1.5
# Of each side, so wide that no jump between opposite edges is left.
_TAPER = 1 / 8
# Where specimens differ and single pixels alone are the same in all micrographs, cycles/px.
LOWEST_NEAR_NYQUIST = 0.4
_FAST, _NYQUIST = 1 / 8, 0.5
_OFF_AXIS = 9
# The frequencies beside an axis stand for what would be on it without stripes; the taper spreads
# what is on it over two.
_BESIDE = (3, 10)
# Slower, those beside the axis of a small image would be much farther from 0 than those on it.
_SLOWEST_STRIPE = 1 / 8

TOTAL = N_BANDS
FAST, NEAR_NYQUIST, ROWS, BESIDE_ROWS, COLUMNS, BESIDE_COLUMNS = range(N_BANDS + 1, N_BANDS + 7)
# The bands again, after the high-pass: parts of the sum over all frequencies.
HIGHPASSED = slice(N_BANDS + 7, 2 * N_BANDS + 7)
N_SLOTS = 2 * N_BANDS + 7

Sums = Float[Tensor, "slots"]
Spectrum = Complex[Tensor, "h wf"]


def band_edges() -> Float[Tensor, "edges"]:
    """Return the edges of the bands in cycles/px, from 0 to Nyquist."""
    return 0.5 * (torch.arange(N_BANDS + 1, dtype=torch.float64) / N_BANDS) ** _SPACING


def taper(height: int, width: int) -> Float[Tensor, "h w"]:
    """Return a window that falls to 0 at all edges over an eighth of each side (Tukey).

    Images do not repeat beyond their edges, and the jump would leak the strongest frequencies into
    all others. Every image is multiplied by the same window, which is linear: what holds for
    covariances of images holds for those of their spectra, and no correlation is biased.
    """

    def along(length: int) -> Float[Tensor, "length"]:
        distance = (torch.arange(length, dtype=torch.float64) + 0.5) / (_TAPER * length)
        distance = torch.minimum(distance, distance.flip(0)).clamp(max=1)
        return (0.5 * math.pi * distance).sin().square()

    return along(height)[:, None] * along(width)


def spectrum_of(image: Float[Tensor, "h w"]) -> Spectrum:
    """Return the `rfft2` of an image without its mean, tapered, in float64."""
    window, total = _window(*image.shape, image.device)
    windowed = image.to(torch.float64, copy=True).mul_(window)
    # Less the mean, in place: at 4096² every copy takes as long as the sums themselves.
    windowed.addcmul_(window, -windowed.sum() / total)
    return torch.fft.rfft2(windowed)


@lru_cache(maxsize=2)
def _window(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the taper and its sum."""
    window = taper(height, width).to(device)
    return window, window.sum()


@dataclass(frozen=True)
class Slots:
    """Sums over the parts of one size of spectrum.

    Attributes:
        band: Number of each bin's band; the last one is beyond Nyquist.
        ring: Number of each bin's ring, of one Fourier pixel in width.
        weight: How often each bin stands in the full spectrum.
        squared_highpass: Weight in the sum over all frequencies.
        places: Numbers of the bins of the slots that are no bands, from `FAST` on.
        count: Independent pixels in each slot; fewer than Fourier pixels because of the taper.
    """

    band: Int[Tensor, "bins"]
    ring: Int[Tensor, "bins"]
    weight: Float[Tensor, "bins"]
    squared_highpass: Float[Tensor, "bins"]
    places: tuple[Int[Tensor, "_"], ...]
    n_rings: int
    count: Sums

    def sum(self, values: Float[Tensor, "h wf"]) -> Sums:
        """Sum values of an `rfft2` over each slot."""
        return self._sum_weighted(values.flatten() * self.weight)

    def _sum_weighted(self, weighted: Float[Tensor, "bins"]) -> Sums:
        """Sum values that were multiplied by the weights, and spoil them."""
        places = [weighted[bins].sum() for bins in self.places]
        bands = torch.bincount(self.band, weights=weighted, minlength=N_BANDS + 1)[:N_BANDS]
        weighted *= self.squared_highpass
        parts = torch.bincount(self.band, weights=weighted, minlength=N_BANDS + 1)
        return torch.cat([bands, torch.stack([parts.sum(), *places]), parts[:N_BANDS]])

    def cross(self, x: Spectrum, y: Spectrum) -> Sums:
        """Return Re Σ X Y* of each slot."""
        product = (x.real * y.real).addcmul_(x.imag, y.imag)
        return self._sum_weighted(product.flatten().mul_(self.weight))

    def rings(self, values: Float[Tensor, "h wf"]) -> Float[Tensor, "rings"]:
        """Sum values of an `rfft2` over each ring."""
        return torch.bincount(
            self.ring, weights=values.flatten() * self.weight, minlength=self.n_rings
        )


@lru_cache(maxsize=2)
def slots_of(height: int, width: int, pixel_size_angstrom: float) -> Slots:
    """Return the slots of images of one size."""
    frequency = frequency_grid(height, width, dtype=torch.float64)
    band = torch.bucketize(frequency, band_edges()[1:], right=True)
    n_rings = min(height, width) // 2
    weight = half_spectrum_weights(width, frequency).expand(height, -1).flatten()
    ky, kx = axis_distance(height, width)
    off = (ky > min(_OFF_AXIS, height // 8)) & (kx > min(_OFF_AXIS, width // 8))
    below = frequency < _NYQUIST
    masks = (
        (frequency >= _FAST) & below & off,
        (frequency >= LOWEST_NEAR_NYQUIST) & below & off,
        *stripe_masks(height, width, _SLOWEST_STRIPE, _BESIDE),
    )
    window = taper(height, width).square()
    share = float(window.mean().square() / window.square().mean())
    slots = Slots(
        band.flatten(),
        ring_index(height, width, n_rings).flatten(),
        weight,
        highpass_transfer(frequency, pixel_size_angstrom / HIGHPASS_ANGSTROM).square().flatten(),
        tuple(mask.flatten().nonzero()[:, 0] for mask in masks),
        rings_to_corner(n_rings),
        torch.zeros(N_SLOTS, dtype=torch.float64),
    )
    count = slots.sum(torch.ones_like(frequency)) * share
    return Slots(**{**slots.__dict__, "count": count})
