"""Convolutions of few channels fused with the activation before them, where a GPU allows it.

On the H200 PyTorch's convolutions of 16 and 32 channels wait for memory most of the time, and each
activation moves the image again. `chain` and `block` give the numbers of plain modules to the
rounding of half precision; their modules fall back to PyTorch, by `half_precision`, wherever
kernels do not apply: on CPUs, in float32, for other widths, under torch.compile.

Experimental: used only where the environment variable CLEARICE_FUSED_CONVOLUTIONS is 1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from clearice.devices import kernel_or_warning

# Beyond these, PyTorch's convolutions are as fast as memory.
_WIDTHS: Final = (16, 32)
_HALF: Final = (torch.bfloat16, torch.float16)


def half_precision(x: Tensor, width: int) -> torch.dtype | None:
    """Return the precision that fused convolutions would compute in, if they can.

    Args:
        x: What enters.
        width: Channels of the images between convolutions.
    """
    wanted = os.environ.get("CLEARICE_FUSED_CONVOLUTIONS") == "1" and width in _WIDTHS
    if not wanted or x.device.type != "cuda" or torch.compiler.is_compiling():
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    return dtype if dtype in _HALF and _kernels() is not None else None


def chain(
    x: Float[Tensor, "n 1 h w"], layers: Sequence[nn.Conv2d], dtype: torch.dtype
) -> Float[Tensor, "n 1 h w"]:
    """Return what 3×3 convolutions with ReLU between them make of one channel, in float32.

    Args:
        x: In any precision.
        layers: At least two; from one channel to one, all others of one width.
        dtype: Of the images between them.
    """
    first, *middle, last = layers
    z = _Expand.apply(x, first.weight, first.bias, dtype)  # type: ignore[no-untyped-call]
    for layer in middle:
        z = _Thick.apply(z, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    out: Tensor = _Contract.apply(z, last.weight, last.bias)  # type: ignore[no-untyped-call]
    return out


def block(
    x: Float[Tensor, "n c h w"], first: nn.Conv2d, second: nn.Conv2d, dtype: torch.dtype
) -> Float[Tensor, "n c h w"]:
    """Return x + second(silu(first(silu(x))))."""
    weights = (first.weight, first.bias, second.weight, second.bias)
    out: Tensor = _Block.apply(x.to(dtype), *weights)  # type: ignore[no-untyped-call]
    return out


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    """Return the kernels if they can be compiled and run here; else say why not, once."""

    def build() -> ModuleType:
        from clearice.networks import conv_kernels

        conv_kernels.probe()
        return conv_kernels

    return kernel_or_warning(build, "convolutions of few channels are computed")


def _taps(weight: Float[Tensor, "co ci 3 3"], dtype: torch.dtype) -> Float[Tensor, "3 3 ci co"]:
    """Lay weights out as the kernels read them."""
    return weight.to(dtype).permute(2, 3, 1, 0)


def _adjoint(weight: Float[Tensor, "co ci 3 3"], dtype: torch.dtype) -> Float[Tensor, "3 3 co ci"]:
    """Lay the weights of the adjoint convolution out."""
    return weight.to(dtype).flip(2, 3).permute(2, 3, 0, 1)


def _weights(taps: Float[Tensor, "3 3 ci co"]) -> Float[Tensor, "co ci 3 3"]:
    return taps.permute(3, 2, 0, 1)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class _Thick(torch.autograd.Function):
    """relu(conv(x) + bias) of what a ReLU gave; its gradient comes back behind that ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from clearice.networks import conv_kernels

        ctx.save_for_backward(x, weight)
        matrices = conv_kernels.pair_matrices(_taps(weight, x.dtype))
        y, _ = conv_kernels.thick(x, matrices, bias, act="relu")
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        from clearice.networks import conv_kernels

        x, weight = ctx.saved_tensors
        dz = _last(upstream)
        adjoint = conv_kernels.pair_matrices(_adjoint(weight, x.dtype))
        dx, _ = conv_kernels.thick(dz, adjoint, None, gate=x, gate_act="relu")
        taps, db = conv_kernels.thick_weights(x, dz)
        return dx, _weights(taps), db


class _Expand(torch.autograd.Function):
    """relu(conv(x) + bias) of one channel; its gradient comes in behind that ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        from clearice.networks import conv_kernels

        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return conv_kernels.expand(x, _taps(weight, dtype), bias, act="relu")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from clearice.networks import conv_kernels

        x, weight = ctx.saved_tensors
        dz, dx = _last(upstream), None
        if ctx.needs_input_grad[0]:
            adjoint = conv_kernels.pair_matrices(_adjoint(weight, dz.dtype))
            dx, _ = conv_kernels.thick(dz, adjoint, None)
        taps, db = conv_kernels.thin_weights(x, dz, 1)
        return dx, _weights(taps[:, :, None]), db, None


class _Contract(torch.autograd.Function):
    """conv(x) + bias to one channel, of what a ReLU gave."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from clearice.networks import conv_kernels

        ctx.save_for_backward(x, weight)
        matrices = conv_kernels.pair_matrices(_taps(weight, x.dtype))
        y, _ = conv_kernels.thick(x, matrices, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        from clearice.networks import conv_kernels

        x, weight = ctx.saved_tensors
        dy = upstream.contiguous()
        dx = conv_kernels.expand(dy, _adjoint(weight, x.dtype), None, gate=x, gate_act="relu")
        taps, _ = conv_kernels.thin_weights(dy, x, -1)
        return dx, taps.permute(2, 0, 1)[None], dy.sum((0, 2, 3))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        from clearice.networks import conv_kernels

        x = _last(x)
        active = functional.silu(x)
        first, second = (conv_kernels.pair_matrices(_taps(w, x.dtype)) for w in (w1, w2))
        h, z = conv_kernels.thick(active, first, b1, act="silu", keep=True)
        y, _ = conv_kernels.thick(h, second, b2, add=x)
        ctx.save_for_backward(x, active, z, h, w1, w2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        from clearice.networks import conv_kernels

        x, active, z, h, w1, w2 = ctx.saved_tensors
        dy = _last(upstream)
        first, second = (conv_kernels.pair_matrices(_adjoint(w, x.dtype)) for w in (w1, w2))
        dz, _ = conv_kernels.thick(dy, second, None, gate=z, gate_act="silu")
        taps2, db2 = conv_kernels.thick_weights(h, dy)
        dx, _ = conv_kernels.thick(dz, first, None, gate=x, gate_act="silu", add=dy)
        taps1, db1 = conv_kernels.thick_weights(active, dz)
        return dx, _weights(taps1), db1, _weights(taps2), db2
