"""Networks: modules and an explicit registry."""

from clearice.networks.geometry import Geometry, measure_geometry
from clearice.networks.plain import CNN3, ResCNN12
from clearice.networks.registry import NETWORKS, NetworkInfo, build_network, parameter_count, place
from clearice.networks.unet import UNet, pad_to_multiple

__all__ = [
    "CNN3",
    "NETWORKS",
    "Geometry",
    "NetworkInfo",
    "ResCNN12",
    "UNet",
    "build_network",
    "measure_geometry",
    "pad_to_multiple",
    "parameter_count",
    "place",
]
