"""How far a denoised half agrees with the other raw half, by the strength of what it shows.

Around one pixel the other half is nearly all noise. So places are pooled, over all micrographs, by
one predictor that knows nothing of the other half: the strength of the denoised half there, ln of
its power in the window over that of the noise in its input. Whatever a network does, the noise of
the other half averages out among the places of one strength, and what is left is signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearice.evaluate.local import band_limited, bin_factor, local_mean, window_pixels

# What lies beyond counts at the ends.
_LOWEST, _HIGHEST, _BINS = -14.0, 6.0, 160
_NOISE_WINDOW_ANGSTROM = 600.0
_KERNEL_BINS = 2.0
# Evidence counts from three standard errors on, and in full from six, as for amplitudes.
_EVIDENCE_SIGMAS = 3.0
# Fewer windows do not tell their own standard error.
_FEWEST_WINDOWS = 8.0
_TINY = 1e-300

Image = Float[Tensor, "h w"]
Bins = Float[Tensor, "bins"]


@dataclass(frozen=True)
class Halves:
    """One micrograph and its halves, band-limited, in units of the noise of a raw half.

    Attributes:
        full: The full-dose denoised micrograph.
        denoised: De, Do.
        raw: Re, Ro.
        pixel_size_angstrom: Å/px, after binning.
        noise: Standard deviation of that noise, in the units of the files.
    """

    full: Image
    denoised: tuple[Image, Image]
    raw: tuple[Image, Image]
    pixel_size_angstrom: float
    noise: float = 1.0

    @classmethod
    def of(
        cls,
        full: Image,
        denoised: tuple[Image, Image],
        raw: tuple[Image, Image],
        pixel_size_angstrom: float,
    ) -> Halves:
        """Cut to the band, bin, and divide by the standard deviation of the noise in it.

        Args:
            full: The full-dose denoised micrograph.
            denoised: Both halves.
            raw: Both halves, of the same dose and scale.
            pixel_size_angstrom: Å/px.
        """
        even, odd = (band_limited(image, pixel_size_angstrom) for image in raw)
        noise = math.sqrt(max(float((even - odd).square().mean()) / 2, _TINY))
        first, second, whole = (
            band_limited(image, pixel_size_angstrom) / noise for image in (*denoised, full)
        )
        binned = pixel_size_angstrom * bin_factor(pixel_size_angstrom)
        return cls(whole, (first, second), (even / noise, odd / noise), binned, noise)

    def strengths(self) -> tuple[Image, Image, Image]:
        """Return those of the full dose and of both halves."""
        pixel = self.pixel_size_angstrom
        even, odd = (strength(half, pixel) for half in self.denoised)
        return strength(self.full, pixel), even, odd


def strength(denoised: Image, pixel_size_angstrom: float) -> Image:
    """Return ln of the power in the window, in units of the noise of a raw half."""
    power = local_mean(denoised.square(), pixel_size_angstrom)
    return power.clamp(min=_TINY).log().clamp(_LOWEST, _HIGHEST)


def _place(strengths: Image) -> Image:
    """Return the place among the bins, in bins from the middle of the first one."""
    position = (strengths - _LOWEST) / (_HIGHEST - _LOWEST) * _BINS - 0.5
    return position.clamp(0, _BINS - 1)


def bin_middles() -> Bins:
    """Return the strength in the middle of each bin."""
    width = (_HIGHEST - _LOWEST) / _BINS
    return _LOWEST + width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)


@dataclass(frozen=True)
class Spread:
    """Sums over all places of the strengths of full dose f and halves e, o; adding pools."""

    count: float
    full: float
    full2: float
    half: float
    half2: float
    both: float

    @classmethod
    def of(cls, full: Image, even: Image, odd: Image) -> Spread:
        """Sum over one micrograph."""
        return cls(
            float(full.numel()),
            float(full.sum()),
            float(full.square().sum()),
            float((even + odd).sum()) / 2,
            float((even.square() + odd.square()).sum()) / 2,
            float((even * odd).sum()),
        )

    def __add__(self, other: Spread) -> Spread:
        return Spread(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Spread)))

    def on_the_scale_of_halves(self, full: Image) -> Image:
        """Return which strength of a half stands for one of the full dose.

        A half shows each place's own strength with an error, which the correlation λ of both halves
        tells. Means and spreads are matched, that of the halves without part of their error,
        s √(2/(1 + λ)) instead of s: what a table of halves must be asked for a place that is
        better known.
        """
        mean_full, mean_half = self.full / self.count, self.half / self.count
        variance_full = max(self.full2 / self.count - mean_full**2, 0.0)
        variance_half = max(self.half2 / self.count - mean_half**2, 0.0)
        shared = min(max(self.both / self.count - mean_half**2, 0.0), variance_half)
        wanted = 2 * variance_half**2 / max(variance_half + shared, _TINY)
        slope = math.sqrt(wanted / variance_full) if variance_full > _TINY else 0.0
        return (mean_half + slope * (full - mean_full)).clamp(_LOWEST, _HIGHEST)


@dataclass(frozen=True)
class Evidence:
    """Sums over the places of each bin of strength; adding pools micrographs.

    With De the half that the strength is of: `support` is Σ ⟨De Ro⟩, `support2` Σ ⟨De Ro⟩² for the
    standard error, `power` Σ ⟨De²⟩, `agreement` Σ ⟨De Do⟩, `signal` Σ ⟨Ro²⟩ − noise, ⟨·⟩ the mean
    in the window. `count` is of independent windows.
    """

    support: Bins
    support2: Bins
    power: Bins
    agreement: Bins
    signal: Bins
    count: Bins

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Evidence)))

    def smoothed(self) -> Evidence:
        """Return the sums with neighbouring bins added in."""
        bins = torch.arange(_BINS, dtype=torch.float64)
        kernel = torch.exp(-0.5 * ((bins - bins[:, None]) / _KERNEL_BINS).square())
        return Evidence(*(kernel @ getattr(self, f.name) for f in fields(Evidence)))


def gather(halves: Halves) -> Evidence:
    """Sum over the places of one micrograph, each half with the other one, both ways."""
    pixel = halves.pixel_size_angstrom
    even, odd = halves.raw

    def mean(values: Image) -> Image:
        return local_mean(values, pixel)

    # Over a wider window, so that what it knows of one half's noise hardly counts.
    noise = local_mean((even - odd).square(), pixel, _NOISE_WINDOW_ANGSTROM) / 2
    both = mean(halves.denoised[0] * halves.denoised[1])
    total = None
    for one, other in ((0, 1), (1, 0)):
        denoised, reference = halves.denoised[one], halves.raw[other]
        support = mean(denoised * reference)
        place = _place(strength(denoised, pixel)).round().long().flatten()
        values = (
            support,
            support.square(),
            mean(denoised.square()),
            both,
            mean(reference.square()) - noise,
            torch.ones_like(both),
        )
        sums = [_per_window(value, place, pixel) for value in values]
        evidence = Evidence(*sums)
        total = evidence if total is None else total + evidence
    assert total is not None
    return total


def _per_window(values: Image, place: Tensor, pixel_size_angstrom: float) -> Bins:
    sums = torch.bincount(place, weights=values.flatten(), minlength=_BINS)
    return sums / window_pixels(pixel_size_angstrom)


def supported_r2(evidence: Evidence) -> Bins:
    """Return the squared correlation with the signal of the mean of both denoised halves.

    For one half, r² = C² / (P V): C the support, P the power, V that of the signal. The mean of
    both has r² · 2/(1 + A/P), A their agreement: what both have invented alike is in A, and gains
    nothing (Spearman–Brown). All counts with the evidence that there is for C, from three standard
    errors to six.

    Args:
        evidence: Pooled over micrographs.

    Returns:
        One value for each bin of strength, 0 to 1; bins of fewer than eight windows, neighbours
        counted in, have that of the nearest one of more.
    """
    sums = evidence.smoothed()
    count = sums.count.clamp(min=_TINY)
    support, power, signal = sums.support / count, sums.power / count, sums.signal / count
    spread = (sums.support2 / count - support.square()).clamp(min=0)
    error = (spread / count.clamp(min=1)).sqrt().clamp(min=_TINY)
    certain = (support / error / _EVIDENCE_SIGMAS - 1).clamp(0, 1)
    found = support.clamp(min=0).square()
    # Cauchy–Schwarz: the signal has at least the power that the output has proof of.
    least = found / power.clamp(min=_TINY)
    half = found / (power * torch.maximum(signal, least)).clamp(min=_TINY) * certain
    agreement = (sums.agreement / sums.power.clamp(min=_TINY)).clamp(0, 1)
    return _from_nearest((half * 2 / (1 + agreement)).clamp(0, 1), sums.count >= _FEWEST_WINDOWS)


def _from_nearest(values: Bins, known: Bool[Tensor, "bins"]) -> Bins:
    """Give each bin the value of the nearest one that is known; 0 if none is."""
    at = known.nonzero()[:, 0]
    if not len(at):
        return torch.zeros_like(values)
    nearest = (torch.arange(_BINS)[:, None] - at).abs().argmin(1)
    return values[at[nearest]]


def at_places(values: Bins, strengths: Image) -> Image:
    """Interpolate what was found for bins of strength to every place."""
    position = _place(strengths)
    below = position.floor().long()
    part = position - below
    return values[below] * (1 - part) + values[(below + 1).clamp(max=_BINS - 1)] * part
