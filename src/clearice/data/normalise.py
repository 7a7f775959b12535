"""The one place where intensities are normalised: one affine a micrograph, from its full dose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def dose_weighted_mean(
    groups: Float[Tensor, "k h w"], weights: Sequence[float]
) -> Float[Tensor, "h w"]:
    """Average groups by their share of the dose: of all of them, the full-dose image.

    Args:
        groups: Means of groups of frames.
        weights: Dose of each group, in any unit.
    """
    share = torch.tensor(weights) / sum(weights)
    return (groups * share[:, None, None]).sum(0)


@dataclass(frozen=True)
class Affine:
    """x → (x − mean) / std.

    Attributes:
        mean: Of the full-dose image.
        std: Of the full-dose image, above 0.
    """

    mean: float
    std: float

    @classmethod
    def of(cls, full_dose: Float[Tensor, "h w"]) -> Affine:
        """Take mean and standard deviation of a full-dose image, summed in float64."""
        # MPS has no float64.
        wide = (full_dose.cpu() if full_dose.device.type == "mps" else full_dose).double()
        return cls(float(wide.mean()), float(wide.std(correction=0)))

    def apply(self, image: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
        """Normalise."""
        return (image - self.mean) / self.std

    def invert(self, image: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
        """Return to the original intensity scale."""
        return image * self.std + self.mean


@dataclass(frozen=True)
class DeviceAffine:
    """The same, its numbers left on the device, so that nothing waits for them.

    Attributes:
        mean: Of the full-dose image.
        std: Of the full-dose image, above 0.
    """

    mean: Float[Tensor, ""]
    std: Float[Tensor, ""]

    @classmethod
    def of(cls, full_dose: Float[Tensor, "h w"]) -> DeviceAffine:
        """Take mean and standard deviation of a full-dose image, summed in float64."""
        mean = full_dose.mean(dtype=torch.float64)
        # About the mean, squares of float32 add up without loss; no copy in float64 is made.
        spread = (full_dose - mean).square().mean(dtype=torch.float64)
        return cls(mean, spread.sqrt())

    def apply(self, image: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
        """Normalise."""
        return (image - self.mean) / self.std

    def invert(self, image: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
        """Return to the original intensity scale."""
        return image * self.std + self.mean
