"""Shift between two halves of the same field, to a fraction of a pixel, with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

# Beyond, there is more fixed pattern than specimen, and a pattern does not move.
_FASTEST = 0.25
_SLOWEST = 1 / 200
_BANDS = 25
_LARGEST_SHIFT_PX = 64
_SMALLEST_SIDE = 8
_SIGMAS = 5.0
_STEPS = 6
# The highest of the thousands of points that are searched is four or five by chance.
_PEAK_SIGMAS = 7.0
_RING_SIGMAS = 2.0
# Rounding alone parts two copies of one image.
_HIGHEST = 1 - 1e-6


@dataclass(frozen=True)
class Drift:
    """How far the second image is displaced against the first.

    Attributes:
        rows: Downwards, px.
        columns: To the right, px.
        error: Standard error of each, px. Where the images have nothing in common by which to tell,
            the shift is 0 and its error that of a guess within the range of the search.
    """

    rows: float
    columns: float
    error: float

    @property
    def length(self) -> float:
        """Length of the shift, px."""
        return math.hypot(self.rows, self.columns)

    @property
    def significant(self) -> bool:
        """Whether it is five standard errors long."""
        return self.length > _SIGMAS * self.error


class _Band:
    """The frequencies of two half-spectra that a shift is told by.

    Args:
        x: `rfft2` of the first image.
        y: `rfft2` of the second image.
        width: Columns of the images.
    """

    def __init__(self, x: Complex[Tensor, "h wf"], y: Complex[Tensor, "h wf"], width: int) -> None:
        self.size = (x.shape[0], width)
        top, left = max(1, x.shape[0] // 4), max(1, width // 4)
        self.grid = (2 * top, 2 * left)
        x, y = (torch.cat([s[:top, : left + 1], s[-top:, : left + 1]]) for s in (x, y))
        rows = torch.cat([torch.arange(top), torch.arange(-top, 0)]).to(x.real)
        self.fy = (rows / self.size[0])[:, None].expand(x.shape)
        self.fx = (torch.arange(left + 1).to(x.real) / width)[None, :].expand(x.shape)
        frequency = torch.hypot(self.fy, self.fx)
        slowest = max(_SLOWEST, 1.5 / min(self.size))
        inside = (frequency >= slowest) & (frequency < _FASTEST)
        self.ring = torch.where(inside, (frequency * _BANDS / _FASTEST).long() + 1, 0).flatten()
        self.mirrored = torch.full_like(frequency, 2.0)
        self.mirrored[:, 0] = 1.0
        self.cross = x.conj() * y
        self.count = self.total(torch.ones_like(frequency)).clamp(min=1)
        power_x, power_y = self.total(x.abs().square()), self.total(y.abs().square())
        self.power = (power_x * power_y).sqrt() / self.count

    def total(self, values: Float[Tensor, "a b"]) -> Float[Tensor, "rings"]:
        """Sum over rings; ring 0 is outside the band and empty."""
        weights = (values * self.mirrored).flatten().double()
        sums = torch.bincount(self.ring, weights=weights, minlength=_BANDS + 1)
        sums[0] = 0
        return sums

    def spread(self, factors: Float[Tensor, "rings"]) -> Float[Tensor, "a b"]:
        """Return the factor of the ring of each frequency."""
        return factors.to(self.fx)[self.ring].reshape(self.fx.shape)

    def aligned(self, shift: Float[Tensor, "2"]) -> Complex[Tensor, "a b"]:
        """Return the cross spectrum as it were if the second image were shifted back."""
        angle = 2 * math.pi * (self.fy * shift[0] + self.fx * shift[1])
        return self.cross * torch.polar(torch.ones_like(angle), angle)


def find_drift(
    x: Complex[Tensor, "h wf"], y: Complex[Tensor, "h wf"], noise_power: float, width: int
) -> Drift:
    """Find the shift of one image against another by the peak of their cross-correlation.

    The peak is found on a grid with each ring weighted by how far its power stands above the
    noise, then refined by maximum likelihood: rings weighted by ρ/(1−ρ²), ρ their correlation.

    Args:
        x: `rfft2` of the first image.
        y: `rfft2` of the second image.
        noise_power: Mean power of a frequency where there is only noise, of both images.
        width: Columns of the images.
    """
    size = (x.shape[0], width)
    reach = min(_LARGEST_SHIFT_PX, *(length // 4 for length in size))
    unknown = Drift(0.0, 0.0, max(reach, 1) / math.sqrt(3))
    if min(size) < _SMALLEST_SIDE:
        return unknown
    band = _Band(x, y, width)
    shift, sigmas = _coarse(band, noise_power, reach)
    if sigmas < _PEAK_SIGMAS:
        return unknown
    information = band.fx.new_zeros(2, 2)
    for _ in range(_STEPS):
        step, information = _refine(band, shift)
        shift = shift + step.clamp(-1.0, 1.0)
    mean = float(information.diagonal().mean())
    error = 1 / math.sqrt(mean) if mean > 0 else math.inf
    if error > unknown.error or float(shift.abs().max()) > reach:
        return unknown
    return Drift(float(shift[0]), float(shift[1]), error)


def _coarse(band: _Band, noise_power: float, reach: int) -> tuple[Float[Tensor, "2"], float]:
    """Return the highest point of the cross-correlation within reach, and its significance."""
    excess = (band.power / max(noise_power, 1e-30) - 1).clamp(min=0)
    weights = torch.where(band.power > 0, excess / (1 + excess) / band.power, 0.0)
    weights[0] = 0.0
    variance = float((weights.square() * band.power.square() * band.count).sum())
    if variance <= 0:
        return band.fx.new_zeros(2), 0.0
    weighted = band.cross * band.spread(weights)
    peaks = torch.fft.irfft2(weighted, s=band.grid) * (band.grid[0] * band.grid[1])
    steps = [full / cut for full, cut in zip(band.size, band.grid, strict=True)]
    offsets = [
        torch.fft.fftfreq(cut, 1 / cut, device=peaks.device) * step
        for cut, step in zip(band.grid, steps, strict=True)
    ]
    near = (offsets[0].abs() <= reach)[:, None] & (offsets[1].abs() <= reach)[None, :]
    place = int(torch.where(near, peaks, -math.inf).argmax())
    row, column = divmod(place, band.grid[1])
    shift = torch.stack([offsets[0][row], offsets[1][column]]).to(band.fx)
    return shift, float(peaks[row, column]) / math.sqrt(variance)


def _refine(
    band: _Band, shift: Float[Tensor, "2"]
) -> tuple[Float[Tensor, "2"], Float[Tensor, "2 2"]]:
    """Return one step of Gauss and Newton, and the information on the shift (1/px²)."""
    aligned = band.aligned(shift)
    correlation = band.total(aligned.real) / (band.power * band.count).clamp(min=1e-30)
    chance = _RING_SIGMAS / band.count.sqrt()
    rho = torch.where(correlation > chance, correlation.clamp(max=_HIGHEST), 0.0)
    score = band.spread(rho / (1 - rho.square()) / band.power.clamp(min=1e-30)) * band.mirrored
    known = band.spread(rho.square() / (1 - rho.square())) * band.mirrored
    waves = [2 * math.pi * f for f in (band.fy, band.fx)]
    gradient = torch.stack([-(score * wave * aligned.imag).sum() for wave in waves])
    information = torch.stack(
        [torch.stack([(known * first * second).sum() for second in waves]) for first in waves]
    )
    if not float(torch.linalg.det(information)) > 0:
        return torch.zeros_like(shift), information
    return torch.linalg.solve(information, gradient), information
