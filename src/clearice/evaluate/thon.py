"""Thon rings: the CTF in the power spectrum of one micrograph, fitted and measured by band.

The power of each Fourier ring is divided by a smooth trend, and what is left is correlated with
CTF², from which the same trend is taken: a partial correlation, which needs no model of noise,
envelope or, for denoised images, of what a network did to the spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch_ctf.ctf_utils import calculate_total_phase_shift

from clearice.evaluate.slots import spectrum_of
from clearice.fourier import half_spectrum_weights, ring_frequencies, ring_index

# Where rings are looked for, Å; slower, particles and ice rule the spectrum.
COARSEST_ANGSTROM: Final = 30.0
FINEST_ANGSTROM: Final = 4.0
BANDS_ANGSTROM: Final = ((30.0, 15.0), (15.0, 10.0), (10.0, 7.0), (7.0, 5.0), (5.0, 4.0))
DEFOCUS_ANGSTROM: Final = (3_000.0, 50_000.0)
_STEPS_ANGSTROM: Final = (50.0, 5.0)
_TREND_DEGREE: Final = 6
# The fit holds as far as CTF² and the rings correlate by more, as in CTFFIND4.
_HOLDS: Final = 0.5
_WINDOW_RINGS: Final = 1.5
# Of a hundred or so independent values of defocus, chance brings none so far.
_SIGMAS: Final = 4.5
_FEWEST: Final = 12

Rings = Float[Tensor, "rings"]


@dataclass(frozen=True)
class Optics:
    """What decides the CTF beside the defocus.

    Attributes:
        voltage_kv: Acceleration voltage, kV.
        spherical_aberration_mm: Cs, mm.
        amplitude_contrast: Fraction, 0 to 1.
        phase_shift_degrees: Of a phase plate.
    """

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift_degrees: float = 0.0

    def squared_ctf(
        self, defocus_angstrom: Float[Tensor, "*n"], frequency: Rings
    ) -> Float[Tensor, "*n rings"]:
        """Return CTF² at frequencies (1/Å) for each defocus (Å)."""
        phase = calculate_total_phase_shift(
            defocus_um=defocus_angstrom[..., None] * 1e-4,
            voltage_kv=torch.tensor(self.voltage_kv),
            spherical_aberration_mm=torch.tensor(self.spherical_aberration_mm),
            phase_shift_degrees=torch.tensor(self.phase_shift_degrees),
            amplitude_contrast_fraction=torch.tensor(self.amplitude_contrast),
            fftfreq_grid_angstrom_squared=frequency.square(),
        )
        return phase.sin().square()


@dataclass(frozen=True)
class RingPower:
    """Mean power of each Fourier ring between two resolutions.

    Attributes:
        frequency: Middle of each ring, 1/Å.
        power: Mean of |F|².
    """

    frequency: Rings
    power: Rings


@dataclass(frozen=True)
class ThonFit:
    """The CTF that fits best.

    Attributes:
        defocus_angstrom: Mean underfocus, Å.
        correlation: Of CTF² with the rings, trend removed from both.
        sigmas: The correlation in standard deviations of its chance value.
        resolution_angstrom: To which the rings fit; None: nowhere.
    """

    defocus_angstrom: float
    correlation: float
    sigmas: float
    resolution_angstrom: float | None

    @property
    def found(self) -> bool:
        """Whether there are Thon rings: the best of all defocus values stands out from chance."""
        return self.sigmas >= _SIGMAS


@dataclass(frozen=True)
class Visibility:
    """Thon rings in one band.

    Attributes:
        modulation: Power at the maxima of CTF² less that at its zeros, over the mean; 0 without
            rings. Narrow rings look weaker than they are.
        correlation: Of CTF² with the rings.
    """

    modulation: float
    correlation: float


def ring_power(image: Float[Tensor, "h w"], pixel_size_angstrom: float) -> RingPower:
    """Average the power of a tapered image over rings of one Fourier pixel."""
    height, width = image.shape
    n_rings = min(height, width) // 2
    spectrum = spectrum_of(image)
    ring = ring_index(height, width, n_rings, device=image.device).flatten()
    weight = half_spectrum_weights(width, spectrum.real).expand(height, -1)
    power = (spectrum.real.square() + spectrum.imag.square()) * weight
    sums = torch.bincount(ring, weights=power.flatten())
    count = torch.bincount(ring, weights=weight.flatten())
    frequency = ring_frequencies(n_rings) / pixel_size_angstrom
    kept = (frequency > 1 / COARSEST_ANGSTROM) & (frequency < 1 / FINEST_ANGSTROM)
    return RingPower(frequency[kept], (sums / count)[:n_rings][kept].cpu())


def fit_ctf(rings: RingPower, optics: Optics) -> ThonFit:
    """Find the defocus whose CTF² correlates best with the rings.

    Args:
        rings: At least a dozen.
        optics: All else that decides the CTF.

    Source: Rohou & Grigorieff 2015 (CTFFIND4), here of the rotational average, so astigmatism
        must be small.
    """
    low, high = DEFOCUS_ANGSTROM
    for step in _STEPS_ANGSTROM:
        candidates = torch.arange(low, high + step / 2, step, dtype=torch.float64)
        correlation = _correlations(rings, optics.squared_ctf(candidates, rings.frequency))
        best = int(correlation.argmax())
        defocus = float(candidates[best])
        low, high = defocus - 2 * step, defocus + 2 * step
    r = float(correlation[best])
    sigmas = r * math.sqrt(len(rings.frequency) - _TREND_DEGREE - 1)
    return ThonFit(defocus, r, sigmas, _fitted_to(rings, optics, defocus))


def visibility(
    rings: RingPower, optics: Optics, defocus_angstrom: float
) -> dict[tuple[float, float], Visibility]:
    """Measure Thon rings of a known defocus in each band that holds enough of them."""
    squared = optics.squared_ctf(torch.tensor(defocus_angstrom), rings.frequency)
    flat = _flattened(rings)
    found = {}
    for coarse, fine in BANDS_ANGSTROM:
        band = (rings.frequency > 1 / coarse) & (rings.frequency <= 1 / fine)
        if int(band.sum()) < _FEWEST or float(rings.frequency[-1]) < 0.98 / fine:
            continue
        x, y = _without_trend(torch.stack([squared[band], flat[band]]), rings.frequency[band], 2)
        slope = float((x * y).sum() / x.square().sum())
        found[coarse, fine] = Visibility(
            slope / float(flat[band].mean()), float(_normalised(x) @ _normalised(y))
        )
    return found


def _flattened(rings: RingPower) -> Rings:
    """Return the power over its trend, which follows it over many orders of magnitude."""
    log = rings.power.clamp(min=torch.finfo(torch.float64).tiny).log()
    trend = log - _without_trend(log[None], rings.frequency, _TREND_DEGREE)[0]
    flat = (rings.power.log() - trend).exp()
    return flat / flat.mean()


def _correlations(rings: RingPower, squared: Float[Tensor, "n rings"]) -> Float[Tensor, "n"]:
    """Correlate rings with each candidate, trends removed from both."""
    x = _without_trend(squared, rings.frequency, _TREND_DEGREE)
    y = _without_trend(_flattened(rings)[None], rings.frequency, _TREND_DEGREE)[0]
    return _normalised(x) @ _normalised(y)


def _without_trend(
    values: Float[Tensor, "n rings"], frequency: Rings, degree: int
) -> Float[Tensor, "n rings"]:
    """Subtract the polynomial of least squares."""
    at = 2 * (frequency - frequency[0]) / (frequency[-1] - frequency[0]) - 1
    powers = [at.double() ** i for i in range(degree + 1)]
    basis = torch.linalg.qr(torch.stack(powers, dim=1)).Q
    values = values.double()
    return values - (values @ basis) @ basis.T


def _normalised(values: Float[Tensor, "*n rings"]) -> Float[Tensor, "*n rings"]:
    return values / values.norm(dim=-1, keepdim=True).clamp(min=1e-30)


def _fitted_to(rings: RingPower, optics: Optics, defocus: float) -> float | None:
    """Return the resolution up to which a window of one and a half Thon rings correlates."""
    squared = optics.squared_ctf(torch.tensor(defocus), rings.frequency)
    x, y = _without_trend(torch.stack([squared, _flattened(rings)]), rings.frequency, _TREND_DEGREE)
    extrema = ((squared[1:-1] - squared[:-2]) * (squared[2:] - squared[1:-1]) < 0).nonzero()[:, 0]
    if len(extrema) < 4:
        return None
    reach = int(2 * _WINDOW_RINGS)
    held = None
    for first, last in zip(extrema[:-reach].tolist(), extrema[reach:].tolist(), strict=True):
        window = slice(first, last + 2)
        a, b = (part[window] - part[window].mean() for part in (x, y))
        if float(_normalised(a) @ _normalised(b)) < _HOLDS:
            break
        held = last
    return None if held is None else float(1 / rings.frequency[held])
