"""Windows that slide over images."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def local_mean(image: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h2 w2"]:
    """Average each channel under a Gaussian window that lies inside the image."""
    return separable(image, _gaussian(sigma, image.device, image.dtype))


def separable(
    image: Float[Tensor, "n c h w"], kernel: Float[Tensor, "k"]
) -> Float[Tensor, "n c h2 w2"]:
    """Correlate each channel with one kernel along rows and columns, inside the image.

    From two contiguous channels on, CUDA does this in full float32: the TF32 that a convolution of
    one channel may be rounded to ruins a variance that is a difference of two means.
    """
    channels = image.shape[1]
    weights = kernel.expand(channels, 1, 1, -1)
    across = functional.conv2d(image.contiguous(), weights, groups=channels)
    return functional.conv2d(across, weights.mT, groups=channels)


def window_width(sigma: float) -> int:
    """Return the pixels along a side of a Gaussian window, which reaches to 3.5 sigma."""
    return 2 * int(3.5 * sigma + 0.5) + 1


@lru_cache(maxsize=8)
def _gaussian(sigma: float, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "k"]:
    with torch.inference_mode(False):
        reach = window_width(sigma) // 2
        offset = torch.arange(-reach, reach + 1, dtype=torch.float64)
        weights = torch.exp(-offset.square() / (2 * sigma**2))
        return (weights / weights.sum()).to(device, dtype)
