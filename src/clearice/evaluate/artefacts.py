"""What a network draws by itself: seams between tiles, and the lattice of its up-sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

# Lines this far from a seam, px, stand for what would be at it: they lie alike in the lattice of
# networks of a stride up to 32, which draw their own steps.
_BESIDE_SEAM = (-32, 32)
_FEWEST_PX = 3
# Lattices of 2 and 4 px: one of each pair of mirrored frequencies, cycles/px.
LATTICE = (
    (0.0, 0.25),
    (0.0, 0.5),
    (0.25, 0.0),
    (0.5, 0.0),
    (0.25, 0.25),
    (-0.25, 0.25),
    (0.5, 0.25),
    (0.25, 0.5),
    (0.5, 0.5),
)
# What repeats with the lattice is modulated by the image, so a peak is as wide as the image's
# strongest frequencies, cycles/px.
_PEAK = 1 / 40
_AROUND = (1 / 30, 1 / 20)
_EULER = 0.5772156649015329


@dataclass(frozen=True)
class Artefacts:
    """Power of one micrograph's denoised halves, or, stacked, of many, in squared intensities.

    Attributes:
        seam: Mean squared step across the boundaries of tiles; NaN without them.
        near_seam: The same beside them.
        peak: Mean power at each point of the lattice.
        around: Mean power around it.
        variance: Of the picture, after the high-pass.
    """

    seam: Float[Tensor, "*micrographs"]
    near_seam: Float[Tensor, "*micrographs"]
    peak: Float[Tensor, "*micrographs points"]
    around: Float[Tensor, "*micrographs points"]
    variance: Float[Tensor, "*micrographs"]

    def weighted(self, weights: Float[Tensor, "draws micrographs"]) -> Artefacts:
        """Return weighted sums over the micrographs, one for each draw."""
        return Artefacts(**{f.name: weights @ getattr(self, f.name) for f in fields(self)})


def seam_amplitude(artefacts: Artefacts) -> Float[Tensor, "*draws"]:
    """Return the root mean square of the step at seams, over the standard deviation."""
    step = artefacts.seam - artefacts.near_seam
    return (step.clamp(min=0) / artefacts.variance).sqrt()


def checkerboard_amplitude(artefacts: Artefacts) -> Float[Tensor, "*draws"]:
    """Return the standard deviation of what repeats every 2 or 4 px, over that of the picture."""
    excess = (artefacts.peak - artefacts.around).sum(-1)
    return (excess.clamp(min=0) / artefacts.variance).sqrt()


def find_artefacts(
    denoised: Sequence[Float[Tensor, "h w"]],
    power: Sequence[Float[Tensor, "h wf"]],
    variance: Float[Tensor, ""],
    window_power: float,
    tile: int | None,
) -> Artefacts:
    """Measure the denoised halves of one micrograph.

    Args:
        denoised: The images.
        power: Their power spectra, of `rfft2`.
        variance: Sum of their mean power spectrum, after the high-pass.
        window_power: Σ w² of the window that was put on them.
        tile: Edge of the tiles, px.
    """
    seams = [_seams(image.double(), tile) for image in denoised]
    height, width = denoised[0].shape
    peak, around = _peaks(power, width)
    scale = 1 / (height * width * window_power)
    return Artefacts(
        seam=torch.tensor([on for on, _ in seams], dtype=torch.float64).mean(),
        near_seam=torch.tensor([off for _, off in seams], dtype=torch.float64).mean(),
        peak=peak * scale,
        around=around * scale,
        variance=variance * scale,
    )


def _seams(image: Float[Tensor, "h w"], tile: int | None) -> tuple[float, float]:
    """Return the mean squared step across tile boundaries, and across lines beside them.

    A step is (−d₊ + 3d₀ − 3d₋ + d₋₋)/2 of the four pixels across a line: its height if the picture
    is flat on both sides, and near 0 for all that is smooth.
    """
    if not tile:
        return math.nan, math.nan
    on: list[float] = []
    off: list[float] = []
    for turned in (image, image.T):
        length = turned.shape[1]

        def step(line: int, along: Tensor = turned) -> float:
            height = 3 * (along[:, line] - along[:, line - 1]) - along[:, line + 1]
            return float((height + along[:, line - 2]).square().mean()) / 4

        for boundary in range(tile, length - _FEWEST_PX, tile):
            beside = [boundary + offset for offset in _BESIDE_SEAM]
            inside = [k for k in beside if _FEWEST_PX <= k < length - _FEWEST_PX and k % tile]
            if inside:
                on.append(step(boundary))
                off.append(sum(map(step, inside)) / len(inside))
    if not on:
        return math.nan, math.nan
    return sum(on) / len(on), sum(off) / len(off)


def _peaks(power: Sequence[Float[Tensor, "h wf"]], width: int) -> tuple[Tensor, Tensor]:
    """Return the power that each point of the lattice has, and that it would have without a peak.

    The latter follows from the power around it, by the mean of logarithms: exp(⟨ln P⟩ + γ) for the
    power P of noise. The spectrum of a denoised image falls steeply, about exponentially, and its
    arithmetic mean around a point is above the value at it.
    """
    height = power[0].shape[0]
    fy = torch.fft.fftfreq(height, dtype=torch.float64)
    fx = torch.fft.rfftfreq(width, dtype=torch.float64)
    tiny = torch.finfo(torch.float64).tiny
    inside, beside = [], []
    for y, x in LATTICE:
        dy, dx = ((fy - y + 0.5) % 1 - 0.5).abs(), (fx - x).abs()
        rows, columns = ((d <= _AROUND[1]).nonzero()[:, 0] for d in (dy, dx))
        near = [p[rows][:, columns] for p in power]
        distance = torch.hypot(dy[rows, None], dx[columns])
        peak = distance <= _PEAK
        around = (distance > _AROUND[0]) & (distance <= _AROUND[1])
        mirrored = 1 if {abs(y), x} <= {0.0, 0.5} else 2
        pixels = mirrored * math.pi * _PEAK**2 * height * width
        inside.append(pixels * torch.stack([p[peak].mean() for p in near]).mean())
        logs = [(p[around].clamp(min=tiny).log().mean() + _EULER).exp() for p in near]
        beside.append(pixels * torch.stack(logs).mean())
    return torch.stack(inside), torch.stack(beside)
