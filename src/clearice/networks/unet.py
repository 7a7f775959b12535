"""A residual U-Net that no tile's content can disturb."""

from __future__ import annotations

from itertools import pairwise
from typing import final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clearice.config import Config
from clearice.networks import fused
from clearice.networks.blocks import (
    SHUFFLE,
    Modulation,
    Norm,
    Stem,
    Widths,
    pad_to_multiple,
    residual_blocks,
)


class UNetOptions(Config):
    """Options of `UNet`."""

    widths: Widths = Field((32, 64, 96, 128), description="channels of each level, finest first")
    blocks: int = Field(1, ge=1, le=16, description="residual blocks a level, down and up")
    stem: Stem = Field("unshuffle", description="2 × 2 pixels become four channels, or all stay")
    norm: Norm = Field("none", description="after each convolution of a block")
    dose: bool = Field(False, description="it is told the dose of each image")


@final
class UNet(nn.Module):
    """Residual U-Net, by default on pixel-unshuffled input: 2 × 2 pixels become four channels, a
    quarter of the pixels to compute on.

    Args:
        options: Widths and the like.
        dropout: Share of the channels of each block that is dropped while training, which keeps a
            network from learning the noise of a small data set by heart.
    """

    def __init__(self, options: UNetOptions, dropout: float = 0.0) -> None:
        super().__init__()
        widths, blocks, norm = options.widths, options.blocks, options.norm
        self.shuffle = SHUFFLE[options.stem]
        self.total_stride = self.shuffle * 2 ** (len(widths) - 1)
        self.stem = nn.Conv2d(self.shuffle**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(residual_blocks(w, blocks, dropout, norm) for w in widths)
        self.shrink = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(residual_blocks(w, blocks, dropout, norm) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], self.shuffle**2, 3, padding=1)
        self.takes_dose = options.dose
        self.modulate = nn.ModuleList(Modulation(1, w) for w in widths if options.dose)

    def forward(
        self, x: Float[Tensor, "n 1 h w"], dose: Float[Tensor, "n"] | None = None
    ) -> Float[Tensor, "n 1 h w"]:
        """Denoise normalised images.

        Args:
            x: The images.
            dose: log₂ of the dose of each image over that of a whole micrograph; None is the same
                as zeros.

        Raises:
            ValueError: A dose is given to a network without that option.
        """
        if dose is not None and not self.takes_dose:
            raise ValueError("this network was not built with the option 'dose'")
        condition = None if dose is None else dose[:, None]
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.total_stride)
        y = self._deep(functional.pixel_unshuffle(padded, self.shuffle), condition)
        return functional.pixel_shuffle(y, self.shuffle)[..., :height, :width]

    def _deep(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = _convolved(x, self.stem)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            if condition is not None:
                x = self.modulate[level](x, condition)
            x = blocks(x)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        for level in reversed(range(len(self.grow))):
            x = self.up[level](skips[level] + self.grow[level](x))
        return _convolved(x, self.head)


def inputs_of(
    network: nn.Module, images: Float[Tensor, "n 1 h w"], dose: Float[Tensor, "n"] | None
) -> tuple[Tensor, ...]:
    """Return what to call a network with: the images, and their dose if it wants to know.

    Args:
        network: Any.
        images: Normalised.
        dose: log₂ of the dose of each over that of a whole micrograph, if it is known.
    """
    if dose is None or not getattr(network, "takes_dose", False):
        return (images,)
    return images, dose


def _convolved(x: Tensor, layer: nn.Module) -> Tensor:
    """Return what a convolution from or to few channels gives, by kernels if there are some."""
    if isinstance(layer, nn.Conv2d):  # `measure_geometry` puts others in its place
        dtype = fused.half_precision(x, max(layer.in_channels, layer.out_channels))
        if dtype is not None:
            return fused.convolution(x, layer, dtype)
    out: Tensor = layer(x)
    return out
