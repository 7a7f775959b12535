"""Spectra of images whose opposite edges differ, and bands of them that tell halves apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from clearice.data import dose_weighted_mean
from clearice.fourier import (
    RingSums,
    axis_distance,
    frequency_grid,
    half_spectrum_weights,
    stripe_masks,
)
from clearice.metrics import frc

# Frequencies this near an axis stand for what would be on it without stripes: specimen, noise and a
# pattern of single pixels are the same on both.
_NEIGHBOURS = (2, 9)
# Slower stripes cannot be told from the gradient of the ice.
_SLOWEST_STRIPE = 1 / 20
_NEAR_NYQUIST = (0.4, 0.5)
_LARGEST_SIDE = 2048


def periodic_spectrum(image: Float[Tensor, "h w"]) -> Complex[Tensor, "h wf"]:
    """Return the `rfft2` of an image without the jumps between its opposite edges.

    A gradient would otherwise spread along both axes up to Nyquist and look like stripes that two
    halves share. The smooth component that holds the jumps is the solution of Poisson's equation
    for them, and its spectrum follows from those of the four edges alone.

    Source: Moisan, J. Math. Imaging Vis. 39, 161 (2011), periodic plus smooth decomposition.
    """
    height, width = image.shape
    fy = torch.fft.fftfreq(height, device=image.device, dtype=image.dtype)
    fx = torch.fft.rfftfreq(width, device=image.device, dtype=image.dtype)
    turn_y, turn_x = 2 * math.pi * fy[:, None], 2 * math.pi * fx[None, :]
    down = torch.fft.rfft(image[-1] - image[0])[None, :]
    across = torch.fft.fft(image[:, -1] - image[:, 0])[:, None]
    one = torch.ones_like
    jumps = down * (1 - torch.polar(one(turn_y), turn_y))
    jumps = jumps + across * (1 - torch.polar(one(turn_x), turn_x))
    laplacian = 2 * turn_y.cos() + 2 * turn_x.cos() - 4
    laplacian[0, 0] = 1.0
    smooth = jumps / laplacian
    smooth[0, 0] = 0.0
    return torch.fft.rfft2(image) - smooth


def _band_masks(height: int, width: int, device: torch.device) -> list[Bool[Tensor, "h wf"]]:
    """Return which bins are near Nyquist, on and beside each axis; no bin is in two of them."""
    frequency = frequency_grid(height, width, device=device)
    ky, kx = axis_distance(height, width, device=device)
    far = _NEIGHBOURS[1]
    off_axes = (ky > min(far, height // 8)) & (kx > min(far, width // 8))
    low_nyquist, high_nyquist = _NEAR_NYQUIST
    return [
        (frequency >= low_nyquist) & (frequency < high_nyquist) & off_axes,
        *stripe_masks(height, width, _SLOWEST_STRIPE, _NEIGHBOURS, device=device),
    ]


def centre(
    image: Float[Tensor, "*batch h w"], side: int = _LARGEST_SIDE
) -> Float[Tensor, "*batch ch cw"]:
    """Return a view of the middle, at most `side` px wide and high: 2048 for any statistic."""
    height, width = (min(side, length) for length in image.shape[-2:])
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def split_halves(
    groups: Float[Tensor, "k h w"], weights: Sequence[float]
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return the dose-weighted means of the even and of the odd groups, in float32."""
    wide = groups.float()
    return (
        dose_weighted_mean(wide[0::2], weights[0::2]),
        dose_weighted_mean(wide[1::2], weights[1::2]),
    )


@dataclass(frozen=True)
class Excess:
    """A correlation over what it would be without the effect in question.

    Attributes:
        value: The difference of correlations.
        error: Its standard error if the two images are independent.
    """

    value: float
    error: float

    @property
    def sigmas(self) -> float:
        """How many standard errors it is above 0."""
        return self.value / self.error


@dataclass(frozen=True)
class Agreement:
    """How two images agree where only noise is expected; adding two of them pools their images.

    Attributes:
        sums: Cross and auto power near Nyquist away from the axes, then of each axis and of the
            lines beside it: frequencies of stripes that run along rows, and along columns.
    """

    sums: RingSums

    @classmethod
    def of(cls, x: Complex[Tensor, "h wf"], y: Complex[Tensor, "h wf"], width: int) -> Agreement:
        """Compare two half-spectra of images with that many columns."""
        height = x.shape[0]
        weights = half_spectrum_weights(width, x.real).expand(height, -1)
        masks = _band_masks(height, width, x.device)

        def total(values: Float[Tensor, "h wf"]) -> Float[Tensor, "bands"]:
            weighted = values * weights
            return torch.stack([weighted[mask].sum(dtype=torch.float64) for mask in masks])

        return cls(
            RingSums(
                cross=total((x * y.conj()).real),
                power_x=total(x.abs().square()),
                power_y=total(y.abs().square()),
                count=total(torch.ones_like(x.real)),
            )
        )

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.sums + other.sums)

    @property
    def near_nyquist(self) -> Excess:
        """Correlation between 0.8 and 1 Nyquist, away from the axes."""
        return Excess(float(frc(self.sums)[0]), self._error(0))

    @property
    def rows(self) -> Excess:
        """Correlation of row means, above what specimen and single pixels cause."""
        return self._axis(1)

    @property
    def columns(self) -> Excess:
        """Correlation of column means, above what specimen and single pixels cause."""
        return self._axis(3)

    def _axis(self, band: int) -> Excess:
        correlation = frc(self.sums)
        error = math.hypot(self._error(band), self._error(band + 1))
        return Excess(float(correlation[band] - correlation[band + 1]), error)

    def _error(self, band: int) -> float:
        # Independent noise: 1/√(pixels of the full spectrum).
        return 1 / math.sqrt(max(float(self.sums.count[band]), 1.0))


def half_agreement(groups: Float[Tensor, "k h w"], weights: Sequence[float]) -> Agreement:
    """Compare the even with the odd groups of a micrograph, in its middle.

    Args:
        groups: Means of groups of frames.
        weights: Dose of each group, in any unit.
    """
    even, odd = split_halves(centre(groups), weights)
    return Agreement.of(periodic_spectrum(even), periodic_spectrum(odd), even.shape[1])
