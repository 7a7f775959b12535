"""Losses on Fourier spectra, bin by bin or whitened ring by ring.

F is `rfft2` of a patch of M pixels. But for the log power, sums run over the full spectrum and are
normalised so that by Parseval's theorem Σ |F p − F t|² / M² is the mean squared error.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from clearice.losses.spectrum import (
    AMPLITUDE_FLOOR,
    CORNER,
    NO_MEAN,
    auto_power,
    bin_shares,
    cross_power,
    rings_of,
)


def log_power(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Squared difference of log power spectra, of each sample.

    Mean over the half-spectrum (each stored bin once) of
    (log(1 + |F prediction|²) − log(1 + |F target|²))², F the unnormalised `rfft2` of the
    normalised patch.

    With a noisy target the minimiser reproduces the noise: where there is no signal,
    |F prediction|² → exp(−γ) σ² = 0.561 σ², because E log of an exponential variable is
    log σ² − γ.
    """
    logs = [torch.log1p(auto_power(torch.fft.rfft2(image))) for image in (prediction, target)]
    return (logs[0] - logs[1]).square().mean((1, 2, 3))


def amplitude(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Squared difference of Fourier amplitudes, of each sample: Σ (|F p| − |F t|)² / M².

    At most the mean squared error, and equal to it where all phases agree. The gradient is taken
    as 0 at F p = 0, where there is none.

    With a noisy target the minimiser is |F p| = E|F t|: without signal (√π/2) σ, that is
    0.785 of the noise power. With clean targets, too, it asks for more than the power of
    E[signal | input].
    """
    amplitudes = [torch.fft.rfft2(image).abs() for image in (prediction, target)]
    return _weighted_mean((amplitudes[0] - amplitudes[1]).square(), prediction) / _pixels(target)


def complex_l2(
    prediction: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    *,
    power: float = 1.0,
    low: float = 0.0,
    high: float = CORNER,
) -> Float[Tensor, "n"]:
    """Mean squared error of the spectrum with fixed weights, of each sample.

    Σ w(k) |F p − F t|² / M², w(k) = k^power between `low` and `high` and 0 outside, scaled to mean
    1 over the full spectrum; the mean of the image weighs as much as the lowest frequency. A white
    error costs the same whatever the weights; with power 0 and no limits it is `mse`.

    Quadratic in a linear image of the prediction: with a noisy target the minimiser is
    E[signal | input] at every frequency that counts.

    Args:
        prediction: Of the network.
        target: On the same scale.
        power: Exponent of the spatial frequency: above 0, fine detail counts more.
        low: Cycles/px; slower frequencies do not count.
        high: Cycles/px; faster frequencies do not count. The corner of the spectrum is at 0.707.
    """
    error = _power_of_difference(prediction, target)
    values = _weighted_mean(error, prediction, exponent=power, low=low, high=high)
    return values / _pixels(target)


def fourier_l1(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Mean absolute error of the complex spectrum, of each sample: Σ |F p − F t| / M^(3/2).

    With a noisy target the minimiser is the geometric median of the target's bin: E[signal | input]
    where its distribution is symmetric. Noise is, in a bin, nearly so whatever it is in a pixel: a
    bin sums all pixels.
    Source: the frequency loss of Cho et al., ICCV 2021 (MIMO-UNet), there with |Re| + |Im|.
    """
    # The root's gradient at 0 has no bound; |0| of a complex tensor has gradient 0.
    error = (torch.fft.rfft2(prediction) - torch.fft.rfft2(target)).abs()
    return _weighted_mean(error, prediction) / math.sqrt(_pixels(target))


def whitened(
    prediction: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    *,
    bins: int = 64,
    floor: float = 1e-6,
) -> Float[Tensor, "n"]:
    """Error of the complex spectrum, whitened ring by ring by itself, of each sample.

    Σ_b s_b log(floor + mean over ring b of |F p − F t|² / M), s_b the ring's share of the spectrum:
    minus the log likelihood of white noise in each ring, its unknown power estimated from the
    residual (profile likelihood). No ring counts for more because its noise is stronger. It is
    below 0 where the error is below 1.

    With a noisy target the minimiser is a mean of targets that weigh 1/(power of the ring's
    residual): E[signal | input] up to the relative spread of that power, √(2/bins in the ring),
    and exactly for symmetric noise on one signal.
    Source: profile likelihood, e.g. Murphy & van der Vaart, JASA 95, 2000; the noise power per ring
    as in Scheres, J. Struct. Biol. 180, 2012.

    Args:
        prediction: Of the network.
        target: On the same scale.
        bins: Rings up to Nyquist; those of the corners, of the same width, count too.
        floor: Added to the power of the residual, white noise of variance 1 having 1.
    """
    error = _power_of_difference(prediction, target)
    shape = (prediction.shape[-2], prediction.shape[-1])
    rings = rings_of(shape, error.device, error.dtype, bins=bins, low=0.0, high=CORNER)
    return (torch.log(rings.mean(error) + floor) * rings.shares).sum(-1).mean(1)


def phase(
    prediction: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    *,
    low: float = 0.0,
    high: float = 0.5,
) -> Float[Tensor, "n"]:
    """One minus the mean cosine of the phase differences, of each sample.

    1 − mean of Re F p F t* / (|F p| |F t|) over the bins from `low` to `high`, the mean of the
    image left out. Every bin counts the same, however little signal it has. Amplitudes below 1e-4
    of white noise of variance 1 count as that.

    With a noisy target the minimiser has the phase of E[F t / |F t|]: that of the signal, since
    noise in a bin has no preferred phase. The amplitude is free in every bin.
    Source: the phase residual of phase-only correlation, Kuglin & Hines 1975.

    Args:
        prediction: Of the network.
        target: Any scale.
        low: Cycles/px; slower frequencies do not count.
        high: Cycles/px; faster frequencies do not count.
    """
    first, second = torch.fft.rfft2(prediction), torch.fft.rfft2(target)
    floor = AMPLITUDE_FLOOR * math.sqrt(_pixels(target))
    norm = first.abs().clamp(min=floor) * second.abs().clamp(min=floor)
    cosine = cross_power(first, second) / norm
    return 1 - _weighted_mean(cosine, prediction, low=max(low, NO_MEAN), high=high)


def _power_of_difference(prediction: Tensor, target: Tensor) -> Tensor:
    difference: Complex[Tensor, "n c h wf"] = torch.fft.rfft2(prediction - target)
    return auto_power(difference)


def _pixels(image: Tensor) -> int:
    return image.shape[-2] * image.shape[-1]


def _weighted_mean(
    values: Float[Tensor, "n c h wf"],
    image: Float[Tensor, "n c h w"],
    *,
    exponent: float = 0.0,
    low: float = 0.0,
    high: float = CORNER,
) -> Float[Tensor, "n"]:
    """Average over the full spectrum of an image of that shape."""
    shape = (image.shape[-2], image.shape[-1])
    shares = bin_shares(shape, values.device, values.dtype, exponent=exponent, low=low, high=high)
    return (values * shares).sum((2, 3)).mean(1)
