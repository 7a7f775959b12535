"""A residual U-Net without normalisation layers, so that a tile never depends on its content."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@final
class _ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), the last convolution starting at zero (Zhang et al., Fixup)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        h = self.first(functional.silu(x))
        h = functional.dropout2d(functional.silu(h), self.dropout, self.training)
        return x + self.second(h)


@final
class UNet(nn.Module):
    """Residual U-Net on pixel-unshuffled input: 2 × 2 pixels become four channels, a quarter of the
    pixels to compute on.

    Args:
        widths: Channels of each level, finest first.
        blocks: Residual blocks a level, on the way down and on the way up.
        dropout: Share of the channels of each block that is dropped while training, which keeps a
            network from learning the noise of a small data set by heart.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.total_stride = 2 ** len(widths)
        self.stem = nn.Conv2d(4, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(width, blocks, dropout) for width in widths)
        self.shrink = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(_blocks(width, blocks, dropout) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], 4, 3, padding=1)

    def forward(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.total_stride)
        y = self._deep(functional.pixel_unshuffle(padded, 2))
        return functional.pixel_shuffle(y, 2)[..., :height, :width]

    def _deep(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            x = blocks(x)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        for level in reversed(range(len(self.grow))):
            x = self.up[level](skips[level] + self.grow[level](x))
        return self.head(x)


def _blocks(width: int, count: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(width, dropout) for _ in range(count)))


def pad_to_multiple(x: Float[Tensor, "n c h w"], multiple: int) -> Float[Tensor, "n c hp wp"]:
    """Mirror an image beyond its lower and right edge up to a multiple of `multiple` px."""
    bottom, right = (-x.shape[-2] % multiple, -x.shape[-1] % multiple)
    if bottom == 0 and right == 0:
        return x
    rows = _mirror_index(x.shape[-2], bottom, x.device)
    columns = _mirror_index(x.shape[-1], right, x.device)
    return x[..., rows, :][..., columns]


def _mirror_index(length: int, extra: int, device: torch.device) -> Tensor:
    # functional.pad(mode="reflect") refuses images smaller than the padding.
    period = max(1, 2 * (length - 1))
    index = torch.arange(length + extra, device=device) % period
    return torch.minimum(index, period - index) if length > 1 else index * 0
