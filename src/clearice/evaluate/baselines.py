"""What a user gets without a network: the best Gaussian low-pass and the radial Wiener filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.fourier import RingSums
from clearice.metrics import frc, pool, wiener_gain

# Standard deviations of the Gaussians that are tried, px.
GAUSSIAN_SIGMAS = tuple(0.5 + 0.25 * i for i in range(59))
_WIENER_BANDS = 48


def gaussian_response(frequency: Float[Tensor, "rings"], sigma_px: float) -> Float[Tensor, "rings"]:
    """Return the transfer of a Gaussian of standard deviation `sigma_px` on rings."""
    return torch.exp(-2 * (math.pi * sigma_px * frequency).square())


def best_gaussian(
    frequency: Float[Tensor, "rings"], quality: Callable[[Float[Tensor, "rings"]], float]
) -> float:
    """Scan the Gaussians and return the standard deviation (px) of highest quality."""
    return max(GAUSSIAN_SIGMAS, key=lambda sigma: quality(gaussian_response(frequency, sigma)))


def wiener_response(sums: Sequence[RingSums], *, oracle: bool) -> Float[Tensor, "rings"]:
    """Return the radial Wiener filter, signal / (signal + noise), pooled over all cases.

    It is learnt from the very micrographs that it is judged on, in bands wide enough that this
    hardly flatters it.

    Args:
        sums: Of (raw, independent reference), or of (raw, truth) for the oracle.
        oracle: The second image is the truth: the bound of all radial filters, which no user has.
    """
    total = pool(reduce(add, sums), _WIENER_BANDS)
    gain = frc(total).clamp(min=0).square() if oracle else wiener_gain(total)
    n_rings = len(sums[0].cross)
    return gain.repeat_interleave(-(-n_rings // len(gain)))[:n_rings]
