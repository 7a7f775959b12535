"""Plain stacks of 3×3 convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import final

from jaxtyping import Float
from torch import Tensor, nn


def _stack(widths: list[int]) -> nn.Sequential:
    """Return convolutions through the given channel counts, ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


@final
class CNN3(nn.Module):
    """Three layers, 1 → 16 → 16 → 1: the smallest network that learns more than a linear filter."""

    total_stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.layers = _stack([1, 16, 16, 1])

    def forward(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        return self.layers(x)


@final
class ResCNN12(nn.Module):
    """Twelve layers of 32 channels that predict the noise, to be subtracted (Zhang et al. 2017)."""

    total_stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.layers = _stack([1] + [32] * 11 + [1])

    def forward(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        return x - self.layers(x)
