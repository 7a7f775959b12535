"""Losses on the differences of neighbouring pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def gradient_l2(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Squared difference of linear gradients, of each sample.

    Σ over neighbours (right, below) of (d − d_neighbour)² / pixels, d the difference of prediction
    and target. In Fourier space it weighs the error by 4 sin²(π kx) + 4 sin²(π ky).

    Quadratic in a linear image of the prediction: with a noisy target the minimiser is
    E[signal | input]. An offset of the image costs nothing.
    """
    error = prediction - target
    pixels = error[0].numel()
    return sum(
        (error.diff(dim=axis).square().sum((1, 2, 3)) / pixels for axis in (2, 3)),
        error.new_zeros(len(error)),
    )


def sobel_l1(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Absolute difference of Sobel gradients, axis by axis, of each sample.

    Mean over pixels of |∂x(p − t)| + |∂y(p − t)|, both Sobel filters over 8 (a slope of 1 a pixel
    gives 1), the border repeated.

    With a noisy target the minimiser is the conditional median of the target's gradient. The filter
    takes as much of the noise with either sign, so independent noise is symmetric after it even
    where it is skewed in a pixel.
    """
    return sobel(prediction - target).abs().sum(0).mean((1, 2, 3))


def sobel_magnitude(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Absolute difference of gradient magnitudes, of each sample.

    Mean over pixels of | |∇p| − |∇t| |, |∇| = √(∂x² + ∂y²) from the Sobel filters over 8, the
    border repeated. The gradient is taken as 0 where |∇p| = 0.

    With a noisy target the minimiser is the median of |∇t|: without signal √(2 log 2) = 1.18 of the
    noise's standard deviation in ∂x, where it should be 0.
    """
    sizes = [torch.linalg.vector_norm(sobel(image), dim=0) for image in (prediction, target)]
    return (sizes[0] - sizes[1]).abs().mean((1, 2, 3))


def sobel(image: Float[Tensor, "n c h w"]) -> Float[Tensor, "2 n c h w"]:
    """Return the slope along columns and along rows, a pixel, the border repeated."""
    padded = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    slopes = (_slope(_smooth(padded, -2), -1), _slope(_smooth(padded, -1), -2))
    return torch.stack(slopes)


def _smooth(image: Tensor, axis: int) -> Tensor:
    """Average three neighbours with weights 1, 2, 1."""
    inner = image.shape[axis] - 2
    before, here, after = (image.narrow(axis, start, inner) for start in range(3))
    return (before + 2 * here + after) / 4


def _slope(image: Tensor, axis: int) -> Tensor:
    inner = image.shape[axis] - 2
    return (image.narrow(axis, 2, inner) - image.narrow(axis, 0, inner)) / 2
