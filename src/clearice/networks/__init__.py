"""Networks: modules and an explicit registry."""

from clearice.networks.blocks import pad_to_multiple
from clearice.networks.classic import (
    ClassicUNet,
    ClassicUNetOptions,
    TopazUNet,
    TopazUNetOptions,
)
from clearice.networks.cost import Cost, cost
from clearice.networks.fold import fold
from clearice.networks.geometry import Geometry, measure_geometry
from clearice.networks.nafnet import NAFNet, NAFNetOptions
from clearice.networks.plain import CNN, CNNOptions, ResNet, ResNetOptions
from clearice.networks.registry import (
    NETWORKS,
    NetworkInfo,
    build_network,
    find_network,
    parameter_count,
    place,
)
from clearice.networks.unet import UNet, UNetOptions, inputs_of

__all__ = [
    "CNN",
    "NETWORKS",
    "CNNOptions",
    "ClassicUNet",
    "ClassicUNetOptions",
    "Cost",
    "Geometry",
    "NAFNet",
    "NAFNetOptions",
    "NetworkInfo",
    "ResNet",
    "ResNetOptions",
    "TopazUNet",
    "TopazUNetOptions",
    "UNet",
    "UNetOptions",
    "build_network",
    "cost",
    "find_network",
    "fold",
    "inputs_of",
    "measure_geometry",
    "pad_to_multiple",
    "parameter_count",
    "place",
]
