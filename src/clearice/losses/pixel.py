"""Losses on pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def mse(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Mean squared error of each sample: mean over its pixels of (prediction − target)².

    With a noisy target the minimiser is E[signal | input], the same as with a clean one.
    Source: Lehtinen et al., Noise2Noise, ICML 2018.
    """
    return (prediction - target).square().mean((1, 2, 3))
