"""The explicit registry of networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from clearice.errors import ConfigError, UnknownNameError
from clearice.networks.plain import CNN3, ResCNN12
from clearice.networks.unet import UNet


@dataclass(frozen=True)
class NetworkInfo:
    """One network.

    Attributes:
        build: From the share of channels that are dropped while training.
        description: In a few words.
        has_dropout: Whether that share has any effect.
    """

    build: Callable[[float], nn.Module]
    description: str
    has_dropout: bool = False


NETWORKS: Final[dict[str, NetworkInfo]] = {
    "cnn3": NetworkInfo(lambda dropout: CNN3(), "3 layers of 3×3 convolutions, 16 channels"),
    "rescnn12": NetworkInfo(
        lambda dropout: ResCNN12(), "12 layers, 32 channels, predicts the noise"
    ),
    "unet": NetworkInfo(
        lambda dropout: UNet((32, 64, 96, 128), blocks=1, dropout=dropout),
        "residual U-Net on pixel-unshuffled input, no normalisation layers",
        has_dropout=True,
    ),
    "unet-small": NetworkInfo(
        lambda dropout: UNet((32, 64, 96), blocks=1, dropout=dropout),
        "the same with one level less, half the size: for CPUs",
        has_dropout=True,
    ),
}


def build_network(name: str, dropout: float = 0.0) -> nn.Module:
    """Build a network with fresh weights from the global random state.

    Args:
        name: In the registry.
        dropout: Share of channels dropped while training.

    Raises:
        UnknownNameError: No such network; the message lists those there are.
        ConfigError: Dropout was asked of a network that has none.
    """
    if name not in NETWORKS:
        raise UnknownNameError("network", name, NETWORKS)
    if dropout > 0 and not NETWORKS[name].has_dropout:
        raise ConfigError(f"network '{name}' has no dropout; leave it out, or use 'unet'")
    return NETWORKS[name].build(dropout)


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its convolutions laid out channels-last for speed."""
    network = network.to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def parameter_count(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
