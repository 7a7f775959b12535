"""NAFNet without its global pooling, which would make tiles depend on each other."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clearice.config import Config
from clearice.networks.blocks import (
    SHUFFLE,
    Gate,
    PixelNorm,
    Stem,
    Widths,
    pad_to_multiple,
)


class NAFNetOptions(Config):
    """Options of `NAFNet`."""

    widths: Widths = Field((32, 64, 128, 256), description="channels of each level, finest first")
    blocks: int = Field(2, ge=1, le=32, description="blocks a level, down and up")
    stem: Stem = Field("unshuffle", description="2 × 2 pixels become four channels, or all stay")
    residual: bool = Field(False, description="add the input to the output")


@final
class _Block(nn.Module):
    """A gated depthwise convolution, then a gated layer on each pixel by itself."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.spatial = nn.Sequential(
            PixelNorm(width),
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width),
            Gate(),
            nn.Conv2d(width, width, 1),
        )
        self.pixelwise = nn.Sequential(
            PixelNorm(width), nn.Conv2d(width, 2 * width, 1), Gate(), nn.Conv2d(width, width, 1)
        )
        self.spatial_scale = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.pixelwise_scale = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        x = x + self._drop(self.spatial(x)) * self.spatial_scale
        return x + self._drop(self.pixelwise(x)) * self.pixelwise_scale

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout2d(x, self.dropout, self.training)


@final
class NAFNet(nn.Module):
    """U-Net of gated blocks without activation functions.

    Against the original: no channel attention (it pools the whole image), a stem on unshuffled
    pixels, and no input added to the output by default, as that is mostly noise here. Each branch
    starts scaled by zero, as there.

    Source: Chen, Chu, Zhang & Sun 2022, figure 3.

    Args:
        options: Widths and the like.
        dropout: Share of the channels of each branch that is dropped while training.
    """

    def __init__(self, options: NAFNetOptions, dropout: float = 0.0) -> None:
        super().__init__()
        widths, count = options.widths, options.blocks
        self.residual = options.residual
        self.shuffle = SHUFFLE[options.stem]
        self.total_stride = self.shuffle * 2 ** (len(widths) - 1)
        self.stem = nn.Conv2d(self.shuffle**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(w, count, dropout) for w in widths)
        self.shrink = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.grow = nn.ModuleList(
            nn.Conv2d(coarse, 4 * fine, 1, bias=False) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(_blocks(w, count, dropout) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], self.shuffle**2, 3, padding=1)

    def forward(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        """Denoise normalised images."""
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.total_stride)
        y = self._deep(functional.pixel_unshuffle(padded, self.shuffle))
        y = functional.pixel_shuffle(y, self.shuffle)[..., :height, :width]
        return x + y if self.residual else y

    def _deep(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips: list[Tensor] = []
        for blocks, shrink in zip(self.down, self.shrink, strict=False):
            skips.append(blocks(x))
            x = shrink(skips[-1])
        x = self.down[-1](x)
        for level in reversed(range(len(self.grow))):
            grown = functional.pixel_shuffle(self.grow[level](x), 2)
            x = self.up[level](skips[level] + grown)
        return self.head(x)


def _blocks(width: int, count: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*(_Block(width, dropout) for _ in range(count)))
