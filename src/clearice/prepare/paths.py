"""Smoothing a path of frames as much as the data ask for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Roughness of the path over the precision of one frame, from no smoothing to a straight line.
_STIFFNESS = [10 ** (exponent / 2) for exponent in range(-8, 13)]
_FEWEST_FRAMES = 4


@dataclass(frozen=True)
class Smoother:
    """Penalised second differences of a path, in the basis that makes them independent.

    The prior is an integrated random walk: constant velocity, disturbed at random. A straight path
    is never penalised.

    Attributes:
        basis: Eigenvectors of the penalty, as columns.
        roughness: Their eigenvalues; 0 for the two straight ones.
    """

    basis: Float[Tensor, "t t"]
    roughness: Float[Tensor, "t"]

    @staticmethod
    def of(frames: int) -> Smoother:
        """Return the smoother for so many frames; it leaves paths of too few to judge alone."""
        if frames < _FEWEST_FRAMES:
            return Smoother(torch.eye(frames, dtype=torch.float64), torch.zeros(frames).double())
        second = torch.eye(frames, dtype=torch.float64).diff(n=2, dim=0)
        roughness, basis = torch.linalg.eigh(second.T @ second)
        roughness[:2] = 0.0
        return Smoother(basis, roughness)

    def stiffness(self, path: Float[Tensor, "t 2"], information: Float[Tensor, "2"]) -> float:
        """Return how stiff paths like this one are, by restricted maximum likelihood.

        Args:
            path: Measured positions, px.
            information: Inverse variance of one measurement along each axis, 1/px².
        """
        uneven = self.roughness > 0
        rough = self.roughness[uneven, None]
        power = (self.basis.T @ path)[uneven].square() * information
        expected = {stiffness: 1 + 1 / (stiffness * rough) for stiffness in _STIFFNESS}
        cost = {s: float((e.log() + power / e).sum()) for s, e in expected.items()}
        return min(cost, key=lambda stiffness: cost[stiffness])

    def smooth(self, path: Float[Tensor, "t 2"], stiffness: float) -> Float[Tensor, "t 2"]:
        """Return the most likely path of that stiffness, given measured positions."""
        return self.basis @ (self.kept(stiffness)[:, None] * (self.basis.T @ path))

    def penalty(
        self, path: Float[Tensor, "t 2"], stiffness: float, information: Float[Tensor, "2"]
    ) -> float:
        """Return what the prior takes off the log-likelihood of a path, nats."""
        rough = (self.roughness @ (self.basis.T @ path).square()) @ information
        return float(stiffness * rough / 2)

    def kept(self, stiffness: float) -> Float[Tensor, "t"]:
        """Return the share of each mode that is left, which is also its share of the variance."""
        return 1 / (1 + stiffness * self.roughness)
