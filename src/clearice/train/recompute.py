"""Memory for time: activations inside a network's parts are computed again when they are needed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(network: nn.Module, *, random: bool) -> None:
    """Let a network keep, of each chain of layers, only what enters about √n of its segments.

    Gradients are the same. Its weights and their names stay as they are.

    Args:
        network: Changed in place.
        random: Whether it draws random numbers, which must then be drawn alike again.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
    """
    for chain in _chains(network):
        chain.forward = partial(_run, _segments(chain), random)  # type: ignore[method-assign]


def _chains(module: nn.Module) -> Iterator[nn.Sequential]:
    """Yield the outermost chains."""
    if isinstance(module, nn.Sequential):
        yield module
        return
    for child in module.children():
        yield from _chains(child)


def _segments(chain: nn.Sequential) -> list[nn.Sequential]:
    """Cut a chain before layers with weights: others may work in place, on what is kept."""
    layers = list(chain)
    starts = [i for i, layer in enumerate(layers) if next(layer.parameters(), None) is not None]
    whole = all(next(layer.children(), None) is not None for layer in layers)  # blocks
    length = 1 if whole else max(1, round(math.sqrt(len(starts))))
    cuts = [0, *starts[length::length], len(layers)]
    return [nn.Sequential(*layers[a:b]) for a, b in pairwise(cuts) if a < b]


def _run(segments: list[nn.Sequential], random: bool, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        for segment in segments:
            x = segment(x)
        return x
    for segment in segments:
        x = checkpoint(segment, x, use_reentrant=False, preserve_rng_state=random)
    return x
