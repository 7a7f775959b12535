"""Denoisers that most people know, from scikit-image: non-local means and wavelets."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.errors import ConfigError

# Wide patches and many scales: single pixels hold next to no signal. Chosen on simulated
# micrographs (docs/results/quality.md), as those of the best result.
_PATCH_PX = 15
_SEARCH_PX = 8
_STRENGTH = 1.0
_WAVELET, _WAVELET_PX = "sym8", 16
# scikit-image takes its wavelets from pywt, which it does not require.
_PACKAGES: Final = ("skimage", "pywt")
MISSING: Final = (
    "non-local means and wavelets need scikit-image and PyWavelets "
    "(pip install 'clearice[baselines]')"
)

Field = Float[Tensor, "h w"]


def nonlocal_means(image: Field) -> Field:
    """Average each pixel with those near it whose surroundings look alike.

    Args:
        image: In any unit.

    Raises:
        ConfigError: scikit-image is missing.

    Source: Buades, Coll, Morel 2005; the fast form of Darbon et al. 2008.
    """
    restoration = _restoration()

    def denoise(pixels: Any) -> Any:
        sigma = _noise(pixels)
        return restoration.denoise_nl_means(
            pixels,
            patch_size=_PATCH_PX,
            patch_distance=_SEARCH_PX,
            h=_STRENGTH * sigma,
            sigma=sigma,
            fast_mode=True,
        )

    return _normalised(image, denoise)


def wavelet(image: Field) -> Field:
    """Shrink wavelet coefficients, by thresholds that follow each scale's own variance.

    Args:
        image: In any unit.

    Raises:
        ConfigError: scikit-image is missing.

    Source: Chang, Yu, Vetterli 2000 (BayesShrink).
    """
    restoration = _restoration()
    levels = max(1, int(math.log2(min(image.shape) / (_WAVELET_PX - 1))))
    return _normalised(
        image,
        lambda pixels: restoration.denoise_wavelet(
            pixels, method="BayesShrink", wavelet=_WAVELET, wavelet_levels=levels
        ),
    )


def _noise(pixels: Any) -> float:
    """Estimate the noise from differences of neighbours, whose median few details reach."""
    differences = torch.from_numpy(pixels).diff(dim=1).abs()
    return float(differences.median()) / 0.6745 / math.sqrt(2)


CLASSIC: Final[dict[str, Callable[[Field], Field]]] = {"nlm": nonlocal_means, "wavelet": wavelet}


def is_installed() -> bool:
    """Tell whether the packages are there, without importing them."""
    return all(find_spec(name) is not None for name in _PACKAGES)


def _normalised(image: Field, denoise: Callable[[Any], Any]) -> Field:
    mean, std = image.mean(), image.std()
    result = torch.from_numpy(denoise(((image - mean) / std).numpy()))
    return result.to(image) * std + mean


def _restoration() -> Any:
    if not is_installed():
        raise ConfigError(f"{MISSING}; install them")
    from skimage import restoration

    return restoration
