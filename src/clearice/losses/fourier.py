"""Losses on Fourier spectra."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def fourier_log_power(
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

    def log_power(image: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(image)
        return torch.log1p(spectrum.real.square() + spectrum.imag.square())

    return (log_power(prediction) - log_power(target)).square().mean((1, 2, 3))
