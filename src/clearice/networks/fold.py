"""Batch normalisation taken into the convolutions before it, for inference."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from clearice.networks.blocks import BatchNorm


def fold(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode without batch normalisation, equal up to rounding.

    With its running statistics a normalisation is one factor and one offset a channel, which the
    convolution before it can apply for nothing. Padding stays exact: it comes before both.

    Args:
        network: Unchanged; its memory layout is kept.

    Raises:
        ValueError: A normalisation does not follow a convolution in a sequence.
    """
    folded = copy.deepcopy(network).eval()
    for layers in folded.modules():
        if isinstance(layers, nn.Sequential):
            _fold_sequence(layers)
    if any(isinstance(layer, BatchNorm) for layer in folded.modules()):
        raise ValueError("a batch normalisation does not follow a convolution")
    return folded


def _fold_sequence(layers: nn.Sequential) -> None:
    for index, (layer, norm) in enumerate(pairwise(list(layers))):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, BatchNorm):
            layer.weight, layer.bias = fuse_conv_bn_weights(
                layer.weight,
                layer.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            layers[index + 1] = nn.Identity()
