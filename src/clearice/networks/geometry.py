"""What a network sees: measured from its gradient, never typed in."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clearice.errors import ClearIceError
from clearice.networks.blocks import BatchNorm, Gate, PixelNorm

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


class _Box(nn.Module):
    """Sees what a convolution sees, with the same positive weight for every pixel and channel.

    All channels are then the same, so one is computed.
    """

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.channels = layer.out_channels
        self.single = copy.deepcopy(layer)
        kernel = torch.ones(1, 1, *layer.kernel_size) / math.prod(layer.kernel_size)
        self.single.weight = nn.Parameter(kernel)
        self.single.bias = None
        self.single.groups = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.single(x.mean(1, keepdim=True)).repeat(1, self.channels, 1, 1)


class _GateSum(nn.Module):
    """Sees what a gate sees; the product of gates underflows."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return (first + second) / 2


def _stand_in(layer: nn.Module) -> nn.Module | None:
    """Return a layer that sees the same pixels, for one whose gradient could hide some."""
    match layer:
        case nn.Conv2d() | nn.ConvTranspose2d():
            return _Box(layer)
        case nn.MaxPool2d():
            return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
        case BatchNorm() | PixelNorm():
            return nn.Identity()
        case Gate():
            return _GateSum()
    return None


def _all_positive(network: nn.Module) -> nn.Module:
    """Copy a network with positive weights and no biases, so that no two paths cancel."""
    probe = copy.deepcopy(network).cpu().eval()
    for parent in list(probe.modules()):
        for name, layer in parent.named_children():
            if (stand_in := _stand_in(layer)) is not None:
                setattr(parent, name, stand_in)
    with torch.no_grad():
        for name, parameter in probe.named_parameters():
            if not name.endswith("single.weight"):
                parameter.fill_(1.0 / max(1, parameter[0].numel()) if parameter.ndim > 1 else 0.0)
    return probe.double()


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
        seen = [_touched(probe, size, start, stride, across) for across in (False, True)]
        first, last = min(map(min, seen)), max(map(max, seen))
        if first > 0 and last < size - 1:
            return Geometry(max(start - first, last - (start + stride - 1)), stride)
        size *= 2
    raise ClearIceError(
        f"receptive field exceeds {_LARGEST_FIELD} px: this network cannot be tiled"
    )


def _touched(probe: nn.Module, size: int, start: int, stride: int, across: bool) -> list[int]:
    """Return the rows (or columns) of a strip whose pixels change the block at `start`.

    A strip as wide as the stride is enough: what is seen along one axis does not depend on how much
    there is of the other, and the time it takes does.
    """
    shape = (stride, size) if across else (size, stride)
    x = torch.ones(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    block = probe(x)[0, 0].narrow(1 if across else 0, start, stride)
    (gradient,) = torch.autograd.grad(block.sum(), x)
    return torch.nonzero(gradient[0, 0].sum(0 if across else 1))[:, 0].tolist()
