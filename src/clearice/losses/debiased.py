"""Losses on powers, debiased with two independent targets.

A and B are targets with the same signal and noise of mean 0, independent of each other and of the
input. A product of one and the other, Q = Re F A F B* or ∇A·∇B, has no noise power: E Q is the
power of the signal, whatever the noise. Squaring one target would add it.

With q the same quantity of the prediction, each loss of powers is a Bregman divergence
φ(Q) − φ(q) − φ′(q)(Q − q) of a convex φ: linear in Q but for what does not depend on the
prediction, so its expectation is that of E[Q | input], with the minimiser q = E[Q | input], the
same as with clean targets (Banerjee, Guo & Wang, IEEE Trans. Inf. Theory 51, 2005). That is the
power of the signal: more than the power of E[signal | input], with clean targets too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.losses.gradient import sobel
from clearice.losses.spectrum import Rings, auto_power, cross_power, rings_of
from clearice.losses.structure import constants, require_window
from clearice.losses.windows import local_mean


def power_debiased(
    prediction: Float[Tensor, "n c h w"],
    first: Float[Tensor, "n c h w"],
    second: Float[Tensor, "n c h w"],
    *,
    bins: int = 64,
    high: float = 0.5,
) -> Float[Tensor, "n"]:
    """Squared difference of ring power from that of the signal, of each sample.

    Σ_b s_b (q_b − Q_b)², q_b and Q_b the means of |F p|² / M and Re F A F B* / M over ring b, s_b
    the ring's share: the divergence of φ = q². The strong low frequencies rule it.

    Args:
        prediction: Of the network.
        first: Target A.
        second: Target B, of the same signal with independent noise.
        bins: Rings up to Nyquist.
        high: Cycles/px; rings that reach beyond it are left out.
    """
    rings, found, wanted = _ring_powers(prediction, first, second, bins, high)
    return _over_rings((found - wanted).square(), rings)


def amplitude_debiased(
    prediction: Float[Tensor, "n c h w"],
    first: Float[Tensor, "n c h w"],
    second: Float[Tensor, "n c h w"],
    *,
    bins: int = 64,
    high: float = 0.5,
    floor: float = 0.3,
) -> Float[Tensor, "n"]:
    """Difference of ring amplitudes from those of the signal, of each sample.

    Σ_b s_b (√(q_b + c) − √(Q_b + c))² / √(q_b + c), c the floor: the divergence of φ = −2√(q + c),
    where Q_b + c > 0; elsewhere another term without the prediction. Between the power, which weak
    rings hardly change, and the log power.

    Args:
        prediction: Of the network.
        first: Target A.
        second: Target B, of the same signal with independent noise.
        bins: Rings up to Nyquist.
        high: Cycles/px; rings that reach beyond it are left out.
        floor: Added to both powers, white noise of variance 1 having 1.
    """
    rings, found, wanted = _ring_powers(prediction, first, second, bins, high)
    root = (found + floor).sqrt()
    offset = 2 * (wanted + floor).clamp(min=0).sqrt()
    return _over_rings(root + (wanted + floor) / root - offset, rings)


def log_power_debiased(
    prediction: Float[Tensor, "n c h w"],
    first: Float[Tensor, "n c h w"],
    second: Float[Tensor, "n c h w"],
    *,
    bins: int = 64,
    high: float = 0.5,
    floor: float = 0.3,
) -> Float[Tensor, "n"]:
    """Itakura–Saito divergence of ring powers from those of the signal, of each sample.

    Σ_b s_b (r_b − log r_b − 1), r_b = (Q_b + c) / (q_b + c), c the floor: the divergence of
    φ = −log(q + c), about half the squared difference of log powers near r = 1. Where Q_b + c is
    below c/10, which chance can make negative, the logarithm, which the prediction is not in, takes
    that.
    Source: Itakura & Saito 1968; the Whittle likelihood.

    Args:
        prediction: Of the network.
        first: Target A.
        second: Target B, of the same signal with independent noise.
        bins: Rings up to Nyquist.
        high: Cycles/px; rings that reach beyond it are left out.
        floor: Added to both powers, white noise of variance 1 having 1.
    """
    rings, found, wanted = _ring_powers(prediction, first, second, bins, high)
    ratio = (wanted + floor) / (found + floor)
    offset = (wanted + floor).clamp(min=floor / 10).log()
    return _over_rings(ratio + (found + floor).log() - offset - 1, rings)


def gradient_magnitude_debiased(
    prediction: Float[Tensor, "n c h w"],
    first: Float[Tensor, "n c h w"],
    second: Float[Tensor, "n c h w"],
    *,
    sigma: float = 4.0,
) -> Float[Tensor, "n"]:
    """Squared difference of local squared gradients from those of the signal, of each sample.

    Mean of (⟨|∇p|²⟩ − ⟨∇A·∇B⟩)², ∇ the Sobel filters over 8 and ⟨ ⟩ a Gaussian window inside the
    image: a mean is linear, so the debiasing holds while the noise of ∇A·∇B shrinks.

    Args:
        prediction: Of the network.
        first: Target A.
        second: Target B, of the same signal with independent noise.
        sigma: Of the window, px; it reaches to 3.5 sigma.

    Raises:
        ConfigError: The patch is smaller than the window.
    """
    require_window("gradient-magnitude-debiased", prediction, sigma)
    powers = sobel(prediction).square().sum(0), (sobel(first) * sobel(second)).sum(0)
    found, wanted = local_mean(torch.cat(powers, 1), sigma).chunk(2, 1)
    return (found - wanted).square().mean((1, 2, 3))


def ssim_debiased(
    prediction: Float[Tensor, "n c h w"],
    first: Float[Tensor, "n c h w"],
    second: Float[Tensor, "n c h w"],
    *,
    data_range: float = 8.0,
    sigma: float = 8.0,
) -> Float[Tensor, "n"]:
    """One minus the structural similarity to the signal, of each sample.

    SSIM with T = (A + B)/2 where the target stands once, cov(A, B) for its local variance and
    μA μB for its squared local mean. Each of these has the expectation of the clean one, but they
    stand in a denominator D, so the contrast comes out too low, in the order of var(cov(A, B)) / D²
    and var(μA μB) / D². White noise of variance σ² in each target gives var(cov(A, B)) =
    σ⁴ / (4 π sigma²), so the window must be wide; the default holds 800 px. There the contrast was
    1–2, 4–5 and 7–9 % too low for SNR 1, 0.1 and 0.03 in each target, and 15–33 % with the window
    of plain SSIM. Negative cov(A, B) and μA μB count as 0.

    Args:
        prediction: Of the network.
        first: Target A.
        second: Target B, of the same signal with independent noise.
        data_range: Of the images, see `ssim`.
        sigma: Of the window, px; it reaches to 3.5 sigma.

    Raises:
        ConfigError: The patch is smaller than the window.
    """
    require_window("ssim-debiased", prediction, sigma)
    c1, c2 = constants(data_range)
    target = (first + second) / 2
    products = prediction, first, second, prediction**2, first * second, prediction * target
    mp, ma, mb, pp, ab, pt = local_mean(torch.cat(products, 1), sigma).chunk(6, 1)
    mean = (ma + mb) / 2
    luminance = (2 * mp * mean + c1) / (mp**2 + (ma * mb).clamp(min=0) + c1)
    variances = pp - mp**2 + (ab - ma * mb).clamp(min=0)
    contrast = (2 * (pt - mp * mean) + c2) / (variances + c2)
    return 1 - (luminance * contrast).mean((1, 2, 3))


def _ring_powers(
    prediction: Tensor, first: Tensor, second: Tensor, bins: int, high: float
) -> tuple[Rings, Tensor, Tensor]:
    """Return the rings, the power of the prediction and the cross power of the targets in them."""
    shape = (prediction.shape[-2], prediction.shape[-1])
    rings = rings_of(shape, prediction.device, prediction.dtype, bins=bins, high=high)
    spectra = [torch.fft.rfft2(image) for image in (prediction, first, second)]
    return (
        rings,
        rings.mean(auto_power(spectra[0])),
        rings.mean(cross_power(spectra[1], spectra[2])),
    )


def _over_rings(values: Float[Tensor, "n c rings"], rings: Rings) -> Float[Tensor, "n"]:
    return (values * rings.shares).sum(-1).mean(1)
