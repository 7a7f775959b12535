"""From tensors to numbers: correlations, signal-to-noise ratios, structural similarity.

Definitions stand in design terms: b is a Fourier ring; Re and Ro are the raw halves, De and Do
their denoised versions, S the unknown signal. Pool over micrographs by adding `RingSums` or
`Moments`, never by averaging ratios.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from pytorch_msssim import ssim as _ssim
from torch import Tensor

from clearice.fourier import RingSums, highpass, ring_frequencies, ring_sums

# Enough that the edges of bands fall on those of rings.
_TRAIT_RINGS = 50


def frc(sums: RingSums) -> Float[Tensor, "rings"]:
    """Return the Fourier ring correlation, Re Σ X Y* / √(Σ|X|² Σ|Y|²); 0 where a ring is empty.

    Source: Saxton & Baumeister 1982.
    """
    return _ratio(sums.cross, (sums.power_x * sums.power_y).sqrt())


def truth_correlation(denoised: RingSums, raw: RingSums) -> Float[Tensor, "rings"]:
    """Return ρ_b = FRC(De, Ro) / √FRC(Re, Ro), the correlation with the unknown truth.

    Valid for halves of equal dose and scale, on micrographs held out of training. NaN where the
    raw halves do not correlate.

    Args:
        denoised: Sums of (De, Ro).
        raw: Sums of (Re, Ro).
    """
    return frc(denoised) / frc(raw).clamp(min=0).sqrt().where(frc(raw) > 0, torch.nan)


def correlation_gain(denoised: RingSums, raw: RingSums) -> Float[Tensor, "rings"]:
    """Return FRC(De, Ro) / FRC(Re, Ro), at most 1 for a radial filter; NaN where raw ≤ 0."""
    return frc(denoised) / frc(raw).where(frc(raw) > 0, torch.nan)


def signal_transfer(denoised: RingSums, raw: RingSums) -> Float[Tensor, "rings"]:
    """Return T_b = Re Σ De Ro* / Re Σ Re Ro*: how much of the true amplitude survives."""
    return denoised.cross / raw.cross.where(raw.cross > 0, torch.nan)


def wiener_gain(raw: RingSums) -> Float[Tensor, "rings"]:
    """Return the radial Wiener filter for X, learnt from an independent Y of the same signal.

    W_b = Re Σ X Y* / Σ|X|², not below 0; for halves of equal dose it is their FRC.
    """
    return _ratio(raw.cross, raw.power_x).clamp(min=0)


# Signal stands over the noise between these resolutions; the spectrum's outer quarter is noise.
_SIGNAL_BAND_ANGSTROM = (400.0, 100.0)
# Doses count as equal up to this ratio.
_EQUAL_DOSE_RATIO = 1.5
_SIGMAS = 4.0


@dataclass(frozen=True)
class Colours:
    """How far the power of two images between 400 and 100 Å stands above that near Nyquist.

    White noise has 1; what stands above it is the signal-to-noise ratio, which grows with the dose:
    about 1.6 for one frame of real apoferritin and 17 for the mean of fifty.

    Attributes:
        x: Of the first image.
        y: Of the second image.
        samples: Independent Fourier pixels that each was measured on.
    """

    x: float
    y: float
    samples: float

    @property
    def dose_ratio(self) -> float:
        """Dose of the second image over that of the first, from their signal-to-noise ratios."""
        return max(self.y - 1, 0.05) / max(self.x - 1, 0.05)

    @property
    def equal_dose(self) -> bool:
        """Whether both can hold the same dose: ratio below 1.5, or no significant difference."""
        if not (0 < self.x < math.inf and 0 < self.y < math.inf):
            return self.x == self.y  # no noise to compare with
        near = max(self.dose_ratio, 1 / self.dose_ratio) < _EQUAL_DOSE_RATIO
        # The mean power of n pixels is uncertain by 1/√n.
        chance = _SIGMAS * math.sqrt(2 / self.samples)
        return near or abs(math.log(self.y / self.x)) < chance


def rings_between(
    n_rings: int, pixel_size_angstrom: float, band: tuple[float, float]
) -> Bool[Tensor, "rings"]:
    """Return which rings lie between two resolutions, Å; never the mean, and at least one."""
    resolution = pixel_size_angstrom / ring_frequencies(n_rings)
    inside = (resolution <= band[0]) & (resolution >= band[1])
    inside[0] = False
    if not inside.any():
        inside[1] = True
    return inside


def colours(sums: RingSums, n_rings: int, pixel_size_angstrom: float) -> Colours:
    """Compare the power of two images between 400 and 100 Å with that near Nyquist.

    Args:
        sums: Of both images.
        n_rings: Rings up to Nyquist.
        pixel_size_angstrom: Å/px.
    """
    signal = rings_between(n_rings, pixel_size_angstrom, _SIGNAL_BAND_ANGSTROM)
    outer = torch.arange(n_rings) >= 3 * n_rings // 4
    count = sums.count[:n_rings]

    def colour(power: Tensor) -> float:
        low = power[:n_rings][signal].sum() / count[signal].sum()
        high = power[:n_rings][outer].sum() / count[outer].sum()
        return float(low / high) if high > 0 else math.inf

    # Half of the spectrum mirrors the other half.
    return Colours(colour(sums.power_x), colour(sums.power_y), float(count[signal].sum()) / 2)


def pool(sums: RingSums, n_bands: int) -> RingSums:
    """Add neighbouring rings up to at most `n_bands` wider ones."""
    width = -(-len(sums.cross) // n_bands)

    def add(values: Tensor) -> Tensor:
        padding = -len(values) % width
        return torch.nn.functional.pad(values, (0, padding)).reshape(-1, width).sum(1)

    return sums.map(add)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, 0.0)


@dataclass(frozen=True)
class Moments:
    """Sums over the pixels of two images after subtraction of their means; adding pools images."""

    xy: float
    xx: float
    yy: float
    count: int

    @classmethod
    def of(cls, x: Float[Tensor, "h w"], y: Float[Tensor, "h w"]) -> Moments:
        """Sum over two images, in float64."""
        x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
        xy, xx, yy = ((x * y).sum(), x.square().sum(), y.square().sum())
        return cls(float(xy), float(xx), float(yy), x.numel())

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.xy + other.xy, self.xx + other.xx, self.yy + other.yy, self.count + other.count
        )

    @property
    def correlation(self) -> float:
        """Pearson's r; 0 if an image is constant."""
        return self.xy / math.sqrt(self.xx * self.yy) if self.xx > 0 and self.yy > 0 else 0.0


def snr_db(correlation: float) -> float:
    """Return −10 log₁₀(1 − r²), r the correlation with the truth: 0 for pure noise."""
    return -10 * math.log10(max(1 - correlation**2, 1e-12))


def psnr_db(image: Float[Tensor, "h w"], truth: Float[Tensor, "h w"]) -> float:
    """Return 10 log₁₀(range² / MSE) after the best affine fit of the image to the truth, dB.

    `range` is that of the truth. The fit makes it independent of the image's scale.
    """
    truth = truth.double()
    error = (fit_affine(image, truth).double() - truth).square().mean()
    span = float(truth.max() - truth.min())
    return 10 * math.log10(max(span**2, 1e-30) / max(float(error), 1e-12 * span**2, 1e-30))


def ssim(image: Float[Tensor, "h w"], truth: Float[Tensor, "h w"]) -> float:
    """Return the structural similarity after the best affine fit of the image to the truth.

    Source: Wang et al. 2004, 11 px Gaussian window of 1.5 px, data range that of the truth.
    """
    truth = truth.double()
    fitted = fit_affine(image, truth).double()
    span = float(truth.max() - truth.min())
    return float(_ssim(fitted[None, None], truth[None, None], data_range=span))


def traits(raw: Float[Tensor, "h w"], denoised: Float[Tensor, "h w"]) -> dict[str, float]:
    """Return what a micrograph looks like to a denoiser: scale-free numbers, cheap to measure.

    What was taken out should be noise as the denoiser knows it. With r = raw − denoised, both
    without their slowest waves, and P its power in three bands of frequency (cycles/px):
    `noise low` is ln P(0.02–0.1)/P(0.1–0.3), `noise high` ln P(0.3–0.5)/P(0.1–0.3), `contrast`
    ln of the power of the denoised over that of r, `outliers` log₁₀ of the share of pixels of r
    beyond 5 σ (at least 10⁻⁵), `signal removed` the correlation of r with the denoised.

    Args:
        raw: Part of a micrograph.
        denoised: The same part of the result, in the same unit.
    """
    cutoff = 0.01
    kept = highpass(denoised - denoised.mean(), cutoff)
    noise = highpass(raw - raw.mean(), cutoff) - kept
    rings = ring_sums(noise, noise, _TRAIT_RINGS)
    power, count = rings.power_x, rings.count

    def band(low: float, high: float) -> float:
        span = slice(round(2 * low * _TRAIT_RINGS), round(2 * high * _TRAIT_RINGS))
        return math.log(max(float(power[span].sum() / count[span].sum()), 1e-30))

    sigma = noise.std()
    middle = band(0.1, 0.3)
    outliers = float((noise.abs() > 5 * sigma).float().mean())
    removed = (noise * kept).mean() / (noise.square().mean() * kept.square().mean()).sqrt()
    return {
        "noise low": band(0.02, 0.1) - middle,
        "noise high": band(0.3, 0.5) - middle,
        "contrast": math.log(max(float(kept.var() / noise.var()), 1e-30)),
        "outliers": math.log10(max(outliers, 1e-5)),
        "signal removed": float(removed.nan_to_num()),
    }


def fit_affine(
    image: Float[Tensor, "h w"], reference: Float[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """Scale and shift an image to least squared distance from a reference."""
    moments = Moments.of(image, reference)
    slope = moments.xy / moments.xx if moments.xx > 0 else 0.0
    wide = image.double()
    return ((wide - wide.mean()) * slope + reference.double().mean()).to(image.dtype)


def highpassed(
    image: Float[Tensor, "h w"], pixel_size_angstrom: float, cutoff_angstrom: float = 400.0
) -> Float[Tensor, "h w"]:
    """Remove what is slower than `cutoff_angstrom`, or the ice gradient dominates every score."""
    return highpass(image.double(), pixel_size_angstrom / cutoff_angstrom)


# Evidence counts from three standard errors on, and in full from six.
_EVIDENCE_SIGMAS = 3.0
_TINY = 1e-300
# A ring whose output would need more than this holds hardly any signal.
_LARGEST_GAIN = 10.0


@dataclass(frozen=True)
class AmplitudeSums:
    """What a network makes of micrographs, summed over Fourier rings; adding pools micrographs.

    Input I, target T and output D are on one scale; I and T hold the same signal and independent
    noise. The counts are those of independent pixels.

    Attributes:
        raw: Of (I, T).
        denoised: Of (D, T), D made from I.
        output: Σ|D|² of the output from the dose that the network is used at.
    """

    raw: RingSums
    denoised: RingSums
    output: Float[Tensor, "rings"]

    def __add__(self, other: AmplitudeSums) -> AmplitudeSums:
        return AmplitudeSums(
            self.raw + other.raw, self.denoised + other.denoised, self.output + other.output
        )

    def smoothed(self) -> AmplitudeSums:
        """Return the sums with each ring's neighbours added in."""
        near = _nearness(self.output)
        return AmplitudeSums(
            self.raw.map(lambda values: near @ values),
            self.denoised.map(lambda values: near @ values),
            near @ self.output,
        )


def signal_significance(sums: AmplitudeSums) -> Float[Tensor, "rings"]:
    """Return by how many standard errors I and T correlate, each ring with its neighbours."""
    shared, error = _pooled_cross(sums.raw)
    return shared / error.clamp(min=_TINY)


def signal_correlation(sums: AmplitudeSums) -> Float[Tensor, "rings"]:
    """Return ρ = C/√(P_D P_S), the correlation of D with the signal; NaN where P_S ≤ 0.

    C = Re Σ D T*, P_D = Σ|D|², P_S = Re Σ I T*. T's noise takes part in none of them on average,
    so the doses of I and T need not be equal.
    """
    signal = sums.raw.cross.where(sums.raw.cross > 0, torch.nan)
    return sums.denoised.cross / (sums.denoised.power_x * signal).sqrt()


def amplitude_gain(sums: AmplitudeSums) -> Float[Tensor, "rings"]:
    """Return the factor that gives each ring of a network's output the amplitude it has proof of.

    g = min(√(P_S/P_D), 2 C/P_D). The first brings the output to the power of the signal, and no
    further: the signal's transfer becomes ρ, its correlation with the output. The second rules
    where ρ < ½: beyond it, g D would be farther from the signal than nothing at all,
    |g D − S|² > |S|². C is known at the dose of I alone; the P_D beside it is the lesser of those
    at both doses, which is exact for a fixed filter and for an ideal denoiser.

    g is 1 without evidence, see `_evidence`, that the output has less power than the signal and
    correlates with it; or, to lower it to √(P_S/P_D), that it has more. What I and T share in the
    outer quarter of the frequencies is taken for white noise of the detector, in all rings, and is
    no signal to be restored. Never above 10, or below 0.1.

    Source: Rosenthal & Henderson 2003, who sharpen to full amplitude and weigh it by ρ (C_ref),
        up to where it is ½.
    """
    shared, error = _pooled_cross(sums.raw)
    seen, seen_error = _pooled_cross(sums.denoised)
    pattern, pattern_error = _shared_floor(sums.raw)
    near = _nearness(sums.output)
    power = near @ sums.output
    missing = shared - pattern - power
    damped = _evidence(missing, torch.hypot(error, pattern_error)) * _evidence(seen, seen_error)
    excessive = _evidence(power - shared, error)
    worth = 2 * _ratio(seen, torch.minimum(power, near @ sums.denoised.power_x))
    raised = torch.minimum(_ratio(shared - pattern, power).clamp(min=0).sqrt(), worth)
    lowered = _ratio(shared, power).clamp(min=0).sqrt()
    return (
        1
        + damped * (raised.clamp(1, _LARGEST_GAIN) - 1)
        + excessive * (lowered.clamp(1 / _LARGEST_GAIN, 1) - 1)
    )


def _evidence(value: Float[Tensor, "rings"], error: Float[Tensor, "rings"]) -> Tensor:
    """Return 0 up to three standard errors above 0, 1 from six on, and between them in between."""
    return (value / error.clamp(min=_TINY) / _EVIDENCE_SIGMAS - 1).clamp(0, 1)


def _nearness(like: Float[Tensor, "rings"]) -> Float[Tensor, "rings rings"]:
    """Return how much each ring (row) counts its neighbours in: up to a fifth of its frequency.

    So the Thon rings of the few micrographs that a gain is learnt from do not show in it.
    """
    ring = torch.arange(len(like), dtype=like.dtype, device=like.device)
    reach = 2 + ring / 5
    return (1 - (ring - ring[:, None]).abs() / reach[:, None]).clamp(min=0)


def _pooled_cross(sums: RingSums) -> tuple[Float[Tensor, "rings"], Float[Tensor, "rings"]]:
    """Return Re Σ X Y* of each ring with its neighbours, and its standard error."""
    near = _nearness(sums.cross)
    return near @ sums.cross, (near.square() @ _cross_variance(sums)).sqrt()


def _cross_variance(sums: RingSums) -> Float[Tensor, "rings"]:
    """Return the variance of Re Σ X Y* by the noise in both, for the signal that there is."""
    spread = sums.power_x * sums.power_y - sums.cross.square()
    return _ratio(spread.clamp(min=0), sums.count)


def _shared_floor(sums: RingSums) -> tuple[Float[Tensor, "rings"], Float[Tensor, "rings"]]:
    """Return what white noise of the outer quarter's shared power adds to the pooled rings."""
    ring = torch.arange(len(sums.cross), device=sums.cross.device)
    outer = ring >= 3 * len(ring) // 4
    pixels = _nearness(sums.count) @ sums.count / sums.count[outer].sum().clamp(min=1)
    shared = sums.cross[outer].sum().clamp(min=0)
    return shared * pixels, _cross_variance(sums)[outer].sum().sqrt() * pixels
