"""What is wrong with the halves of a micrograph, measured: one record of numbers each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d

from clearice.data import dose_weighted_mean
from clearice.fourier import (
    RingSums,
    frequency_grid,
    half_spectrum_weights,
    ring_index,
    rings_to_corner,
)
from clearice.metrics import Moments, frc, rings_between
from clearice.prepare.drift import Drift, find_drift
from clearice.prepare.spectra import Agreement, centre, periodic_spectrum, split_halves

# Signal stands over noise between these resolutions in micrographs of particles.
_FINEST_ANGSTROM = 30.0
_SIGNAL_BAND_ANGSTROM = (400.0, _FINEST_ANGSTROM)
_HOT_SIGMAS = 6.0
_VIEW_SIDE = 64
# Waves longer than a quarter of the field are ice and illumination, alike in many micrographs.
_SLOWEST_WAVES = 4
_DETECTOR_SIDE = 128
_DETECTOR_FREQUENCY = 0.25


@dataclass(frozen=True)
class MicrographChecks:
    """Measurements on one micrograph; correlations are between its even and its odd groups.

    Attributes:
        name: Of the micrograph.
        shape: Groups, rows, columns.
        pixel_size_angstrom: Å/px.
        weights: Share of the dose in each group.
        dose_e_per_A2: Total dose, e/Å², if known.
        correlation: Over all pixels.
        common_signal: Between 400 and 30 Å, above what it is near Nyquist, where halves of
            different fields share the detector's pattern.
        common_signal_error: Its standard error if nothing is common.
        agreement: Where only noise is expected: near Nyquist, and of row and column means.
        drift: Shift of the odd groups against the even ones.
        hot_pixels: That stand out in both halves, in the middle of the image.
        looked_at_pixels: How many pixels that middle has.
        noise_ratio: Noise power of the odd groups over that of the even ones, after allowing for
            their doses; 1 is expected.
        view: Fingerprint of the field of view; the product of two is their correlation.
        detector: Fingerprint of single pixels in the middle, in the same way, of both halves.
    """

    name: str
    shape: tuple[int, int, int]
    pixel_size_angstrom: float
    weights: tuple[float, ...]
    dose_e_per_A2: float | None
    correlation: float
    common_signal: float
    common_signal_error: float
    agreement: Agreement
    drift: Drift
    hot_pixels: int
    looked_at_pixels: int
    noise_ratio: float
    view: Float[Tensor, "n"]
    detector: tuple[Float[Tensor, "m"], Float[Tensor, "m"]]

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        kinds = ("near_nyquist", "rows", "columns")
        excesses = {kind: getattr(self.agreement, kind) for kind in kinds}
        return {
            "name": self.name,
            "correlation": self.correlation,
            "common_signal": self.common_signal,
            **{kind: excess.value for kind, excess in excesses.items()},
            **{f"{kind}_error": excess.error for kind, excess in excesses.items()},
            "drift_px": asdict(self.drift),
            "hot_pixels": self.hot_pixels,
            "noise_ratio": self.noise_ratio,
        }


def check_micrograph(
    name: str,
    groups: Float[Tensor, "k h w"],
    weights: Sequence[float],
    pixel_size_angstrom: float,
    dose_e_per_A2: float | None = None,
) -> MicrographChecks:
    """Measure one micrograph, in its middle 2048² at most.

    Args:
        name: Of the micrograph.
        groups: Means of groups of frames, K ≥ 2, normalised or in counts.
        weights: Dose of each group, in any unit.
        pixel_size_angstrom: Å/px.
        dose_e_per_A2: Total dose, e/Å², if known.
    """
    even, odd = split_halves(centre(groups), weights)
    height, width = even.shape
    x, y = periodic_spectrum(even - even.mean()), periodic_spectrum(odd - odd.mean())
    sums = _ring_sums(x, y, width)
    signal = sums.map(
        lambda v: v[rings_between(len(v), pixel_size_angstrom, _SIGNAL_BAND_ANGSTROM)]
    )
    pooled = signal.map(lambda v: v.sum()[None])
    agreement = Agreement.of(x, y, width)
    return MicrographChecks(
        name=name,
        shape=(groups.shape[0], groups.shape[1], groups.shape[2]),
        pixel_size_angstrom=pixel_size_angstrom,
        weights=tuple(weight / sum(weights) for weight in weights),
        dose_e_per_A2=dose_e_per_A2,
        correlation=Moments.of(even, odd).correlation,
        common_signal=float(frc(pooled)) - max(0.0, agreement.near_nyquist.value),
        common_signal_error=1 / math.sqrt(max(float(pooled.count), 1.0)),
        agreement=agreement,
        drift=find_drift(x, y, _noise_power(agreement), width),
        hot_pixels=_count_hot_pixels(even, odd),
        looked_at_pixels=height * width,
        noise_ratio=_noise_ratio(agreement, weights),
        view=_view(groups, weights, pixel_size_angstrom),
        detector=(_detector(even), _detector(odd)),
    )


def _ring_sums(x: Complex[Tensor, "h wf"], y: Complex[Tensor, "h wf"], width: int) -> RingSums:
    """Sum over rings up to Nyquist, as `fourier.ring_sums` does, of spectra that are there."""
    height = x.shape[0]
    n_rings = max(2, min(height, width) // 2)
    rings = ring_index(height, width, n_rings, device=x.device).flatten()
    weights = half_spectrum_weights(width, x.real).expand(height, -1)

    def total(values: Float[Tensor, "h wf"]) -> Float[Tensor, "rings"]:
        weighted = (values * weights).flatten().double()
        return torch.bincount(rings, weights=weighted, minlength=rings_to_corner(n_rings))[:n_rings]

    return RingSums(
        cross=total((x * y.conj()).real),
        power_x=total(x.abs().square()),
        power_y=total(y.abs().square()),
        count=total(torch.ones_like(x.real)),
    )


def _noise_power(agreement: Agreement) -> float:
    sums = agreement.sums
    return float((sums.power_x * sums.power_y).sqrt()[0] / sums.count[0].clamp(min=1))


def _noise_ratio(agreement: Agreement, weights: Sequence[float]) -> float:
    even, odd = float(agreement.sums.power_x[0]), float(agreement.sums.power_y[0])
    if even <= 0 or odd <= 0:
        return 1.0
    return odd / even * sum(weights[1::2]) / sum(weights[0::2])


def _count_hot_pixels(even: Float[Tensor, "h w"], odd: Float[Tensor, "h w"]) -> int:
    """Count pixels that stand out from their neighbours, up or down, in both halves."""
    first, second = (_above_neighbours(half) for half in (even, odd))
    both = torch.minimum(first.abs(), second.abs()) * (first.sign() == second.sign())
    # A hot pixel makes its neighbours look cold: only the strongest of them is one.
    strongest = both == max_pool2d(both[None], 3, 1, 1)[0]
    return int(((both > _HOT_SIGMAS) & strongest).sum())


def _above_neighbours(image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    nine = avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0]
    above = image - nine
    # 1.4826 medians of the absolute deviation are a standard deviation of Gaussian noise.
    sigma = 1.4826 * float(above.abs().flatten()[:: max(1, above.numel() // 100_000)].median())
    return above / sigma if sigma > 0 else torch.zeros_like(above)


def _view(
    groups: Float[Tensor, "k h w"], weights: Sequence[float], pixel_size_angstrom: float
) -> Float[Tensor, "n"]:
    """Return the field of view down to 30 Å, every frequency with the same weight."""
    pooled = [adaptive_avg_pool2d(group.float()[None], _VIEW_SIDE)[0] for group in groups]
    small = dose_weighted_mean(torch.stack(pooled), weights)
    spectrum = periodic_spectrum(small - small.mean())
    waves = frequency_grid(*small.shape, device=small.device) * _VIEW_SIDE
    ring = waves.long().flatten()
    power = torch.bincount(ring, weights=spectrum.abs().square().flatten())
    level = (power / torch.bincount(ring).clamp(min=1))[ring].reshape(waves.shape)
    fastest = min(groups.shape[-2:]) * pixel_size_angstrom / _FINEST_ANGSTROM
    kept = (waves >= _SLOWEST_WAVES) & (waves <= max(fastest, 2 * _SLOWEST_WAVES)) & (level > 0)
    white = torch.where(kept, spectrum / level.clamp(min=1e-30).sqrt(), 0.0)
    return _unit(torch.fft.irfft2(white, s=small.shape))


def _detector(half: Float[Tensor, "h w"]) -> Float[Tensor, "m"]:
    """Return what single pixels show in the very middle."""
    middle = centre(half, _DETECTOR_SIDE)
    fast = frequency_grid(*middle.shape, device=middle.device) >= _DETECTOR_FREQUENCY
    # There is one for each half of every micrograph of a session: half the memory.
    return _unit(torch.fft.irfft2(periodic_spectrum(middle) * fast, s=middle.shape)).half()


def _unit(image: Float[Tensor, "h w"]) -> Float[Tensor, "n"]:
    flat = image.flatten()
    return flat / flat.norm().clamp(min=1e-30)
