"""Defective pixels: found in the mean of frames, and replaced so that noise stays noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from clearice.errors import InputFileError

_LARGEST_SHARE = 0.1
_LEAST_SIDE = 5
# Pixels that tell a median well enough.
_SAMPLE = 1_000_000
_LARGEST_HOT_SHARE = 1e-3
_RADIUS = 2
_TRIES = 20


@dataclass(frozen=True)
class DefectMap:
    """Which pixels are replaced, and which good neighbour each is replaced by.

    Attributes:
        bad: Flat indices of the defective pixels.
        donor: Flat index of the good pixel that each is copied from.
    """

    bad: Int[Tensor, "n"]
    donor: Int[Tensor, "n"]

    def repair(self, frame: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """Return the frame with every defective pixel replaced."""
        # A mean of neighbours would leave a spot of little noise, the same in all frames, for a
        # network to learn; one neighbour's value has full noise, independent from frame to frame.
        flat = frame.flatten()
        return flat.index_copy(0, self.bad, flat[self.donor]).reshape(frame.shape)

    def to(self, device: torch.device) -> DefectMap:
        """Return the same map on another device."""
        return DefectMap(self.bad.to(device), self.donor.to(device))


def defect_map(bad: Bool[Tensor, "h w"], source: Path, seed: int = 0) -> DefectMap:
    """Choose a random good neighbour for every defective pixel, once for all frames.

    Args:
        bad: True where a pixel is defective.
        source: Where the defects come from, for the message.
        seed: Of the choice.

    Raises:
        InputFileError: More than a tenth of the pixels are defective.
    """
    share = int(bad.sum()) / bad.numel()
    if share > _LARGEST_SHARE:
        raise InputFileError(
            source, f"marks {share:.0%} of the pixels as defective", "check --defects and --gain"
        )
    generator = torch.Generator().manual_seed(seed)
    height, width = bad.shape
    good = ~bad.cpu()
    defective = bad.cpu().nonzero()
    donor = torch.full((len(defective),), -1)
    radius = _RADIUS
    while (left := (donor < 0).nonzero()[:, 0]).numel():
        for _ in range(_TRIES):
            step = torch.randint(-radius, radius + 1, (len(left), 2), generator=generator)
            y, x = (defective[left] + step).unbind(1)
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            fits = inside & good[y.clamp(0, height - 1), x.clamp(0, width - 1)]
            donor[left[fits]] = (y * width + x)[fits]
            left = left[~fits]
        radius = min(2 * radius, max(height, width))
    flat = defective[:, 0] * width + defective[:, 1]
    return DefectMap(flat.to(bad.device), donor.to(bad.device))


def find_hot_pixels(
    mean_frame: Float[Tensor, "h w"], sigmas: float = 6.0
) -> Bool[Tensor, "h w"] | None:
    """Find pixels that stand out from their neighbours in the mean of many frames, hot or cold.

    Each is compared with the local median in units of the counting noise there, √median, so that
    neither ice gradients nor the edges of holes raise an alarm; frames with values below 0 are no
    counts, and their noise is taken to be the same everywhere. RELION and MotionCor compare with
    the mean and standard deviation of the whole frame, 6 of them as well.

    Args:
        mean_frame: Mean of as many frames as there are, best after the gain reference; below some
            20 counts a pixel in all, counting noise itself has outliers.
        sigmas: Threshold.

    Returns:
        True where a pixel is hot or cold; None if more than 0.1 % would be, since those are an
        object of high contrast, or counting noise, and no defects; or if there are no neighbours.
    """
    if min(mean_frame.shape) < _LEAST_SIDE:
        return None
    local = _median_of_five(_median_of_five(mean_frame, 1), 0)
    sample = slice(None, None, max(1, round((local.numel() / _SAMPLE) ** 0.5)))
    typical = float(local[sample, sample].median())
    counts = typical > 0 and float(mean_frame.min()) >= 0
    noise = local.clamp(min=0.01 * typical).sqrt() if counts else torch.ones_like(local)
    deviation = (mean_frame - local).abs() / noise
    # 1.4826 medians of the absolute deviation are a standard deviation of Gaussian noise.
    hot = deviation > sigmas * 1.4826 * float(deviation[sample, sample].median())
    share = int(hot.sum()) / hot.numel()
    return hot if share <= _LARGEST_HOT_SHARE else None


def _median_of_five(image: Float[Tensor, "h w"], axis: int) -> Float[Tensor, "h w"]:
    """Return the median of each pixel and two neighbours on either side along an axis."""
    margins = (2, 2, 0, 0) if axis == 1 else (0, 0, 2, 2)
    padded = pad(image[None], margins, mode="reflect")[0]
    a, b, c, d, e = (padded.narrow(axis, k, image.shape[axis]) for k in range(5))
    # Of two pairs, neither the least nor the largest can be the median: comparisons of whole
    # images take a fraction of the time of a sort at each pixel.
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.maximum(torch.minimum(e, low), torch.minimum(torch.maximum(e, low), high))
