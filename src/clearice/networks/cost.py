"""What a network costs: arithmetic and memory traffic of its convolutions, for a roofline."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_Convolution = nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True)
class Cost:
    """Of one forward pass over one square image.

    A step of training costs about three times the arithmetic and at least twice the traffic.

    Attributes:
        flops: Floating-point operations of the convolutions; a multiply-add counts two.
        activation_bytes: What the convolutions read and write if each input is read once, each
            output written once, and all between them is fused into them.
        parameter_bytes: Size of all parameters.
    """

    flops: int
    activation_bytes: int
    parameter_bytes: int


def cost(network: nn.Module, size: int, bytes_per_value: int = 4) -> Cost:
    """Count what one forward pass costs; nothing is computed.

    Args:
        network: Maps (n, 1, h, w) to the same shape.
        size: Edge of the image, px; what it is padded to counts.
        bytes_per_value: 4 for float32, 2 for bfloat16.
    """
    flops: list[int] = []
    values: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, _Convolution)
        flops.append(2 * _multiply_adds(layer, inputs[0], output))
        values.append(inputs[0].numel() + output.numel())

    probe = copy.deepcopy(network).to("meta").eval()
    for layer in probe.modules():
        if isinstance(layer, _Convolution):
            layer.register_forward_hook(count)
    with torch.no_grad():
        probe(torch.empty(1, 1, size, size, device="meta"))
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(sum(flops), bytes_per_value * sum(values), bytes_per_value * parameters)


def _multiply_adds(layer: _Convolution, x: Tensor, y: Tensor) -> int:
    """Each weight is used once a pixel: of the output, or where it is transposed of the input."""
    n, _, height, width = x.shape if isinstance(layer, nn.ConvTranspose2d) else y.shape
    return n * height * width * layer.weight.numel()
