"""The explicit registry of networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from torch import Tensor, nn

from clearice.errors import UnknownNameError
from clearice.networks.plain import CNN3, ResCNN12
from clearice.networks.unet import UNet


class Network(Protocol):
    """A module from (n, 1, h, w) to the same shape that shifts with its input by `total_stride`."""

    total_stride: int

    def __call__(self, x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class NetworkInfo:
    """One network: how to build it and what it is."""

    build: Callable[[], nn.Module]
    description: str


NETWORKS: Final[dict[str, NetworkInfo]] = {
    "cnn3": NetworkInfo(CNN3, "3 layers of 3×3 convolutions, 16 channels"),
    "rescnn12": NetworkInfo(ResCNN12, "12 layers, 32 channels, predicts the noise"),
    "unet": NetworkInfo(UNet, "residual U-Net on pixel-unshuffled input, no normalisation layers"),
}


def build_network(name: str) -> nn.Module:
    """Build a network with fresh weights from the global random state.

    Raises:
        UnknownNameError: No such network; the message lists those there are.
    """
    if name not in NETWORKS:
        raise UnknownNameError("network", name, NETWORKS)
    return NETWORKS[name].build()


def parameter_count(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
