"""How good an image is, knowing the truth; all from sums over Fourier rings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.benchmark.quality.sets import Sample
from clearice.evaluate.accumulate import band_window, filtered_correlation
from clearice.evaluate.baselines import best_gaussian, wiener_response
from clearice.evaluate.crops import tapered_sums
from clearice.fourier import (
    RingSums,
    gaussian_transfer,
    highpass_transfer,
    ring_frequencies,
    ring_sums,
)
from clearice.metrics import snr_db

HIGHPASS_ANGSTROM: Final = 400.0
FINE_ANGSTROM: Final = (8.0, 4.0)

Field = Float[Tensor, "h w"]
Rings = Float[Tensor, "rings"]
Both = tuple[RingSums, RingSums]


@dataclass(frozen=True)
class Score:
    """How much of the truth is in one image.

    Attributes:
        snr_db: −10 log₁₀(1 − r²), r the correlation with the truth above 1/400 Å, tapered.
        fine: Correlation with the truth between 8 and 4 Å (or Nyquist), tapered.
        snr_db_untapered: The same without a taper: jumps of the ice between opposite edges count.
    """

    snr_db: float
    fine: float
    snr_db_untapered: float


@dataclass(frozen=True)
class Rulers:
    """What all images of one shape and pixel size are measured by.

    Attributes:
        n_rings: Up to Nyquist.
        frequency: Of each ring, corners included, cycles/px.
        high: Amplitude factor of the high-pass on each ring.
        fine: 1 on the rings of fine detail.
    """

    n_rings: int
    frequency: Rings
    high: Rings
    fine: Rings

    @classmethod
    def of(cls, sample: Sample) -> Rulers:
        """Return those of a micrograph."""
        n_rings, pixel = min(sample.raw.shape) // 2, sample.pixel_size_angstrom
        frequency = ring_frequencies(n_rings, corners=True)
        fine = band_window(frequency, pixel, *FINE_ANGSTROM) * (frequency <= 0.5)
        high = highpass_transfer(frequency, pixel / HIGHPASS_ANGSTROM)
        return cls(n_rings, frequency, high, fine)

    def sums(self, image: Field, other: Field) -> RingSums:
        """Sum over rings, means removed, behind the report card's taper."""
        return tapered_sums(image, other, self.n_rings)

    def both_sums(self, image: Field, truth: Field) -> Both:
        """Sum over rings with and without the taper."""
        x, y = (one.double() - one.double().mean() for one in (image, truth))
        return self.sums(image, truth), ring_sums(x, y, self.n_rings, corners=True)

    def snr_db(self, sums: RingSums, response: Rings | None = None) -> float:
        """Return the SNR, maybe after a radial filter."""
        response = torch.ones_like(self.frequency) if response is None else response
        return snr_db(filtered_correlation(sums, response, self.high))

    def score(self, sums: Both, response: Rings | None = None) -> Score:
        """Score an image, from its sums with the truth, maybe after a radial filter."""
        flat = torch.ones_like(self.frequency)
        return Score(
            self.snr_db(sums[0], response),
            filtered_correlation(sums[0], flat if response is None else response, self.fine),
            self.snr_db(sums[1], response),
        )

    def judge(self, image: Field, truth: Field) -> Score:
        """Score an image."""
        return self.score(self.both_sums(image, truth))


def radial_baselines(of: Sequence[Sample]) -> tuple[dict[str, list[Score]], float]:
    """Score the raw images, the best Gaussian and the radial Wiener filter.

    One Gaussian serves the whole set, chosen by the truth; the Wiener filter is learnt from the
    halves of the very micrographs. Both are flattered a little.

    Returns:
        Scores of each method, and the Gaussian's standard deviation, px.
    """
    rulers = Rulers.of(of[0])
    with_truth = [rulers.both_sums(sample.raw, sample.truth) for sample in of]

    def quality(response: Rings) -> float:
        return statistics.fmean(rulers.snr_db(tapered, response) for tapered, _ in with_truth)

    sigma = best_gaussian(rulers.frequency, quality)
    filters = {
        "raw": None,
        "gaussian": gaussian_transfer(rulers.frequency, sigma),
        "wiener": wiener_response([_shared_and_all(rulers, sample) for sample in of], oracle=False),
    }
    scores = {
        name: [rulers.score(sums, response) for sums in with_truth]
        for name, response in filters.items()
    }
    return scores, sigma


def _shared_and_all(rulers: Rulers, sample: Sample) -> RingSums:
    """Return what the halves share, which is the signal's power, beside all power."""
    halves = rulers.sums(2 * sample.even, 2 * sample.odd)
    whole = rulers.sums(sample.raw, sample.raw)
    return RingSums(halves.cross, whole.power_x, whole.power_y, whole.count)


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Return means over micrographs with their standard errors, and the values of each."""
    values = {
        "snr_db": [score.snr_db for score in scores],
        "frc_8_4": [score.fine for score in scores],
        "snr_db_untapered": [score.snr_db_untapered for score in scores],
    }
    told: dict[str, Any] = {}
    for name, each in values.items():
        spread = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None
        told |= {name: statistics.fmean(each), f"{name}_error": spread, f"{name}_each": each}
    return told
