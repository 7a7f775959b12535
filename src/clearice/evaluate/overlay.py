"""A map of trust as a picture over the micrograph, in colours that the colour-blind tell apart."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

# Trust 0, ½ and 1: blue, white, orange (after Okabe & Ito), equally bright for most eyes.
_COLOURS: Final = ((70.0, 130.0, 255.0), (225.0, 225.0, 225.0), (255.0, 165.0, 0.0))
_CONTRAST: Final = (0.005, 0.995)
_DARKEST: Final = 0.15


def overlay(image: Float[Tensor, "h w"], trust: Float[Tensor, "h w"]) -> UInt8[Tensor, "rows w 3"]:
    """Colour an image by trust, with a bar of the colours from 0 to 1 below it.

    Args:
        image: Grey values; stretched between their 0.5 and 99.5 percentiles.
        trust: 0 to 1, of the same shape.

    Returns:
        The picture, its first row at the bottom as in micrographs.
    """
    low, high = (float(part) for part in _percentiles(image))
    grey = ((image - low) / max(high - low, 1e-30)).clamp(0, 1)
    width = image.shape[1]
    bar = torch.linspace(0, 1, width, dtype=trust.dtype).expand(max(4, width // 40), -1)
    values = torch.cat([bar, trust])
    light = torch.cat([torch.ones_like(bar), _DARKEST + (1 - _DARKEST) * grey.to(trust)])
    return (colours(values) * light[..., None]).round().clamp(0, 255).to(torch.uint8)


def colours(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Return red, green and blue, 0 to 255, of values from 0 to 1."""
    anchors = torch.tensor(_COLOURS, dtype=values.dtype)
    position = values.clamp(0, 1) * (len(_COLOURS) - 1)
    below = position.floor().long().clamp(max=len(_COLOURS) - 2)
    part = (position - below)[..., None]
    return anchors[below] * (1 - part) + anchors[below + 1] * part


def _percentiles(image: Float[Tensor, "h w"]) -> Float[Tensor, "2"]:
    # `torch.quantile` takes at most 2²⁴ values; a few hundred thousand say as much.
    step = max(1, image.numel() // 2**18)
    return torch.quantile(image.flatten()[::step].float(), torch.tensor(_CONTRAST))
