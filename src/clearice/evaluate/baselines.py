"""What a user gets without a network: the best Gaussian low-pass and the radial Wiener filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearice.fourier import RingSums, gaussian_transfer
from clearice.metrics import frc, wiener_gain

# Standard deviations of the Gaussians that are tried, px.
GAUSSIAN_SIGMAS = tuple(0.5 + 0.25 * i for i in range(59))


def best_gaussian(
    frequency: Float[Tensor, "rings"], quality: Callable[[Float[Tensor, "rings"]], float]
) -> float:
    """Scan the Gaussians and return the standard deviation (px) of highest quality."""
    return max(GAUSSIAN_SIGMAS, key=lambda sigma: quality(gaussian_transfer(frequency, sigma)))


def wiener_response(sums: Sequence[RingSums], *, oracle: bool) -> Float[Tensor, "rings"]:
    """Return the radial Wiener filter, signal / (signal + noise), pooled over all cases.

    It is learnt from the very micrographs that it is judged on, so it is a little flattered.

    Args:
        sums: Of (raw, independent reference), or of (raw, truth) for the oracle.
        oracle: The second image is the truth, which no user has.
    """
    total, band = pool_evenly(reduce(add, sums))
    gain = frc(total).clamp(min=0).square() if oracle else wiener_gain(total)
    return gain[band]


def pool_evenly(sums: RingSums) -> tuple[RingSums, Int[Tensor, "rings"]]:
    """Pool rings into bands of a sixteenth of their frequency, and return the band of each ring.

    Fine where the signal is strong and changes fast, wide where it takes many pixels to see it.
    """
    edges, ring = [0], 0
    while ring < len(sums.cross):
        ring += max(1, ring // 16)
        edges.append(ring)
    rings = torch.arange(len(sums.cross))
    band = torch.bucketize(rings, torch.tensor(edges[1:]), right=True)

    def pooled(values: Tensor) -> Tensor:
        return torch.bincount(band, weights=values, minlength=len(edges) - 1)

    return sums.map(pooled), band
