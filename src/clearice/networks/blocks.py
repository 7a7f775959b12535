"""Parts that several networks are made of. None looks beyond its own convolutions."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, final

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from clearice.networks import fused

Norm = Literal["none", "batch"]
Stem = Literal["unshuffle", "full"]
# How many pixels of an edge a stem turns into channels.
SHUFFLE: Final[dict[Stem, int]] = {"unshuffle": 2, "full": 1}


def _split(value: Any) -> Any:
    return value.split("-") if isinstance(value, str) else value


def as_number(value: Any) -> Any:
    """Read a whole number that a network's name has as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Width = Annotated[int, Field(ge=1, le=4096)]
Widths = Annotated[tuple[Width, ...], BeforeValidator(_split), Field(min_length=1, max_length=8)]


@final
class BatchNorm(nn.Module):
    """Batch normalisation with running statistics, and nothing else in its state.

    PyTorch's own also counts batches in an integer, which cannot be averaged as weights are.

    Args:
        width: Channels.
    """

    eps = 1e-5
    momentum = 0.1
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise by the batch while training, else by the running statistics."""
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


@final
class PixelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel by itself: no pixel sees another.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Bring the channels of each pixel to mean 0 and variance 1, then scale and shift them."""
        # Channels-last in memory, this transposition costs nothing.
        last = x.permute(0, 2, 3, 1)
        normal = functional.layer_norm(last, self.weight.shape, self.weight, self.bias, 1e-6)
        return normal.permute(0, 3, 1, 2)


@final
class Gate(nn.Module):
    """The product of the two halves of the channels (Chen et al. 2022)."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Return half as many channels."""
        first, second = x.chunk(2, dim=1)
        return first * second


@final
class Modulation(nn.Module):
    """x · (1 + A c) + B c for known numbers c of an image (FiLM, Perez et al. 2018).

    It starts as, and for c = 0 always is, the identity.

    Args:
        numbers: How many there are.
        width: Channels.
    """

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(numbers, 2 * width, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(
        self, x: Float[Tensor, "n c h w"], condition: Float[Tensor, "n k"]
    ) -> Float[Tensor, "n c h w"]:
        """Scale and shift each channel."""
        scale, shift = self.linear(condition)[..., None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


def convolution(n_in: int, n_out: int, norm: Norm) -> nn.Conv2d | nn.Sequential:
    """Return a 3×3 convolution, with the normalisation that follows it and replaces its bias."""
    if norm == "none":
        return nn.Conv2d(n_in, n_out, 3, padding=1)
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), BatchNorm(n_out))


@final
class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), its last layer starting at zero (Zhang et al. 2019, Fixup).

    So a fresh stack of any depth is the identity, and its gradients neither vanish nor explode
    without normalisation. A normalisation, if asked for, follows each convolution.

    Args:
        width: Channels.
        dropout: Share of channels that is dropped while training.
        norm: Normalisation.
    """

    def __init__(self, width: int, dropout: float, norm: Norm = "none") -> None:
        super().__init__()
        self.dropout = dropout
        self.first = convolution(width, width, norm)
        self.second = convolution(width, width, norm)
        zero_last(self.second)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply the block."""
        if isinstance(self.first, nn.Conv2d) and isinstance(self.second, nn.Conv2d):
            dtype = fused.half_precision(x, x.shape[1])
            if dtype is not None and not (self.training and self.dropout > 0):
                return fused.block(x, self.first, self.second, dtype)
        h = self.first(functional.silu(x))
        h = functional.dropout2d(functional.silu(h), self.dropout, self.training)
        return x + self.second(h)


def residual_blocks(width: int, count: int, dropout: float, norm: Norm) -> nn.Sequential:
    """Return residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(width, dropout, norm) for _ in range(count)))


def zero_last(layer: nn.Module) -> None:
    """Let a convolution, or the normalisation that follows it, put out zero."""
    last = layer[-1] if isinstance(layer, nn.Sequential) else layer
    for parameter in last.parameters():
        nn.init.zeros_(parameter)


def kaiming(network: nn.Module) -> None:
    """Draw the weights of 3×3 convolutions so that ReLU layers keep the variance (He et al. 2015).

    PyTorch's own draw divides the variance by about six at each layer: a plain network of twenty
    would start without a signal.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def pad_to_multiple(x: Float[Tensor, "n c h w"], multiple: int) -> Float[Tensor, "n c hp wp"]:
    """Mirror an image beyond its lower and right edge up to a multiple of `multiple` px."""
    bottom, right = (-x.shape[-2] % multiple, -x.shape[-1] % multiple)
    if bottom == 0 and right == 0:
        return x
    rows = _mirror_index(x.shape[-2], bottom, x.device)
    columns = _mirror_index(x.shape[-1], right, x.device)
    return x[..., rows, :][..., columns]


def _mirror_index(length: int, extra: int, device: torch.device) -> Tensor:
    # functional.pad(mode="reflect") refuses images smaller than the padding.
    period = max(1, 2 * (length - 1))
    index = torch.arange(length + extra, device=device) % period
    return torch.minimum(index, period - index) if length > 1 else index * 0
