"""Intervals over micrographs, by resampling their sums: no image is transformed again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.seeds import derive_seed

_DRAWS = 4000
_LEVEL = 0.95
_ONE_SIGMA = 0.6827


@dataclass(frozen=True)
class Estimate:
    """A number and what is known of its error.

    Attributes:
        value: NaN where undefined.
        low: Lower end of the 95 % interval; −∞ if nothing bounds it, NaN with one micrograph.
        high: Upper end.
        error: Standard error.
    """

    value: float
    low: float
    high: float
    error: float

    def as_json(self) -> dict[str, float | list[float | None] | None]:
        """Return plain values; None where JSON has no number."""
        interval = None if math.isnan(self.low) else [_finite(self.low), _finite(self.high)]
        return {
            "value": _finite(self.value),
            "interval": interval,
            "standard_error": _finite(self.error),
        }

    def map(self, change: Callable[[float], float]) -> Estimate:
        """Return the estimate of an increasing function of the number, without standard error."""
        return Estimate(change(self.value), change(self.low), change(self.high), math.nan)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Resampling:
    """How much each micrograph counts in each draw; the mean weight is 1.

    Attributes:
        plain: Draws of the spread of a sum.
        wide: The same, wider by how little a few micrographs tell of their own spread.
    """

    plain: Float[Tensor, "draws micrographs"]
    wide: Float[Tensor, "draws micrographs"]

    @classmethod
    def of(cls, n_micrographs: int, seed: int) -> Resampling:
        """Draw the weights.

        A micrograph gets the weight 1 + √(n/(n−1)) (ξ − ξ̄), ξ normal, instead of the number of
        times it was drawn. Sums then have the spread of the classical bootstrap (with the n − 1
        that it lacks), but smoothly: eight micrographs drawn with replacement are few different
        sets. One factor √((n−1)/χ²) for all weights of a draw gives sums Student's distribution.

        Source: multiplier bootstrap, van der Vaart & Wellner 1996, chapter 2.9.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "card"))
        shape = (_DRAWS, n_micrographs)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        freedom = max(n_micrographs - 1, 1)
        spread = (normal - normal.mean(1, keepdim=True)) * math.sqrt(n_micrographs / freedom)
        chi = torch.randn(_DRAWS, freedom, generator=generator, dtype=torch.float64)
        factor = (freedom / chi.square().sum(1)).sqrt()[:, None]
        return cls(1 + spread, 1 + factor * spread)

    def estimate(
        self,
        value: Float[Tensor, "n"],
        draw: Callable[[Float[Tensor, "draws micrographs"]], Float[Tensor, "draws n"]],
    ) -> list[Estimate]:
        """Return each value with its interval.

        Args:
            value: From the unweighted sums.
            draw: From weighted sums; ±∞ or NaN where undefined, which widens the interval.
        """
        if self.plain.shape[1] < 2:
            return [Estimate(v, math.nan, math.nan, math.nan) for v in value.tolist()]
        low, high = _limits(draw(self.wide), _LEVEL)
        near_low, near_high = _limits(draw(self.plain), _ONE_SIGMA)
        error = (near_high - near_low) / 2
        rows = zip(value.tolist(), low.tolist(), high.tolist(), error.tolist(), strict=True)
        return [Estimate(v, lo, hi, e) for v, lo, hi, e in rows]


def _limits(draws: Float[Tensor, "draws n"], level: float) -> tuple[Tensor, Tensor]:
    """Return the middle `level` of the draws; undefined ones count to both sides."""
    last = len(draws) - 1
    low = draws.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).sort(0).values
    high = draws.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).sort(0).values
    return (
        low[math.floor((1 - level) / 2 * last)],
        high[math.ceil((1 + level) / 2 * last)],
    )
