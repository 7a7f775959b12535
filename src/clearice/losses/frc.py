"""Losses that are correlations: of the whole image, or of its Fourier rings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.losses.spectrum import AMPLITUDE_FLOOR, auto_power, cross_power, rings_of


def frc(
    prediction: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    *,
    bins: int = 64,
    high: float = 0.5,
) -> Float[Tensor, "n"]:
    """One minus the mean Fourier ring correlation, of each sample.

    1 − mean over rings b of Re Σ_b F p F t* / √(Σ_b |F p|² Σ_b |F t|²). Every ring counts the
    same, so the few bins of low frequencies count as much as the many of high ones. The mean of
    the image is left out. Amplitudes below 1e-4 of white noise of variance 1 count as that.

    With a noisy target the minimiser has in each ring the direction of E[F t / ‖F t‖_b]: that of
    E[signal | input], since ‖F t‖ of a ring hardly varies. The amplitude of each ring is free, so
    a loss that fixes it must stand beside it.
    Source: Saxton & Baumeister, J. Microsc. 127, 1982.

    Args:
        prediction: Of the network.
        target: Any scale.
        bins: Rings up to Nyquist.
        high: Cycles/px; rings that reach beyond it are left out.
    """
    first, second = torch.fft.rfft2(prediction), torch.fft.rfft2(target)
    shape = (prediction.shape[-2], prediction.shape[-1])
    rings = rings_of(shape, prediction.device, prediction.dtype, bins=bins, high=high)

    def norm(spectrum: Tensor) -> Tensor:
        return rings.mean(auto_power(spectrum)).clamp(min=AMPLITUDE_FLOOR**2).sqrt()

    correlation = rings.mean(cross_power(first, second)) / (norm(first) * norm(second))
    return 1 - (correlation * rings.even_shares).sum(-1).mean(1)


def ncc(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """One minus Pearson's correlation of the pixels, of each sample.

    1 − Σ (p − p̄)(t − t̄) / √(Σ (p − p̄)² Σ (t − t̄)²). Standard deviations below 1e-4 count as that.

    With a noisy target the minimiser is proportional to E[signal | input], since the norm of a
    target hardly varies. Gain and offset are free.
    Source: Pearson 1895; as a loss (NCC) in image registration.
    """

    def centred(image: Tensor) -> Tensor:
        return image - image.mean((2, 3), keepdim=True)

    def deviation(image: Tensor) -> Tensor:
        return image.square().mean((2, 3)).clamp(min=AMPLITUDE_FLOOR**2).sqrt()

    first, second = centred(prediction), centred(target)
    covariance = (first * second).mean((2, 3))
    return 1 - (covariance / (deviation(first) * deviation(second))).mean(1)
