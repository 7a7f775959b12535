"""Intervals over micrographs, by resampling their sums: no image is transformed again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.seeds import derive_seed

_DRAWS = 2000
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


class _Sums(Protocol):
    """Sums of each micrograph."""

    def weighted(self, weights: Float[Tensor, "draws micrographs"]) -> Self:
        """Return weighted sums over the micrographs, one for each draw."""
        ...


S = TypeVar("S", bound=_Sums)


@dataclass(frozen=True)
class Resampled(Generic[S]):
    """Sums over all micrographs, and over sets of them that could have been recorded as well.

    Attributes:
        n_micrographs: Without a second one there are no intervals.
        all: Every micrograph once, as one draw.
        plain: Draws of the spread of a sum.
        wide: The same, wider by how little a few micrographs tell of their own spread.
    """

    n_micrographs: int
    all: S
    plain: S
    wide: S

    @classmethod
    def of(cls, sums: S, n_micrographs: int, seed: int) -> Resampled[S]:
        """Draw sets of micrographs.

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
        once = torch.ones(1, n_micrographs, dtype=torch.float64)
        weights = once, 1 + spread, 1 + factor * spread
        return cls(n_micrographs, *(sums.weighted(w) for w in weights))

    def estimate(
        self, function: Callable[[S], Float[Tensor, "draws n"]], bound: float = math.inf
    ) -> list[Estimate]:
        """Return each of the values that follow from the sums, with its interval.

        Args:
            function: Of sums; NaN where undefined, which leaves the interval open.
            bound: Largest absolute value that is possible.
        """
        value = function(self.all)[0].tolist()
        if self.n_micrographs < 2:
            return [Estimate(v, math.nan, math.nan, math.nan) for v in value]
        low, high = (
            limit.clamp(-bound, bound).tolist() for limit in _limits(function(self.wide), _LEVEL)
        )
        near_low, near_high = _limits(function(self.plain), _ONE_SIGMA)
        error = ((near_high - near_low) / 2).tolist()
        return [Estimate(*row) for row in zip(value, low, high, error, strict=True)]


def _limits(draws: Float[Tensor, "draws n"], level: float) -> tuple[Tensor, Tensor]:
    """Return the middle `level` of the draws; undefined ones count to both sides."""
    last = len(draws) - 1
    low = draws.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).sort(0).values
    high = draws.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).sort(0).values
    return (
        low[math.floor((1 - level) / 2 * last)],
        high[math.ceil((1 + level) / 2 * last)],
    )
