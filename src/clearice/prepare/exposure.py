"""Weights for frames by exposure, off unless asked for.

Radiation damage makes the amplitude at frequency k fade as q = exp(−N / (2 Ne(k))) with the
exposure N, so the best sum of frames weighs each with its q. Divided by the root of the mean of q²,
its noise stays white. The weights are relative to the first frame: an exposure before it multiplies
all of them alike and cancels in that division.

What it means for groups of frames that a network learns to predict from each other, K of them
interleaved, d the exposure of a frame and r = exp(−d / (2 Ne)):

- Damage alone makes groups differ: the signal of group g is r^g of that of group 0. At 1.3 e/Å² a
  frame r is 0.98 at 20 Å, 0.96 at 10 Å, 0.92 at 6 Å and 0.86 at 3 Å, so that the last of eight
  groups has 0.89, 0.72, 0.55 and 0.35 of the first one's. A random choice of groups as input and
  target averages over that, even/odd (K = 2) keeps one factor r.
- Weights with the noise of each *group* kept white leave those ratios as they are, since all groups
  weigh their own frames alike, and raise the signal of each: at 53 e/Å² its power over the noise
  grows 1.04-fold at 20 Å, 1.3-fold at 10 Å, 3-fold at 3 Å.
- Weights with the noise of the whole movie's sum kept white, as a micrograph is weighted, would
  square the ratios and give each group noise of its own colour: a target is then no fair sample of
  what another group shows.

It is off by default, since a network learns to predict images as they are weighted: one trained on
weighted groups expects weighted micrographs, while sums of other programs and half-sets may be
either; the exposure must be known, and Ne was measured on one specimen. The gain lies at
frequencies that a micrograph shows least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.fourier import frequency_grid
from clearice.simulate.imaging import critical_exposure


@dataclass(frozen=True)
class ExposureWeights(Sequence[Tensor]):
    """The Fourier weight of each frame, made when it is asked for: all of them would fill memory.

    Attributes:
        frames: T.
        decay: Exponent by which amplitudes fade in one frame, d / (2 Ne), on the `rfft2` grid.
    """

    frames: int
    decay: Float[Tensor, "h wf"]

    def __len__(self) -> int:
        return self.frames

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[frame] for frame in range(self.frames)[index]]
        return torch.exp(-range(self.frames)[index] * self.decay)


def exposure_weights(
    n_frames: int,
    dose_per_frame_e_per_A2: float,
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    voltage_kv: float,
    *,
    device: torch.device | None = None,
) -> ExposureWeights:
    """Return q = exp(−N / (2 Ne(k))) of each frame, with N the exposure since the first one.

    All are 1 at zero frequency. For white noise divide the weighted mean of a group by the root of
    the mean of its frames' q².

    Args:
        n_frames: T.
        dose_per_frame_e_per_A2: e/Å².
        shape: Rows and columns of a frame, px.
        pixel_size_angstrom: Å/px.
        voltage_kv: Acceleration voltage, kV.
        device: Where the frames are.

    Source: Grant & Grigorieff, eLife 4, e06980 (2015), eqs. 3, 5 and 9.
    """
    frequency = frequency_grid(*shape, device=device) / pixel_size_angstrom
    lifetime = critical_exposure(frequency, voltage_kv)
    return ExposureWeights(n_frames, dose_per_frame_e_per_A2 / (2 * lifetime))
