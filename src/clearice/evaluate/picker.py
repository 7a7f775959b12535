"""The reference picker: a difference of Gaussians, the same for every image that is compared.

It is plain on purpose. What it finds depends on the image and one number, the particle's diameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from clearice.fourier import frequency_grid, gaussian_transfer

# Of the wider Gaussian to the narrower (Marr & Hildreth 1980): near the Laplacian of a Gaussian.
SIGMA_RATIO = 1.6
# Images are continued by reflection this far, in standard deviations of the wider Gaussian.
_REACH = 4.0
# From the median absolute deviation to the standard deviation of a normal distribution.
_MAD_TO_SIGMA = 1.4826

Response = Float[Tensor, "h w"]


@dataclass(frozen=True)
class PickerSettings:
    """What the picker needs to know; one for all images that are compared.

    Attributes:
        diameter_angstrom: Of the particle, Å.
        bright: Particles are brighter than the ice (denoised images are as their raw ones).
        separation: Smallest distance between two picks, in diameters.
        margin: Nothing is picked nearer to an edge than this, in diameters.
    """

    diameter_angstrom: float
    bright: bool = False
    separation: float = 0.7
    margin: float = 0.5


@dataclass(frozen=True)
class ScoredPicks:
    """Picks of one image, the best first.

    Attributes:
        xy_px: (x along columns, y along rows), px from the centre of the first pixel.
        score: Response in robust standard deviations of the response in that image.
    """

    xy_px: Float[Tensor, "n 2"]
    score: Float[Tensor, "n"]


def dog_sigmas(diameter_px: float) -> tuple[float, float]:
    """Return the standard deviations (px) that answer most to a disc of this diameter.

    G₁ − G₂ changes sign at r² = 4 ln k · σ₁² k²/(k² − 1), with σ₂ = k σ₁. A disc gets the largest
    response when its edge is there, since then all of it, and nothing else, counts as positive:
    σ₁ = (d/2) √((k² − 1)/(4 k² ln k)). For k → 1 this is d/(2√2), that of the Laplacian of a
    Gaussian (Lindeberg 1998).

    Source: Voss et al. 2009 (DoG Picker), J. Struct. Biol. 166, 205; k = 1.6 from Marr & Hildreth
    1980, Proc. R. Soc. B 207, 187.
    """
    k2 = SIGMA_RATIO**2
    narrow = diameter_px / 2 * math.sqrt((k2 - 1) / (4 * k2 * math.log(SIGMA_RATIO)))
    return narrow, SIGMA_RATIO * narrow


class DogFilter:
    """The responses of one image to the picker's filter, after any number of radial filters.

    The image is transformed once: a low-pass and the difference of Gaussians are one filter.

    Args:
        image: Intensities; at the edges it is continued by reflection.
        pixel_size_angstrom: Å/px.
        settings: Of the picker.
    """

    def __init__(
        self, image: Float[Tensor, "h w"], pixel_size_angstrom: float, settings: PickerSettings
    ) -> None:
        self._shape = image.shape
        self._sigmas = dog_sigmas(settings.diameter_angstrom / pixel_size_angstrom)
        self._sign = 1.0 if settings.bright else -1.0
        reach = math.ceil(_REACH * self._sigmas[1])
        self._before = [min(reach, edge - 1) for edge in image.shape]
        top, left = self._before
        level = (image - image.mean())[None, None]
        padded = torch.nn.functional.pad(level, (left, left, top, top), mode="reflect")[0, 0]
        self._padded_shape = padded.shape
        self._frequency = frequency_grid(*padded.shape, device=image.device, dtype=image.dtype)
        self._spectrum: Complex[Tensor, "h wf"] = torch.fft.rfft2(padded) * self._transfer()

    def _transfer(self) -> Float[Tensor, "h wf"]:
        narrow, wide = (gaussian_transfer(self._frequency, sigma) for sigma in self._sigmas)
        return self._sign * (narrow - wide)

    def response(self, also: Callable[[Tensor], Tensor] | None = None) -> Response:
        """Return the response, positive on particles.

        Args:
            also: A further radial filter of the image: its transfer at cycles/px.
        """
        spectrum = self._spectrum if also is None else self._spectrum * also(self._frequency)
        full = torch.fft.irfft2(spectrum, s=tuple(self._padded_shape))
        top, left = self._before
        return full[top : top + self._shape[0], left : left + self._shape[1]]


def find_peaks(
    response: Response, pixel_size_angstrom: float, settings: PickerSettings
) -> ScoredPicks:
    """Return the positive local maxima, the highest first and none near a higher one.

    Scores are in robust standard deviations (1.4826 MAD) of the image's own response, so that
    micrographs of other dose, thickness or defocus can share one ranking.

    Args:
        response: See `DogFilter`.
        pixel_size_angstrom: Å/px.
        settings: Of the picker.
    """
    diameter = settings.diameter_angstrom / pixel_size_angstrom
    around = torch.nn.functional.max_pool2d(response[None, None], 3, stride=1, padding=1)[0, 0]
    rows, columns = torch.nonzero((response == around) & (response > 0), as_tuple=True)
    height = response[rows, columns]
    order = height.argsort(descending=True, stable=True)
    xy = _refined(response, rows[order], columns[order])
    kept = _apart(xy, settings.separation * diameter)
    kept &= inside(xy, response.shape, settings.margin * diameter)
    deviation = (response - response.median()).abs().median()
    return ScoredPicks(xy[kept], height[order][kept] / (_MAD_TO_SIGMA * deviation))


def inside(
    xy_px: Float[Tensor, "n 2"], shape: tuple[int, ...] | torch.Size, margin_px: float
) -> Bool[Tensor, "n"]:
    """Tell which points are at least `margin_px` from every edge of an image (rows, columns)."""
    last = torch.tensor([shape[1] - 1.0, shape[0] - 1.0], device=xy_px.device)
    return ((xy_px >= margin_px) & (xy_px <= last - margin_px)).all(dim=1)


def _refined(
    response: Response, rows: Int[Tensor, "n"], columns: Int[Tensor, "n"]
) -> Float[Tensor, "n 2"]:
    """Move peaks to the tops of parabolas through their neighbours along each axis."""
    height, width = response.shape

    def vertex(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
        bend = before - 2 * here + after
        shift = 0.5 * (before - after) / torch.where(bend < 0, bend, -torch.inf)
        return shift.clamp(-0.5, 0.5)

    here = response[rows, columns]
    left = response[rows, (columns - 1).clamp(min=0)]
    right = response[rows, (columns + 1).clamp(max=width - 1)]
    above = response[(rows - 1).clamp(min=0), columns]
    below = response[(rows + 1).clamp(max=height - 1), columns]
    x = columns + vertex(left, here, right)
    y = rows + vertex(above, here, below)
    return torch.stack([x, y], dim=1)


def _apart(xy: Float[Tensor, "n 2"], distance: float) -> Bool[Tensor, "n"]:
    """Keep each point, in order, that no kept one before it is nearer to than `distance`."""
    kept = torch.zeros(len(xy), dtype=torch.bool, device=xy.device)
    free = torch.ones_like(kept)
    for index in range(len(xy)):
        if free[index]:
            kept[index] = True
            free &= (xy - xy[index]).square().sum(dim=1) >= distance**2
    return kept
