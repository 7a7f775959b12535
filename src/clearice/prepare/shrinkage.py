"""How much of an estimated pattern may be believed: one weight for each class of frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from clearice.fourier import (
    axis_distance,
    frequency_grid,
    half_spectrum_weights,
    ring_index,
    rings_to_corner,
)

# A white pattern has 0.3 % of its power below 1/32 cycles/px; specimen, ice and illumination have
# most of theirs there.
CUTOFF = 1 / 32
CLASSES = ("pixels", "rows", "row blocks", "columns", "column blocks")
_RINGS = 16
_AXIS_BANDS = 2
# Stripes across a half, a quarter or an eighth of the image: read-out channels.
_BLOCK_HARMONICS = 4
_SIGMAS = 5.0
# Below, the logarithm of a ratio of variances is too far from normal to count its errors.
_LEAST_FREEDOM = 24.0
# A class of frequencies has an amplitude of its own if that is known to this relative error.
_SLOPE_ERROR = 0.1
# Error that the halves share biases what is learnt from them and every correlation between them;
# noise of their own only adds to the noise there is. So the one weighs ten times the other.
SHARED_COST = 10.0

Cells = Float[Tensor, "cells"]
Spectrum = Complex[Tensor, "h wf"]


@dataclass(frozen=True)
class Component:
    """One class of frequencies of the pattern.

    Attributes:
        name: Of the class: `rows` and `columns` are stripes across the whole image, their `blocks`
            stripes across a part of it, and `pixels` is all the rest.
        rms: Of the pattern, in standard deviations of the noise of the images it was found in.
        reliability: Share of the pattern in the variance of its estimate, 0 to 1.
        removed: Share of the pattern's power that its subtraction takes away, 0 to 1.
    """

    name: str
    rms: float
    reliability: float
    removed: float


def _axis_cells(distance: Tensor, along: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Return the cell of each bin for stripes, and which bins lie on the axis or beside it."""
    band = (along * 2 * _AXIS_BANDS).long().clamp(max=_AXIS_BANDS - 1)
    cell = first + band + _AXIS_BANDS * (distance > 0)
    return cell, (distance <= _BLOCK_HARMONICS) & (along >= CUTOFF)


class CellMap:
    """Which cell each `rfft2` bin of an image belongs to; cell 0 is slower than `CUTOFF`.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        device: Where to compute.
    """

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        frequency = frequency_grid(height, width, device=device)
        ky, kx = axis_distance(height, width, device=device)
        n_rings = rings_to_corner(_RINGS)
        cells = 1 + ring_index(height, width, _RINGS, device=device).clamp(max=n_rings - 1)
        for first, distance, along in (
            (1 + n_rings, kx, ky / height),
            (1 + n_rings + 2 * _AXIS_BANDS, ky, kx / width),
        ):
            stripes, where = _axis_cells(distance, along.expand_as(cells), first)
            cells = torch.where(where, stripes, cells)
        self._cells = torch.where(frequency < CUTOFF, 0, cells)
        self._hermitian = half_spectrum_weights(width, frequency).expand(height, -1).flatten()
        self._sizes = (1, n_rings, *(_AXIS_BANDS,) * 4)
        self.count = self.total(torch.ones_like(frequency))

    def total(self, values: Float[Tensor, "h wf"]) -> Cells:
        """Sum over each cell, in float64, each mirrored bin counted."""
        weighted = (values.flatten() * self._hermitian).double()
        return torch.bincount(self._cells.flatten(), weights=weighted, minlength=sum(self._sizes))

    def spread(self, factors: Cells) -> Float[Tensor, "h wf"]:
        """Return the factor of the cell of each bin, in float32."""
        return factors.float()[self._cells]

    def of_class(self, factors: Sequence[float]) -> Cells:
        """Return the same factor for all cells of each of `CLASSES`, and 0 below the cut-off."""
        sizes = torch.tensor(self._sizes, device=self.count.device)
        values = torch.tensor([0.0, *factors], device=self.count.device, dtype=self.count.dtype)
        return values.repeat_interleave(sizes)

    def by_class(self, values: Cells) -> list[Cells]:
        """Return the cells of each of `CLASSES`."""
        return list(torch.split(values, list(self._sizes)))[1:]


def _believable(shared: Cells, error: Cells, certain: Bool[Tensor, "cells"]) -> Cells:
    """Keep what is certain; elsewhere take the mean of all cells, if that is, and if it fits.

    Single pixels make a white pattern, of which cells of few frequencies could not tell alone.

    Args:
        shared: Power that sets of micrographs share.
        error: Its standard error where they share nothing.
        certain: Where it stands out from 0.
    """
    precision = torch.where(error > 0, 1 / error.square().clamp(min=1e-300), 0.0)
    precision[0] = 0.0
    total = float(precision.sum())
    mean = float((precision * shared).sum()) / total if total > 0 else 0.0
    if mean * math.sqrt(total) <= _SIGMAS:
        mean = 0.0
    fits = (shared - mean).abs() <= _SIGMAS * error
    pattern = torch.where(certain, shared, torch.where(fits, mean, 0.0))
    pattern[0] = 0.0
    return pattern


def _mean_power(cells: CellMap, spectra: Sequence[Spectrum]) -> Cells:
    sums = [cells.total(spectrum.abs().square()) for spectrum in spectra]
    return torch.stack(sums).mean(0) / cells.count.clamp(min=1)


@dataclass(frozen=True)
class CellPowers:
    """Mean power of each cell in the images that the pattern is estimated from.

    Attributes:
        pattern: Of the pattern, where it stands out or belongs to one that does; 0 elsewhere.
        noise: Of all else in one image, specimen included.
    """

    pattern: Cells
    noise: Cells

    @classmethod
    def measure(
        cls, cells: CellMap, spectra: Sequence[Spectrum], norms: Sequence[float]
    ) -> CellPowers:
        """Tell the pattern, which all spectra share, from the rest.

        Args:
            cells: The cells.
            spectra: Means of at least two disjoint sets of micrographs.
            norms: How many images each is the mean of.
        """
        n, count = len(spectra), cells.count.clamp(min=1)
        together = torch.zeros_like(spectra[0])
        power = torch.zeros_like(together.real)
        for spectrum in spectra:
            together, power = together + spectrum, power + spectrum.abs().square()
        # As in an analysis of variance: what sets share against what differs between them.
        common = together.abs().square() / n
        apart = ((power - common) / (n - 1)).clamp(min=0)
        between, within = cells.total(common) / count, cells.total(apart) / count
        # Frequencies count less where power is unevenly spread over them, as a specimen's is.
        even = within.square() * count / cells.total(apart.square()).clamp(min=1e-300)
        freedom = (cells.count * even * n / (n - 1)).clamp(min=1e-9)
        spread = (2 / freedom + 2 / (freedom * (n - 1))).sqrt()
        sigmas = (between / within.clamp(min=1e-300)).clamp(min=1e-300).log() / spread
        shared = (between - within) / n
        # Of all power, not of what is within: chance that lowers that one raises what is shared.
        every = (between + (n - 1) * within) / n
        error = every * (2 / (freedom * n * (n - 1))).sqrt()
        certain = (sigmas > _SIGMAS) & (freedom >= _LEAST_FREEDOM)
        pattern = _believable(shared, error, certain)
        images = len(norms) / sum(1 / norm for norm in norms)
        return cls(pattern, within * images)

    def weights(self, images: float, leverage: Cells, shared_cost: float) -> Cells:
        """Return w = κP²/(κP² + N²/n), which minimises κ(1−w)²P² + w²N²/n for the mean of n images.

        Args:
            images: n.
            leverage: Factor on κ: by how much the source shows the pattern better, relative to its
                noise, than the images that it is subtracted from.
            shared_cost: κ.
        """
        gain = shared_cost * leverage * self.pattern
        return torch.where(gain > 0, gain / (gain + self.noise / images), 0.0)

    def components(self, cells: CellMap, weights: Cells, images: float) -> tuple[Component, ...]:
        """Summarise each class."""
        every = float((self.noise * cells.count)[1:].sum())
        pattern = cells.by_class(self.pattern * cells.count)
        noise = cells.by_class(self.noise * cells.count / images)
        rows = zip(CLASSES, pattern, noise, cells.by_class(weights), strict=True)
        return tuple(_component(name, p, n, w, every) for name, p, n, w in rows)


def _component(name: str, pattern: Cells, noise: Cells, weights: Cells, every: float) -> Component:
    power, left = float(pattern.sum()), float((pattern * (1 - weights).square()).sum())
    if power <= 0:
        return Component(name, 0.0, 0.0, 0.0)
    error = float(noise[pattern > 0].sum())
    return Component(
        name, math.sqrt(power / max(every, 1e-30)), power / (power + error), 1 - left / power
    )


@dataclass(frozen=True)
class Transfer:
    """How the pattern of one kind of image stands in another, for each cell the same in a class.

    Attributes:
        slope: Its amplitude there over that in the source; 0 where it cannot be told from 0.
        leverage: Its amplitude relative to the noise in the source, over that ratio there.
    """

    slope: Cells
    leverage: Cells

    @classmethod
    def among(cls, cells: CellMap, groups: int) -> Transfer:
        """Return the transfer among groups of one kind, of which half are averaged for an image.

        Each has an estimate of its own, whose errors the average of `groups`/2 of them reduces.
        """
        one = torch.ones_like(cells.count)
        return cls(one, groups / 2 * one)

    @classmethod
    def measure(
        cls,
        cells: CellMap,
        powers: CellPowers,
        sources: Sequence[Spectrum],
        images: Sequence[Spectrum],
    ) -> Transfer:
        """Compare images with the sources of the other set of micrographs.

        Args:
            cells: The cells.
            powers: Measured on the sources.
            sources: Means of the sources, of two disjoint sets.
            images: Means of the images, of the same sets.
        """
        # Images are compared with the sources of the other set: no noise or specimen is in both.
        crossed = [
            cells.total((x * y.conj()).real) for x, y in zip(images, sources[::-1], strict=True)
        ]
        found = powers.pattern > 0
        power_x, power_y = _mean_power(cells, images), _mean_power(cells, sources)
        rows = zip(
            *(
                cells.by_class(torch.where(found, values, 0.0))
                for values in (
                    (crossed[0] + crossed[1]) / 2,
                    powers.pattern * cells.count,
                    power_x * power_y * cells.count / 2,
                    power_x * cells.count,
                    power_y * cells.count,
                )
            ),
            strict=True,
        )
        sums = torch.stack([torch.stack([values.sum() for values in row]) for row in rows])
        pooled = sums.sum(0)
        slopes = [_slope(own, pooled) for own in sums]
        noise = math.sqrt(float(pooled[3] / pooled[4])) if pooled[4] > 0 else 1.0
        leverages = [noise / slope if slope > 0 else 1.0 for slope in slopes]
        return cls(cells.of_class(slopes), cells.of_class(leverages))


def _slope(own: Float[Tensor, "5"], pooled: Float[Tensor, "5"]) -> float:
    """Return the amplitude of a class, or that of all classes if its own is too uncertain.

    Args:
        own: Cross power, pattern power and variance of the cross power of the class.
        pooled: The same of all classes together.
    """
    certain = own[0] > own[2].sqrt() / _SLOPE_ERROR
    cross, pattern, variance = (own if certain else pooled)[:3]
    return float(cross / pattern) if cross > _SIGMAS * variance.sqrt() else 0.0
