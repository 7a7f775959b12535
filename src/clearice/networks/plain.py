"""Stacks of 3×3 convolutions at full resolution, plain or of residual blocks."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from clearice.config import Config
from clearice.networks import fused
from clearice.networks.blocks import (
    BatchNorm,
    Norm,
    Width,
    kaiming,
    residual_blocks,
    zero_last,
)


class CNNOptions(Config):
    """Options of `CNN`."""

    depth: int = Field(7, ge=2, le=64, description="convolutions")
    width: Width = Field(32, description="channels between them")
    norm: Norm = Field("none", description="between a convolution and its ReLU, but for the first")
    residual: bool = Field(False, description="predict the noise, to be subtracted")
    init: Literal["kaiming", "torch"] = Field("kaiming", description="how weights are drawn")


@final
class CNN(nn.Module):
    """3×3 convolutions with ReLU between them (with `residual` as Zhang et al. 2017, DnCNN).

    Args:
        options: Depth, width and the like.
    """

    total_stride = 1

    def __init__(self, options: CNNOptions) -> None:
        super().__init__()
        self.residual = options.residual
        self.width = options.width
        width, normalised = options.width, options.norm == "batch"
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(options.depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=not normalised))
            layers += [BatchNorm(width)] if normalised else []
            layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))
        if options.init == "kaiming":
            kaiming(self)
            if options.residual:
                zero_last(self.layers)

    def forward(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        """Denoise normalised images."""
        y = self._fused(x)
        y = self.layers(x) if y is None else y
        return x - y if self.residual else y

    def _fused(self, x: Tensor) -> Tensor | None:
        """Return the same by kernels, if there are some for it."""
        dtype = fused.half_precision(x, self.width)
        normalised = any(isinstance(layer, BatchNorm) for layer in self.layers)
        replaced = "forward" in vars(self.layers)  # to compute activations again
        if dtype is None or normalised or replaced:
            return None
        convolutions = [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
        return fused.chain(x, convolutions, dtype)


class ResNetOptions(Config):
    """Options of `ResNet`."""

    blocks: int = Field(8, ge=1, le=64, description="residual blocks, two convolutions each")
    width: Width = Field(32, description="channels")
    norm: Norm = Field("none", description="after each convolution of a block")
    residual: bool = Field(True, description="predict the noise, to be subtracted")


@final
class ResNet(nn.Module):
    """Residual blocks between two convolutions (He et al. 2016; Lim et al. 2017, EDSR).

    Args:
        options: Blocks, width and the like.
        dropout: Share of the channels of each block that is dropped while training.
    """

    total_stride = 1

    def __init__(self, options: ResNetOptions, dropout: float = 0.0) -> None:
        super().__init__()
        self.residual = options.residual
        self.head = nn.Conv2d(1, options.width, 3, padding=1)
        self.body = residual_blocks(options.width, options.blocks, dropout, options.norm)
        self.tail = nn.Conv2d(options.width, 1, 3, padding=1)
        if options.residual:
            zero_last(self.tail)

    def forward(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        """Denoise normalised images."""
        y = self.tail(self.body(self.head(x)))
        return x - y if self.residual else y
