"""Coarse to fine: first whole particles on few pixels, then every pixel.

A stage of scale s trains on patches whose edge is s times as long, cropped in Fourier space to as
many pixels as in any other stage: a field s² as large for the same time, with s² the
signal-to-noise ratio in each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.config import TrainConfig
from clearice.losses import Objective
from clearice.types import PatchBatch


@dataclass(frozen=True)
class Span:
    """Steps that are taken at one scale.

    Attributes:
        first: First step.
        last: The one after the last.
        scale: Pixels of the micrograph along the edge of one that the network sees.
    """

    first: int
    last: int
    scale: int


class Batches(Protocol):
    """Where batches come from."""

    def batches(self, first: int, last: int, /) -> Iterator[PatchBatch]:
        """Yield those of the steps from `first` to before `last`."""
        ...


@dataclass(frozen=True)
class Stage:
    """What one span trains on.

    Attributes:
        span: Its steps.
        loader: Pairs of full resolution.
        objective: The loss, for pixels of this scale.
    """

    span: Span
    loader: Batches
    objective: Objective

    def batches(self, first: int) -> Iterator[PatchBatch]:
        """Yield the batches from a step on, at the scale of the stage."""
        start = max(first, self.span.first)
        for batch in self.loader.batches(start, max(start, self.span.last)):
            yield coarsened(batch, self.span.scale)


def spans(config: TrainConfig, total: int) -> list[Span]:
    """Return which steps are taken at which scale; spans without a step are left out.

    Args:
        config: The stages.
        total: Steps of the whole run.
    """
    if not config.stages:
        return [Span(0, total, 1)]
    shares = [stage.share or 0.0 for stage in config.stages[:-1]]
    ends = [*(round(total * done) for done in accumulate(shares)), total]
    starts = [0, *ends[:-1]]
    scales = [stage.scale for stage in config.stages]
    return [Span(*span) for span in zip(starts, ends, scales, strict=True) if span[0] < span[1]]


def coarsened(batch: PatchBatch, scale: int) -> PatchBatch:
    """Crop the images of a batch in Fourier space."""
    if scale == 1:
        return batch
    halves = batch.target_halves
    return replace(
        batch,
        input=fourier_crop(batch.input, scale),
        target=fourier_crop(batch.target, scale),
        target_halves=None if halves is None else fourier_crop(halves, scale),
    )


def fourier_crop(
    image: Float[Tensor, "*batch h w"], scale: int
) -> Float[Tensor, "*batch coarse_h coarse_w"]:
    """Keep the low frequencies of periodic images, on so many times fewer pixels along each edge.

    The mean stays, and white noise stays white, with 1/scale of its standard deviation.

    Args:
        image: Edges are multiples of `scale`.
        scale: A whole number from 1.
    """
    height, width = image.shape[-2] // scale, image.shape[-1] // scale
    spectrum = torch.fft.rfft2(image)[..., : width // 2 + 1]
    low, high = (height + 1) // 2, height // 2
    spectrum = torch.cat([spectrum[..., :low, :], spectrum[..., -high:, :]], -2)
    # Of what lands on the Nyquist frequency, a real image can hold half: scaled to its full power.
    if width % 2 == 0:
        spectrum[..., :, -1] *= math.sqrt(2)
    if height % 2 == 0:
        spectrum[..., high, 0] *= math.sqrt(2)
    return torch.fft.irfft2(spectrum / scale**2, s=(height, width))


def walk(stages: Sequence[Stage], first: int) -> Iterator[tuple[Stage, Iterator[PatchBatch]]]:
    """Yield the stages that a run goes through from a step on, each with its batches."""
    for stage in stages:
        if stage.span.last > first:
            yield stage, stage.batches(first)
