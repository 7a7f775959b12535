"""Losses on pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def mse(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Mean squared error of each sample: mean over its pixels of (prediction − target)².

    With a noisy target the minimiser is E[signal | input], the same as with a clean one.
    Source: Lehtinen et al., Noise2Noise, ICML 2018.
    """
    return (prediction - target).square().mean((1, 2, 3))


def l1(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n"]:
    """Mean absolute error of each sample: mean over its pixels of |prediction − target|.

    With a noisy target the minimiser is median[target | input]. Where signal and noise are
    symmetric that is E[signal | input]; skewed noise (few counts in a pixel) shifts it.
    Source: Lehtinen et al., Noise2Noise, ICML 2018, section 3.
    """
    return (prediction - target).abs().mean((1, 2, 3))


def charbonnier(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"], *, eps: float = 1e-3
) -> Float[Tensor, "n"]:
    """Smooth L1 of each sample: mean over its pixels of √(d² + eps²) − eps, d the difference.

    With a noisy target the minimiser lies between the conditional median (errors above `eps`) and
    the conditional mean (errors below it): as for L1, right if the noise is symmetric.
    Source: Charbonnier et al., ICIP 1994.

    Args:
        prediction: Of the network.
        target: On the same scale.
        eps: Where the parabola turns into a line, on the scale of the images.
    """
    square = (prediction - target).square()
    # The same as √(d² + eps²) − eps, without the cancellation where d is small.
    return (square / ((square + eps**2).sqrt() + eps)).mean((1, 2, 3))


def huber(
    prediction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"], *, delta: float = 1.0
) -> Float[Tensor, "n"]:
    """Huber loss of each sample: mean of d²/2 where |d| ≤ delta, else delta · (|d| − delta/2).

    With a noisy target the minimiser lies between the conditional mean (`delta` far above the
    noise) and the conditional median (far below): right if the noise is symmetric.
    Source: Huber, Annals of Mathematical Statistics 35, 1964.

    Args:
        prediction: Of the network.
        target: On the same scale.
        delta: Where the parabola turns into a line, on the scale of the images.
    """
    values = functional.huber_loss(prediction, target, reduction="none", delta=delta)
    return values.mean((1, 2, 3))
