"""What the losses on Fourier spectra share: cached weights of bins and tables of rings.

Frequencies are in cycles/px. A bin of the `rfft2` half-spectrum counts as often as it stands in the
full spectrum. Power is divided by the pixels of the patch, so that white noise of variance 1 has 1
in every bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from clearice.errors import ConfigError
from clearice.fourier import (
    frequency_grid,
    half_spectrum_weights,
    ring_index,
    rings_to_corner,
)

CORNER: Final = 0.75
"""Cycles/px, beyond every bin."""

NO_MEAN: Final = 1e-9
"""Cycles/px, below every bin but that of the mean."""

AMPLITUDE_FLOOR: Final = 1e-4
"""Below this amplitude (white noise of variance 1 has 1) correlations are not normalised.

Their gradient goes with 1/amplitude, without a bound where the prediction is 0.
"""


def auto_power(spectrum: Complex[Tensor, "n c h wf"]) -> Float[Tensor, "n c h wf"]:
    """Return |F|²."""
    return spectrum.real.square() + spectrum.imag.square()


def cross_power(
    first: Complex[Tensor, "n c h wf"], second: Complex[Tensor, "n c h wf"]
) -> Float[Tensor, "n c h wf"]:
    """Return Re F₁ F₂*."""
    return first.real * second.real + first.imag * second.imag


@lru_cache(maxsize=32)
def bin_shares(
    shape: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    *,
    exponent: float = 0.0,
    low: float = 0.0,
    high: float = CORNER,
) -> Float[Tensor, "h wf"]:
    """Return the share of each `rfft2` bin in a weighted mean over the full spectrum.

    Args:
        shape: Height and width of the patch, px.
        device: Of the table.
        dtype: Of the table.
        exponent: A bin at k cycles/px weighs k to this power, the mean as much as the lowest
            frequency.
        low: Cycles/px; bins below it weigh nothing.
        high: Cycles/px; bins above it weigh nothing.

    Raises:
        ConfigError: There is no bin between `low` and `high`.
    """
    height, width = shape
    # A table first made while validating must serve training too.
    with torch.inference_mode(False):
        frequency = frequency_grid(height, width, dtype=torch.float64)
        weights = (2 * frequency.clamp(min=1 / max(height, width))) ** exponent
        weights = weights * half_spectrum_weights(width, frequency)
        weights = weights.where((frequency >= low) & (frequency <= high), 0.0)
        if not weights.any():
            raise ConfigError(
                f"no frequency of a patch of {height}×{width} px lies between low={low:g} and "
                f"high={high:g} cycles/px; widen that range or take larger patches"
            )
        return (weights / weights.sum()).to(device, dtype)


@dataclass(frozen=True, eq=False)
class Rings:
    """Fourier rings of equal width.

    Attributes:
        index: Ring of each bin of the flat half-spectrum. Bins that are left out have theirs too:
            with one ring for all of them, their additions would wait for each other.
        weights: Share of each bin in the mean over its ring, over the pixels of the patch; 0 where
            it is left out.
        shares: Share of each ring in the bins of all.
        even_shares: The same share for every ring that holds a bin, 0 for the others.
        reach: Rings up to the corner of the spectrum, those left out counted.
    """

    index: Int[Tensor, "bins"]
    weights: Float[Tensor, "bins"]
    shares: Float[Tensor, "rings"]
    even_shares: Float[Tensor, "rings"]
    reach: int

    def mean(self, values: Float[Tensor, "n c h wf"]) -> Float[Tensor, "n c rings"]:
        """Return the mean over each ring of the full spectrum, divided by the pixels."""
        weighted = values.flatten(2) * self.weights
        sums = weighted.new_zeros(*weighted.shape[:2], self.reach)
        sums = sums.scatter_add(2, self.index.expand_as(weighted), weighted)
        return sums[..., : len(self.shares)]


@lru_cache(maxsize=32)
def rings_of(
    shape: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    *,
    bins: int,
    low: float = NO_MEAN,
    high: float = 0.5,
) -> Rings:
    """Return the rings of a patch, a ring that reaches beyond `high` left out.

    Args:
        shape: Height and width of the patch, px.
        device: Of the tables.
        dtype: Of the tables.
        bins: Rings from 0 to Nyquist.
        low: Cycles/px; bins below it are left out.
        high: Cycles/px.

    Raises:
        ConfigError: No ring holds a bin.
    """
    height, width = shape
    reach = rings_to_corner(bins)
    n_rings = reach if high >= math.sqrt(0.5) else math.floor(2 * bins * high + 1e-6)
    with torch.inference_mode(False):
        frequency = frequency_grid(height, width, dtype=torch.float64)
        index = ring_index(height, width, bins).flatten()
        mirrored = half_spectrum_weights(width, frequency).expand(height, -1)
        mirrored = mirrored.where(frequency >= low, 0.0).flatten()
        count = torch.bincount(index, weights=mirrored, minlength=reach)
        count[n_rings:] = 0
        if not count.any():
            raise ConfigError(
                f"no Fourier ring of a patch of {height}×{width} px lies below high={high:g} "
                f"cycles/px with bins={bins}; raise one of them or take larger patches"
            )
        weights = (mirrored / count[index]).where(count[index] > 0, 0.0) / (height * width)
        counted = count[:n_rings]
        held = (counted > 0).double()
        return Rings(
            index.to(device),
            weights.to(device, dtype),
            (counted / counted.sum()).to(device, dtype),
            (held / held.sum()).to(device, dtype),
            reach,
        )
