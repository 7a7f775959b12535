"""Structural similarity: local means, contrasts and correlations under a Gaussian window."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clearice.errors import ConfigError
from clearice.losses.windows import local_mean, window_width

# Wang, Simoncelli & Bovik 2003: exponents of the five scales.
_SCALES: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_K1, _K2 = 0.01, 0.03
# A factor of a product to a power below 1 has no bound on its gradient at 0.
_FLOOR: Final = 1e-4


def ssim(
    prediction: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    *,
    data_range: float = 8.0,
    sigma: float = 1.5,
) -> Float[Tensor, "n"]:
    """One minus the mean structural similarity, of each sample.

    1 − mean of (2 μp μt + C1)(2 cov + C2) / ((μp² + μt² + C1)(var p + var t + C2)), C1 = (0.01
    range)², C2 = (0.03 range)², under a Gaussian window that lies inside the image.

    The images have standard deviation 1; the default range is ±4 of it, where all but one pixel of
    16,000 lies, and C2 = 0.058.

    With a noisy target the contrast term asks for var p = var t: a gain of √(1 + 1/SNR).
    Source: Wang et al., IEEE Trans. Image Process. 13, 2004.

    Args:
        prediction: Of the network.
        target: On the same scale.
        data_range: Of the images.
        sigma: Of the window, px; it reaches to 3.5 sigma.

    Raises:
        ConfigError: The patch is smaller than the window.
    """
    _require_size("ssim", prediction, window_width(sigma))
    luminance, contrast = _similarity(prediction, target, data_range, sigma)
    return 1 - (luminance * contrast).mean((1, 2, 3))


def ms_ssim(
    prediction: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    *,
    data_range: float = 8.0,
) -> Float[Tensor, "n"]:
    """One minus the multi-scale structural similarity, of each sample.

    1 − Π over five scales of (mean contrast term)^w, the coarsest one times its luminance term;
    each scale is made of 2×2 means of the one before. Factors below 1e-4 (uncorrelated images)
    count as that, since their power would have no bounded gradient.

    With a noisy target it asks for too much contrast, as SSIM does at each scale.
    Source: Wang, Simoncelli & Bovik, Asilomar 2003.

    Args:
        prediction: Of the network.
        target: On the same scale.
        data_range: Of the images, see `ssim`.

    Raises:
        ConfigError: The patch is not larger than 160 px.
    """
    _require_size("ms-ssim", prediction, 16 * (window_width(1.5) - 1) + 1)
    images = prediction, target
    product = prediction.new_ones(prediction.shape[:2])
    for scale, exponent in enumerate(_SCALES):
        luminance, factor = _similarity(*images, data_range, 1.5)
        if scale == len(_SCALES) - 1:
            factor = luminance * factor
        product = product * factor.mean((2, 3)).clamp(min=_FLOOR) ** exponent
        images = _halve(images[0]), _halve(images[1])
    return 1 - product.mean(1)


def constants(data_range: float) -> tuple[float, float]:
    """Return C1 and C2, which keep the terms steady where there is nothing."""
    return (_K1 * data_range) ** 2, (_K2 * data_range) ** 2


def require_window(loss: str, image: Tensor, sigma: float) -> None:
    """Refuse images smaller than the window.

    Raises:
        ConfigError: The image is too small.
    """
    _require_size(loss, image, window_width(sigma))


def _similarity(
    prediction: Tensor, target: Tensor, data_range: float, sigma: float
) -> tuple[Tensor, Tensor]:
    """Return the luminance and the contrast-structure term at each place of the window."""
    c1, c2 = constants(data_range)
    products = prediction, target, prediction**2, target**2, prediction * target
    mp, mt, pp, tt, pt = local_mean(torch.cat(products, 1), sigma).chunk(5, 1)
    luminance = (2 * mp * mt + c1) / (mp**2 + mt**2 + c1)
    contrast = (2 * (pt - mp * mt) + c2) / (pp - mp**2 + tt - mt**2 + c2)
    return luminance, contrast


def _require_size(loss: str, image: Tensor, least: int) -> None:
    height, width = image.shape[-2:]
    if min(height, width) < least:
        raise ConfigError(
            f"loss '{loss}' needs patches of at least {least} px, not {height}×{width}; "
            "raise the patch size or take another loss"
        )


def _halve(image: Tensor) -> Tensor:
    """Average 2×2 pixels, an odd border padded with zeros, as the reference implementation does."""
    padding = [side % 2 for side in image.shape[-2:]]
    return functional.avg_pool2d(image, 2, padding=padding)
