"""Fixed pattern: what a detector adds to every image, estimated from other micrographs.

Gain residuals, hot pixels and stripes are the same in both halves, so Noise2Noise would take them
for signal. The pattern of one micrograph is the mean of the others; three rules keep its
subtraction from doing harm:

- Groups that are compared never share an estimate. Each group's is the mean of micrographs of its
  own, at full dose, so that neither noise nor specimen left in it is in another group's. (One mean
  subtracted from both halves would itself add noise that they share.)
- A micrograph never takes part in its own pattern.
- Each class of frequencies is weighted by how well disjoint sets of micrographs agree on it, and
  left alone where they do not agree.

Images must lie on the detector as they were recorded: aligning frames moves the pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.fourier import frequency_grid
from clearice.prepare.defects import DefectMap, defect_map
from clearice.prepare.shrinkage import (
    CUTOFF,
    SHARED_COST,
    CellMap,
    CellPowers,
    Component,
    Spectrum,
    Transfer,
)
from clearice.prepare.spectra import periodic_spectrum

MINIMUM_MICROGRAPHS = 4
_DEFECT_SIGMAS = 6.0
# Single events (X-rays, ice crystals) count no more than this, in standard deviations.
_LARGEST_VALUE = 10.0


@dataclass(frozen=True)
class PatternSource:
    """One micrograph of a data set.

    Attributes:
        name: Of the micrograph.
        shape: Groups, rows, columns; only micrographs of the same shape share a pattern.
        read: Returns its normalised group means.
        weights: Share of the dose in each group.
        scale: How strong the pattern is in it compared with others. A gain is proportional to the
            counts, so in normalised images it is as mean over standard deviation of the counts.
    """

    name: str
    shape: tuple[int, int, int]
    read: Callable[[], Float[Tensor, "k h w"]]
    weights: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class _Part:
    """Images whose mean is one estimate: some groups of each micrograph of one subset."""

    subset: int
    groups: tuple[int, ...]

    def image(self, stack: Float[Tensor, "k h w"], weights: Sequence[float]) -> Tensor:
        """Return the dose-weighted mean of this part's groups of one micrograph."""
        dose = sum(weights[group] for group in self.groups)
        mean = torch.zeros(stack.shape[1:], device=stack.device)
        for group in self.groups:  # one by one: a stack in float32 is as large as all estimates
            mean += weights[group] / dose * stack[group].float()
        largest = _LARGEST_VALUE * float(mean.std(correction=0))
        return mean.clamp(-largest, largest)


@dataclass(frozen=True)
class _Plan:
    """Which part serves which group; micrograph m belongs to subset m modulo `subsets`.

    Attributes:
        subsets: Disjoint sets of micrographs.
        parts: What estimates are made of.
        uses: Parts that make the pattern of each group.
        images: Parts that show how strong the pattern is in what it is subtracted from, if those
            images are of another kind.
    """

    subsets: int
    parts: tuple[_Part, ...]
    uses: tuple[tuple[int, ...], ...]
    images: tuple[_Part, ...] = ()

    @classmethod
    def exchangeable(cls, groups: int, micrographs: int) -> _Plan:
        """Give each group micrographs of its own; where they are too few, other groups of them."""
        subsets = min(groups, micrographs // 2)
        classes = -(-groups // subsets)
        parts = tuple(
            _Part(g % subsets, tuple(range(g // subsets, groups, classes))) for g in range(groups)
        )
        return cls(subsets, parts, tuple((group,) for group in range(groups)))

    @classmethod
    def input_target(cls) -> _Plan:
        """Clean the input by what the targets, which have the higher dose, know of the pattern.

        The target keeps its own: from an input without it, it cannot be predicted.
        """
        parts = tuple(_Part(subset, (1,)) for subset in (0, 1))
        return cls(2, parts, ((0, 1), ()), tuple(_Part(subset, (0,)) for subset in (0, 1)))


@dataclass(frozen=True)
class Pattern:
    """The fixed pattern of all micrographs of one shape: made by `estimate_pattern`.

    Attributes:
        components: What was found, by class.
        defects: Hot and dead pixels, which are replaced.
    """

    components: tuple[Component, ...]
    defects: DefectMap
    _plan: _Plan
    _sources: Sequence[PatternSource]
    _totals: Sequence[Float[Tensor, "h w"]]
    _norms: Sequence[float]
    _response: Float[Tensor, "h wf"]

    def corrected(self, index: int, stack: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """Return a micrograph without the pattern that the others have.

        Args:
            index: Its place among the sources.
            stack: Its groups as they were when the pattern was estimated.

        Returns:
            In float32.
        """
        clean = torch.empty(stack.shape, device=stack.device)
        for group, image in enumerate(stack):
            clean[group] = self.defects.repair(image.float())
        if not bool(self._response.any()):
            return clean
        source, own = self._sources[index], self._own(index, stack)
        for group, parts in enumerate(self._plan.uses):
            if parts:
                mine = [own[p] for p in parts if p in own]
                total = reduce(add, [self._totals[p] for p in parts])
                norm = sum(self._norms[p] for p in parts) - source.scale**2 * len(mine)
                clean[group].sub_(reduce(torch.sub, mine, total), alpha=source.scale / norm)
        return clean

    def _own(self, index: int, stack: Float[Tensor, "k h w"]) -> dict[int, Float[Tensor, "h w"]]:
        """Return what a micrograph itself has put into each part."""
        source = self._sources[index]
        own = {}
        for p, part in enumerate(self._plan.parts):
            if part.subset == index % self._plan.subsets:
                image = self.defects.repair(part.image(stack, source.weights))
                own[p] = source.scale * _filtered(
                    periodic_spectrum(image), self._response, (image.shape[0], image.shape[1])
                )
        return own


def _filtered(
    spectrum: Spectrum, response: Float[Tensor, "h wf"], shape: tuple[int, int]
) -> Float[Tensor, "h w"]:
    return torch.fft.irfft2(spectrum * response, s=shape)


def estimate_pattern(
    sources: Sequence[PatternSource],
    *,
    input_target: bool = False,
    shared_cost: float = SHARED_COST,
) -> Pattern:
    """Find what micrographs of one shape have in common.

    Holds one float32 image for each group twice (for `input_target`, four in all), whatever the
    number of micrographs, and reads each of them once.

    Args:
        sources: At least `MINIMUM_MICROGRAPHS`, in the order of recording.
        input_target: Group 0 has the lower dose and is always the input, group 1 the target; else
            any group may be either.
        shared_cost: How much more an error shared by two groups weighs than one of their own.

    Raises:
        ValueError: There are too few, or their shapes differ.
    """
    if len(sources) < MINIMUM_MICROGRAPHS or len({source.shape for source in sources}) > 1:
        raise ValueError(f"needs {MINIMUM_MICROGRAPHS} micrographs or more, all of one shape")
    typical = math.sqrt(sum(source.scale**2 for source in sources) / len(sources))
    sources = [replace(source, scale=source.scale / typical) for source in sources]
    plan = (
        _Plan.input_target()
        if input_target
        else _Plan.exchangeable(sources[0].shape[0], len(sources))
    )
    totals, norms = _accumulate(sources, plan)
    defects = _find_defects(totals, norms, plan)
    spectra = []
    for norm in norms:  # each is freed as soon as its spectrum is there
        spectra.append(periodic_spectrum(defects.repair(totals.pop(0)) / norm))
    return _build(sources, plan, defects, spectra, norms, shared_cost)


def _build(
    sources: Sequence[PatternSource],
    plan: _Plan,
    defects: DefectMap,
    spectra: Sequence[Spectrum],
    norms: Sequence[float],
    shared_cost: float,
) -> Pattern:
    """Weight the spectra of all parts by what can be believed of them."""
    height, width = sources[0].shape[1:]
    cells = CellMap(height, width, device=spectra[0].device)
    own, images = spectra[: len(plan.parts)], spectra[len(plan.parts) :]
    powers = CellPowers.measure(cells, own[: plan.subsets], norms[: plan.subsets])
    transfer = (
        Transfer.measure(cells, powers, own, images)
        if images
        else Transfer.among(cells, len(plan.uses))
    )
    fewest = _fewest_images(sources, plan, norms)
    weights = powers.weights(fewest, transfer.leverage, shared_cost)
    response = cells.spread(weights * transfer.slope)
    return Pattern(
        powers.components(cells, weights, fewest),
        defects,
        plan,
        tuple(sources),
        [
            norm * _filtered(spectrum, response, (height, width))
            for spectrum, norm in zip(own, norms, strict=False)
        ],
        norms,
        response,
    )


def _accumulate(
    sources: Sequence[PatternSource], plan: _Plan
) -> tuple[list[Float[Tensor, "h w"]], list[float]]:
    """Sum the images of each part, weighted by their scale, and the squares of the scales."""
    parts = (*plan.parts, *plan.images)
    totals: dict[int, Tensor] = {}
    norms = [0.0] * len(parts)
    for index, source in enumerate(sources):
        stack = source.read()
        for p, part in enumerate(parts):
            if part.subset == index % plan.subsets:
                image = source.scale * part.image(stack, source.weights)
                totals[p] = totals[p] + image if p in totals else image
                norms[p] += source.scale**2
    return [totals[p] for p in range(len(parts))], norms


def _fewest_images(sources: Sequence[PatternSource], plan: _Plan, norms: Sequence[float]) -> float:
    """Return how many images the poorest pattern is the mean of: one that misses a strong one."""
    strongest = [
        max(source.scale**2 for source in sources[subset :: plan.subsets])
        for subset in range(plan.subsets)
    ]
    return min(
        sum(norms[p] for p in parts) - max(strongest[plan.parts[p].subset] for p in parts)
        for parts in plan.uses
        if parts
    )


def _find_defects(
    totals: Sequence[Float[Tensor, "h w"]], norms: Sequence[float], plan: _Plan
) -> DefectMap:
    """Mark pixels that stand out, the same way, in both of two disjoint sets of micrographs."""
    sides = []
    for side in (0, 1):
        chosen = [p for p, part in enumerate(plan.parts) if part.subset % 2 == side]
        spectrum = periodic_spectrum(reduce(add, [totals[p] / norms[p] for p in chosen]))
        height, width = totals[0].shape
        fast = frequency_grid(height, width, device=spectrum.device) >= CUTOFF
        sides.append(_in_sigmas(_filtered(spectrum, fast.float(), (height, width))))
    first, second = sides
    hot = (first > _DEFECT_SIGMAS) & (second > _DEFECT_SIGMAS)
    dead = (first < -_DEFECT_SIGMAS) & (second < -_DEFECT_SIGMAS)
    return defect_map(hot | dead, Path("fixed pattern"))


def _in_sigmas(image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    # 1.4826 medians of the absolute deviation are a standard deviation of Gaussian noise.
    sigma = 1.4826 * float(image.abs().median())
    return image / sigma if sigma > 0 else torch.zeros_like(image)
