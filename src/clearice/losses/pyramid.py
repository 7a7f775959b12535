"""Any other loss on several scales of the images."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clearice.losses.windows import separable


def pyramid(
    prediction: Float[Tensor, "n c h w"],
    *targets: Float[Tensor, "n c h w"],
    loss: Callable[..., Tensor],
    levels: int = 3,
) -> Float[Tensor, "n"]:
    """Mean of a loss at `levels` scales: the images, and 2×2 means of them again and again.

    A border of odd size is averaged over what there is. Averaging is linear, so with noisy targets
    the loss inside asks for the same as without it.

    Args:
        prediction: Of the network.
        targets: One, or two independent ones, as the loss inside needs.
        loss: The loss inside.
        levels: Scales, the full one counted.
    """
    images = (prediction, *targets)
    total = loss(*images)
    for _ in range(levels - 1):
        images = tuple(
            functional.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)
            for image in images
        )
        total = total + loss(*images)
    return total / levels


def bandpass(
    prediction: Float[Tensor, "n c h w"],
    *targets: Float[Tensor, "n c h w"],
    loss: Callable[..., Tensor],
    levels: int = 3,
) -> Float[Tensor, "n"]:
    """Mean of a loss on `levels` bands of frequencies and on what remains below them.

    Each band is the image minus its blur by (1 4 6 4 1)/16 along both axes; every second pixel of
    the blur makes the next, coarser image. All of it is linear, and only equal images agree in all
    bands, so with noisy targets the loss inside asks for the same as without them.
    Source: Burt & Adelson, IEEE Trans. Commun. 31, 1983; bands left at their full sampling.

    Args:
        prediction: Of the network.
        targets: One, or two independent ones, as the loss inside needs.
        loss: The loss inside.
        levels: Bands above the remaining low-pass image.
    """
    images = torch.cat((prediction, *targets), 1)
    total = prediction.new_zeros(len(prediction))
    for _ in range(levels):
        smooth = _blur(images)
        total = total + loss(*(images - smooth).chunk(1 + len(targets), 1))
        images = smooth[..., ::2, ::2]
    return (total + loss(*images.chunk(1 + len(targets), 1))) / (levels + 1)


def _blur(image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    padded = functional.pad(image, (2, 2, 2, 2), mode="replicate")
    return separable(padded, _binomial(image.device, image.dtype))


@lru_cache(maxsize=8)
def _binomial(device: torch.device, dtype: torch.dtype) -> Float[Tensor, "5"]:
    with torch.inference_mode(False):
        return torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).div(16).to(device, dtype)
