"""Networks of the registry made small and given weights that all count."""

from __future__ import annotations

import torch
from torch import nn

from clearice.networks import NetworkInfo, find_network
from clearice.networks.blocks import BatchNorm, PixelNorm
from clearice.networks.classic import ClassicUNetOptions, TopazUNetOptions


def narrow(name: str, width: int = 4, poolings: int | None = None) -> nn.Module:
    """Build a network with few channels: the same layers, at a small part of the work.

    Args:
        name: In the registry.
        width: Channels.
        poolings: Most of those networks whose field doubles with each; as many as it has if not
            given. With three there is a first, a middle and a last level.
    """
    info = find_network(name)
    given = info.options.model_dump()
    levels = enumerate(given.get("widths", ()))
    few = {"width": width, "head": width, "widths": tuple(2 + 2 * level for level, _ in levels)}
    if poolings is not None and isinstance(info.options, ClassicUNetOptions | TopazUNetOptions):
        few["depth"] = min(poolings, info.options.depth)
    options = info.options.model_copy(update={k: v for k, v in few.items() if k in given})
    return NetworkInfo(options, info.description).build(0.0)


def stride_of(network: nn.Module) -> int:
    """Return the total stride of a network, px."""
    stride = network.total_stride
    assert isinstance(stride, int)
    return stride


@torch.no_grad()
def fill_weights(network: nn.Module, *, positive: bool = False) -> None:
    """Give a network weights of which none is zero, from the global random state.

    Args:
        network: Changed in place.
        positive: Positive weights, no biases: no two paths cancel and no unit is dead.
    """
    norms = [m for m in network.modules() if isinstance(m, BatchNorm | PixelNorm)]
    for parameter in network.parameters():
        if parameter.ndim > 1:
            spread = (2 / parameter[0].numel()) ** 0.5
            drawn = torch.randn(parameter.shape, dtype=parameter.dtype) * spread
            parameter.copy_(drawn.abs() / 10 if positive else drawn)
        else:
            parameter.fill_(0.0 if positive else 0.1)
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        if isinstance(norm, BatchNorm):
            norm.running_var.uniform_(0.5, 2.0)
            norm.running_mean.normal_(std=0.0 if positive else 0.2)
