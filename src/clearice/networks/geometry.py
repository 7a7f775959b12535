"""What a network sees: measured from its gradient, never typed in."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clearice.errors import ClearIceError

_LARGEST_FIELD = 2048


@dataclass(frozen=True)
class Geometry:
    """How far a network looks.

    Attributes:
        halo: Pixels around an output block, aligned to `stride`, that can change it.
        stride: Shift of the input, in px, under which the network is equivariant.
    """

    halo: int
    stride: int

    @property
    def receptive_field(self) -> int:
        """Edge of the square of input pixels that can change an output block of one stride, px."""
        return 2 * self.halo + self.stride


def _all_positive(network: nn.Module) -> nn.Module:
    """Copy a network with positive weights and no biases, so that no two paths cancel."""
    probe = copy.deepcopy(network).double().cpu().eval()
    with torch.no_grad():
        for parameter in probe.parameters():
            scale = 1.0 / max(1, parameter[0].numel()) if parameter.ndim > 1 else 0.0
            parameter.fill_(scale)
    return probe


def measure_geometry(network: nn.Module, stride: int) -> Geometry:
    """Measure how far from an aligned block of output pixels an input pixel can still change it.

    Args:
        network: Maps (n, 1, h, w) to the same shape.
        stride: Its total stride, px.

    Raises:
        ClearIceError: The field exceeds 2,048 px (a network with global pooling, say).
    """
    probe = _all_positive(network)
    size = 8 * stride * max(1, 64 // (8 * stride))
    while size <= _LARGEST_FIELD:
        start = size // 2 // stride * stride
        touched = _touched(probe, size, start, stride)
        reach = max(start - int(touched.min()), int(touched.max()) - (start + stride - 1))
        if int(touched.min()) > 0 and int(touched.max()) < size - 1:
            return Geometry(reach, stride)
        size *= 2
    raise ClearIceError(
        f"receptive field exceeds {_LARGEST_FIELD} px: this network cannot be tiled"
    )


def _touched(probe: nn.Module, size: int, start: int, stride: int) -> Tensor:
    """Return the rows and columns whose pixels change the block at (start, start)."""
    x = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    block = slice(start, start + stride)
    (gradient,) = torch.autograd.grad(probe(x)[0, 0, block, block].sum(), x)
    rows, columns = torch.nonzero(gradient[0, 0], as_tuple=True)
    return torch.cat([rows, columns])
