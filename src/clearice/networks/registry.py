"""The explicit registry of networks, and how one is named: `cnn(depth=7, width=32, norm=batch)`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from clearice.config import Config, validate_config
from clearice.errors import ConfigError, UnknownNameError
from clearice.networks.classic import ClassicUNet, ClassicUNetOptions, TopazUNet, TopazUNetOptions
from clearice.networks.nafnet import NAFNet, NAFNetOptions
from clearice.networks.plain import CNN, CNNOptions, ResNet, ResNetOptions
from clearice.networks.unet import UNet, UNetOptions

_CALL: Final = re.compile(r"([^()]*?)\s*\((.*)\)")
_OPTION: Final = re.compile(r"([a-z][a-z0-9_]*)\s*=\s*([A-Za-z0-9.+-]+)")
_EXAMPLE: Final = "write for instance 'cnn(depth=7, width=32, norm=batch)'"


@dataclass(frozen=True)
class NetworkInfo:
    """One network.

    Attributes:
        options: All of its options.
        description: In a few words.
    """

    options: Config
    description: str

    def build(self, dropout: float) -> nn.Module:
        """Build it with fresh weights, dropping that share of channels while training if it can."""
        return _BUILDERS[type(self.options)](self.options, dropout)

    @property
    def has_dropout(self) -> bool:
        """Whether a share of channels can be dropped."""
        return type(self.options) in _WITH_DROPOUT


_BUILDERS: Final[dict[type[Config], Callable[..., nn.Module]]] = {
    CNNOptions: lambda options, dropout: CNN(options),
    ResNetOptions: ResNet,
    UNetOptions: UNet,
    ClassicUNetOptions: lambda options, dropout: ClassicUNet(options),
    TopazUNetOptions: lambda options, dropout: TopazUNet(options),
    NAFNetOptions: NAFNet,
}
_WITH_DROPOUT: Final = (ResNetOptions, UNetOptions, NAFNetOptions)


def _cnn(depth: int, *, norm: bool = False) -> NetworkInfo:
    options = CNNOptions(depth=depth, norm="batch" if norm else "none")
    normalised = ", batch normalisation" if norm else ""
    return NetworkInfo(options, f"{depth} layers of 3×3 convolutions, 32 channels{normalised}")


NETWORKS: Final[dict[str, NetworkInfo]] = {
    "cnn3": NetworkInfo(
        CNNOptions(depth=3, width=16, init="torch"), "3 layers of 3×3 convolutions, 16 channels"
    ),
    "cnn3-bn": NetworkInfo(
        CNNOptions(depth=3, width=16, norm="batch"), "the same with batch normalisation"
    ),
    "cnn7": _cnn(7),
    "cnn7-bn": _cnn(7, norm=True),
    "cnn12": _cnn(12),
    "cnn12-bn": _cnn(12, norm=True),
    "cnn20": _cnn(20),
    "cnn20-bn": _cnn(20, norm=True),
    "rescnn12": NetworkInfo(
        CNNOptions(depth=12, residual=True, init="torch"),
        "12 layers, 32 channels, predicts the noise",
    ),
    "rescnn12-bn": NetworkInfo(
        CNNOptions(depth=12, residual=True, norm="batch"), "the same with batch normalisation"
    ),
    "resnet8": NetworkInfo(ResNetOptions(), "8 residual blocks, 32 channels, predicts the noise"),
    "resnet8-bn": NetworkInfo(ResNetOptions(norm="batch"), "the same with batch normalisation"),
    "unet": NetworkInfo(
        UNetOptions(), "residual U-Net on pixel-unshuffled input, no normalisation layers"
    ),
    "unet-small": NetworkInfo(
        UNetOptions(widths=(32, 64, 96)), "`unet` with one level less, half the size: for CPUs"
    ),
    "unet-large": NetworkInfo(
        UNetOptions(widths=(48, 96, 192, 256), blocks=2), "`unet`, wider, two blocks a level"
    ),
    "unet-deep": NetworkInfo(
        UNetOptions(widths=(32, 64, 96, 128, 128)), "`unet` with one level more"
    ),
    "unet-two": NetworkInfo(UNetOptions(blocks=2), "`unet` with two blocks a level"),
    "unet-full": NetworkInfo(
        UNetOptions(widths=(16, 32, 64, 96, 128), stem="full"),
        "`unet` with a level of 16 channels at full resolution in place of the unshuffled stem",
    ),
    "unet-bn": NetworkInfo(UNetOptions(norm="batch"), "`unet` with batch normalisation"),
    "unet-classic": NetworkInfo(
        ClassicUNetOptions(), "classic U-Net: max-pooling, 32 channels doubled four times"
    ),
    "unet-classic-bn": NetworkInfo(
        ClassicUNetOptions(norm="batch"), "the same with batch normalisation"
    ),
    "unet-classic-sum": NetworkInfo(
        ClassicUNetOptions(skip="sum"), "`unet-classic` with skips added in place of concatenated"
    ),
    "topaz-unet": NetworkInfo(
        TopazUNetOptions(), "the shape of Topaz-Denoise's U-Net: 48 channels, 5 poolings"
    ),
    "nafnet": NetworkInfo(
        NAFNetOptions(), "NAFNet on pixel-unshuffled input, without global pooling"
    ),
}
# Names that are no network of their own, but can be given with options.
_FAMILIES: Final[dict[str, Config]] = {"cnn": CNNOptions(), "resnet": ResNetOptions()}


def find_network(name: str) -> NetworkInfo:
    """Look a network up, its options replaced by those given in brackets.

    Args:
        name: Such as `unet`, `unet(blocks=2)` or `cnn(depth=7, width=32, norm=batch)`.

    Raises:
        UnknownNameError: No such network; the message lists those there are.
        ConfigError: The options cannot be read, are unknown or out of range.
    """
    call = _CALL.fullmatch(name.strip())
    plain = name.strip() if call is None else call[1]
    info = NETWORKS.get(plain)
    if info is None and plain in _FAMILIES:
        info = NetworkInfo(_FAMILIES[plain], plain)
    if info is None:
        raise UnknownNameError("network", plain, [*NETWORKS, *_FAMILIES])
    if call is None:
        return info
    values = {**info.options.model_dump(), **_given(name, call[2])}
    options = validate_config(type(info.options), values, f"network '{name.strip()}'")
    return NetworkInfo(options, info.description)


def _given(name: str, text: str) -> dict[str, str]:
    """Read `depth=7, norm=batch`."""
    given: dict[str, str] = {}
    for part in text.split(","):
        option = _OPTION.fullmatch(part.strip())
        if option is None:
            raise ConfigError(f"network '{name}': cannot read '{part.strip()}'; {_EXAMPLE}")
        if option[1] in given:
            raise ConfigError(f"network '{name}': '{option[1]}' stands twice; {_EXAMPLE}")
        given[option[1]] = option[2]
    return given


def build_network(name: str, dropout: float = 0.0) -> nn.Module:
    """Build a network with fresh weights from the global random state.

    Args:
        name: In the registry, with options in brackets if wanted, see `find_network`.
        dropout: Share of channels dropped while training.

    Raises:
        UnknownNameError: No such network; the message lists those there are.
        ConfigError: An option cannot be used, or dropout was asked of a network that has none.
    """
    info = find_network(name)
    if dropout > 0 and not info.has_dropout:
        raise ConfigError(f"network '{name}' has no dropout; leave it out, or use 'unet'")
    return info.build(dropout)


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its convolutions laid out channels-last for speed."""
    network = network.to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def parameter_count(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
