"""How far eight denoised orientations of one micrograph disagree, place by place.

What is left to say without halves. It shows where a network is unsure of itself, never where it is
wrong with confidence: eight views of the same noise are no independent witnesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.evaluate.local import interpolated, local_mean

Image = Float[Tensor, "h w"]
_TINY = 1e-300
# Disagreement → mean squared local correlation with the truth, on simulated barrels:
# benchmarks/trust.py, under `calibration`.
KNOTS: Final = (-5.0, -4.5, -4.0, -3.5, -3.0, -2.5, -2.0)
_TRUE: Final = (0.75, 0.74, 0.71, 0.57, 0.37, 0.17, 0.08)


def orientations(denoise: Callable[[Image], Image], image: Image) -> list[Image]:
    """Denoise the eight orientations of the square, and turn the results back.

    Args:
        denoise: The network.
        image: What is denoised.
    """
    outputs = []
    for turns in range(4):
        for mirrored in (False, True):
            turned = torch.rot90(image.flip(1) if mirrored else image, turns)
            back = torch.rot90(denoise(turned.contiguous()), -turns)
            outputs.append(back.flip(1) if mirrored else back)
    return outputs


def disagreement(outputs: Sequence[Image], pixel_size_angstrom: float) -> Image:
    """Return ln of the variance between outputs over the power of their mean, in the window.

    Args:
        outputs: Band-limited, at least two.
        pixel_size_angstrom: Å/px.
    """
    stack = torch.stack(list(outputs))
    between = local_mean(stack.var(0), pixel_size_angstrom).clamp(min=_TINY)
    power = local_mean(stack.mean(0).square(), pixel_size_angstrom).clamp(min=_TINY)
    return (between / power).log()


def calibrated(disagreements: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the mean true value at a disagreement, as simulation says."""
    return interpolated(disagreements, KNOTS, _TRUE)
