"""U-Nets with max-pooling: the classic one, and the shape of Topaz-Denoise's."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from clearice.config import Config
from clearice.networks.blocks import (
    Norm,
    Width,
    as_number,
    convolution,
    kaiming,
    pad_to_multiple,
)


class ClassicUNetOptions(Config):
    """Options of `ClassicUNet`."""

    depth: int = Field(4, ge=1, le=7, description="poolings")
    width: Width = Field(32, description="channels of the finest level, doubled at each pooling")
    norm: Norm = Field("none", description="after each 3×3 convolution")
    skip: Literal["concat", "sum"] = Field("concat", description="how the way down joins that up")


def _pair(n_in: int, n_out: int, norm: Norm) -> nn.Sequential:
    """Return two convolutions, each with its normalisation and ReLU."""
    return nn.Sequential(
        convolution(n_in, n_out, norm),
        nn.ReLU(inplace=True),
        convolution(n_out, n_out, norm),
        nn.ReLU(inplace=True),
    )


@final
class ClassicUNet(nn.Module):
    """Two convolutions a level, max-pooling down, transposed convolutions up.

    Source: Ronneberger, Fischer & Brox 2015, here with padded convolutions.

    Args:
        options: Depth, width and the like.
    """

    def __init__(self, options: ClassicUNetOptions) -> None:
        super().__init__()
        self.total_stride = 2**options.depth
        self.concat = options.skip == "concat"
        widths = [options.width * 2**level for level in range(options.depth + 1)]
        self.down = nn.ModuleList(
            _pair(n_in, n_out, options.norm) for n_in, n_out in pairwise([1, *widths])
        )
        self.pool = nn.MaxPool2d(2)
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        joined = 2 if self.concat else 1
        self.up = nn.ModuleList(_pair(joined * w, w, options.norm) for w in widths[:-1])
        self.head = nn.Conv2d(options.width, 1, 1)
        kaiming(self)

    def forward(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        """Denoise normalised images."""
        height, width = x.shape[-2:]
        x = self.down[0](pad_to_multiple(x, self.total_stride))
        skips: list[Tensor] = []
        for blocks in list(self.down)[1:]:
            skips.append(x)
            x = blocks(self.pool(x))
        for level in reversed(range(len(self.grow))):
            grown = self.grow[level](x)
            skip = skips[level]
            x = self.up[level](torch.cat([skip, grown], 1) if self.concat else skip + grown)
        return self.head(x)[..., :height, :width]


class TopazUNetOptions(Config):
    """Options of `TopazUNet`."""

    depth: int = Field(5, ge=1, le=7, description="poolings")
    width: Width = Field(48, description="channels on the way down; twice as many up")
    first: Annotated[Literal[3, 5, 7, 9, 11], BeforeValidator(as_number)] = Field(
        11, description="edge of the first kernel, px"
    )
    head: int = Field(64, ge=2, le=4096, description="channels at full resolution, then half")
    last: Annotated[Literal[3, 5, 7], BeforeValidator(as_number)] = Field(
        3, description="edge of the last three kernels, px"
    )


@final
class TopazUNet(nn.Module):
    """The shape of Topaz-Denoise's 2D U-Net: pooled skips, and the input as the last.

    Weights are drawn as PyTorch does, as there.

    Source: Bepler et al. 2020; `UDenoiseNet` in `topaz/denoising/models.py` of tbepler/topaz, with
        the defaults that its training command takes (first kernel 11, last kernels 3).

    Args:
        options: Depth, width and kernels.
    """

    def __init__(self, options: TopazUNetOptions) -> None:
        super().__init__()
        depth, width = options.depth, options.width
        self.total_stride = 2**depth
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(
            [_leaky(1, width, options.first)] + [_leaky(width, width, 3) for _ in range(depth)]
        )
        # The coarsest comes with as many channels as its skip, all others with twice as many.
        inputs = [2 * width] + [3 * width] * (depth - 2) if depth > 1 else []
        self.up = nn.ModuleList(
            nn.Sequential(_leaky(n_in, 2 * width, 3), _leaky(2 * width, 2 * width, 3))
            for n_in in inputs
        )
        deep, head = (2 * width if depth > 1 else width), options.head
        self.head = nn.Sequential(
            _leaky(deep + 1, head, options.last),
            _leaky(head, head // 2, options.last),
            nn.Conv2d(head // 2, 1, options.last, padding=options.last // 2),
        )

    def forward(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        """Denoise normalised images."""
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, self.total_stride)
        skips = [x]
        for layer in list(self.down)[:-1]:
            skips.append(self.pool(layer(skips[-1])))
        h = self.down[-1](skips.pop())
        for layer in self.up:
            h = layer(_join(h, skips.pop()))
        return self.head(_join(h, skips.pop()))[..., :height, :width]


def _leaky(n_in: int, n_out: int, kernel: int) -> nn.Sequential:
    layer = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
    return nn.Sequential(layer, nn.LeakyReLU(0.1, inplace=True))


def _join(coarse: Tensor, skip: Tensor) -> Tensor:
    grown = functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
    return torch.cat([grown, skip], 1)
