"""How well ranked picks find known particles: matching, precision and recall.

Pure functions of tensors; `picking` decides which files they see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Matches:
    """Picks of one image beside its known particles.

    Attributes:
        score: Of each pick that counts.
        hit: Whether it found a particle that no better pick had found.
        distance_px: Of each hit from its particle.
        particles: Known particles that count.
    """

    score: Float[Tensor, "n"]
    hit: Bool[Tensor, "n"]
    distance_px: Float[Tensor, "hits"]
    particles: int


def match(
    picks_px: Float[Tensor, "n 2"],
    score: Float[Tensor, "n"],
    particles_px: Float[Tensor, "m 2"],
    tolerance_px: float,
    counted: Bool[Tensor, "m"] | None = None,
) -> Matches:
    """Give each pick, the best first, the nearest particle in reach that is still free.

    Particles that do not count (cut by an edge) make no hit and no miss: a pick that finds only
    such a one is left out.

    Args:
        picks_px: Positions of the picks, px.
        score: Higher is better.
        particles_px: Positions of the known particles, px.
        tolerance_px: Largest distance of a hit, px.
        counted: Which particles count; None: all.
    """
    order = score.argsort(descending=True, stable=True)
    known = torch.ones(len(particles_px), dtype=torch.bool) if counted is None else counted
    free, kept, hit, distances = known.clone(), [], [], []
    for index in order.tolist():
        distance = (particles_px - picks_px[index]).square().sum(dim=1).sqrt()
        reach = distance <= tolerance_px
        if (reach & free).any():
            nearest = int(torch.where(free, distance, torch.inf).argmin())
            free[nearest] = False
            distances.append(distance[nearest])
            kept.append(index)
            hit.append(True)
        elif not (reach & ~known).any():
            kept.append(index)
            hit.append(False)
    return Matches(
        score[torch.tensor(kept, dtype=torch.long)],
        torch.tensor(hit, dtype=torch.bool),
        torch.stack(distances) if distances else torch.empty(0),
        int(known.sum()),
    )


@dataclass(frozen=True)
class Ranking:
    """The picks of all images in one list, the best first.

    Attributes:
        score: Of each pick.
        hit: Whether it found a particle.
        image: Of each pick.
        last_of_score: The next pick, if any, has a lower score.
        particles: Known particles of each image.
    """

    score: Float[Tensor, "n"]
    hit: Bool[Tensor, "n"]
    image: Int[Tensor, "n"]
    last_of_score: Bool[Tensor, "n"]
    particles: Float[Tensor, "images"]


def rank(matches: list[Matches]) -> Ranking:
    """Merge the picks of all images by their scores."""
    score = torch.cat([m.score for m in matches])
    order = score.argsort(descending=True, stable=True)
    score = score[order]
    image = torch.cat([torch.full((len(m.score),), i) for i, m in enumerate(matches)])
    last = torch.ones(len(score), dtype=torch.bool)
    last[:-1] = score[1:] < score[:-1]
    return Ranking(
        score,
        torch.cat([m.hit for m in matches])[order],
        image[order].long(),
        last,
        torch.tensor([float(m.particles) for m in matches], dtype=torch.float64),
    )


@dataclass(frozen=True)
class Curve:
    """Precision and recall where the list is cut after each distinct score."""

    precision: Float[Tensor, "*draws n"]
    recall: Float[Tensor, "*draws n"]

    def average_precision(self) -> Float[Tensor, "*draws"]:
        """Return Σ (R_n − R_{n−1}) P_n: the area under the curve, without interpolation."""
        before = torch.nn.functional.pad(self.recall, (1, 0))[..., :-1]
        return ((self.recall - before) * self.precision).sum(dim=-1)

    def recall_at(self, precision: float) -> float:
        """Return the largest recall at a precision of at least this, 0 where there is none."""
        enough = self.precision >= precision
        return float(self.recall[enough].max()) if enough.any() else 0.0

    def best_f1(self) -> float:
        """Return the largest 2 P R/(P + R), 0 without a hit."""
        both = (self.precision + self.recall).clamp(min=torch.finfo(torch.float64).tiny)
        f1 = 2 * self.precision * self.recall / both
        return float(f1.max()) if f1.numel() else 0.0


def curve(ranking: Ranking, weight: Float[Tensor, "*draws images"] | None = None) -> Curve:
    """Cut the list after each distinct score; equal scores count together.

    Args:
        ranking: The picks.
        weight: How often each image counts (bootstrap); None: once.
    """
    if weight is None:
        weight = torch.ones_like(ranking.particles)
    of_pick = weight.double()[..., ranking.image]
    found = (of_pick * ranking.hit).cumsum(dim=-1)[..., ranking.last_of_score]
    picked = of_pick.cumsum(dim=-1)[..., ranking.last_of_score]
    known = (weight.double() * ranking.particles).sum(dim=-1, keepdim=True)
    return Curve(found / picked.clamp(min=1), found / known.clamp(min=1))


def draw_images(count: int, draws: int, generator: torch.Generator) -> Float[Tensor, "draws count"]:
    """Draw images with replacement and return how often each one was drawn."""
    drawn = torch.randint(count, (draws, count), generator=generator)
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(draws, count, dtype=torch.float64)
    )
