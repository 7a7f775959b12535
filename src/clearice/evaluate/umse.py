"""The error of a denoiser without truth, from frame groups that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.errors import ConfigError
from clearice.metrics import highpassed

Image = Float[Tensor, "h w"]
_FEWEST_GROUPS = 4


@dataclass(frozen=True)
class FourWay:
    """The unsupervised error of one micrograph; adding pools micrographs.

    Attributes:
        squared_error: Σ over pixels of the estimate of |D − S|²; below 0 only by chance.
        signal: Σ over pixels of the estimate of |S|², after the high-pass.
        count: Pixels.
        input_dose: Of the input, over that of the whole micrograph.
    """

    squared_error: float
    signal: float
    count: int
    input_dose: float

    def __add__(self, other: FourWay) -> FourWay:
        return FourWay(
            self.squared_error + other.squared_error,
            self.signal + other.signal,
            self.count + other.count,
            self.input_dose,
        )

    @property
    def umse(self) -> float:
        """Mean squared error, in squared intensities."""
        return self.squared_error / self.count

    @property
    def relative(self) -> float:
        """Mean squared error over the variance of the signal; NaN if there is none."""
        return self.squared_error / self.signal if self.signal > 0 else math.nan

    def upsnr_db(self, span: float) -> float:
        """Return 10 log₁₀(span² / uMSE), dB; infinite where the error is below 0.

        Args:
            span: Of the signal, in intensities: with 6 standard deviations of the signal the
                number does not depend on a single pixel.
        """
        return 10 * math.log10(span**2 / self.umse) if self.umse > 0 else math.inf

    @property
    def span(self) -> float:
        """Six standard deviations of the signal, in intensities."""
        return 6 * math.sqrt(max(self.signal, 0.0) / self.count)


def four_way(
    denoise: Callable[[Image, float], Image],
    groups: Float[Tensor, "k h w"],
    weights: Sequence[float],
    pixel_size_angstrom: float,
    inputs: int | None = None,
) -> FourWay:
    """Estimate the error of a denoiser on one micrograph, from three sets of frame groups.

    The network sees y; b and c are means of groups that it does not see, each of the dose w_b and
    w_c, and a = (w_b b + w_c c)/(w_b + w_c). With independent noise E(b − c)² is σ_b² + σ_c², and
    σ_a² = σ_b² σ_c² / (σ_b² + σ_c²) with σ² inverse to the dose. So

      uMSE = mean((D − a)² − κ (b − c)²),  κ = w_b w_c / (w_b + w_c)²

    has the mean of (D − S)², whatever D is. Unlike two halves, it can judge an input of more than
    half of the dose: up to (K − 2)/K of it. All after the high-pass at 1/400 Å.

    Args:
        denoise: Takes an image and its share of the dose.
        groups: Means of disjoint frame groups, K ≥ 4, on one scale.
        weights: Dose of each group.
        pixel_size_angstrom: Å/px.
        inputs: Groups that the network sees; K/2 by default, at most K − 2.

    Raises:
        ConfigError: Fewer than four groups, or `inputs` out of range.

    Source: Marcos-Morales et al. 2023, uMSE (there a, b and c are single noisy copies; here a is
        the mean of b and c, uncorrelated with b − c for noise that is inverse to the dose).
    """
    n_groups = len(groups)
    if n_groups < _FEWEST_GROUPS:
        raise ConfigError(
            f"four-way splits need at least {_FEWEST_GROUPS} frame groups, and the data set has "
            f"{n_groups}; prepare it with --groups 8"
        )
    inputs = n_groups // 2 if inputs is None else inputs
    if not 1 <= inputs <= n_groups - 2:
        raise ConfigError(f"of {n_groups} groups, 1 to {n_groups - 2} can be the input")
    # Interleaved, so that early and late frames are in each set.
    order = sorted(range(n_groups), key=lambda i: (i * inputs) % n_groups >= inputs)
    seen, unseen = order[:inputs], order[inputs:]
    first, second = unseen[0::2], unseen[1::2]

    def mean(chosen: list[int]) -> Image:
        dose = torch.tensor([weights[i] for i in chosen], dtype=torch.float64)
        return torch.tensordot(dose / dose.sum(), groups[chosen].double(), 1)

    share = sum(weights[i] for i in seen) / sum(weights)
    output = denoise(mean(seen).to(groups.dtype), share)
    d, b, c = (highpassed(x, pixel_size_angstrom) for x in (output, mean(first), mean(second)))
    dose_b, dose_c = (sum(weights[i] for i in chosen) for chosen in (first, second))
    kappa = dose_b * dose_c / (dose_b + dose_c) ** 2
    a = (dose_b * b + dose_c * c) / (dose_b + dose_c)
    squared = (d - a).square() - kappa * (b - c).square()
    return FourWay(float(squared.sum()), float((b * c).sum()), d.numel(), share)
