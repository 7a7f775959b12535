"""Convolutions of few channels fused with the activation before them, where a GPU allows it.

On the H200 PyTorch's convolutions of 16 and 32 channels wait for memory most of the time, and each
activation moves the image again. `chain` and `block` give the numbers of plain modules to the
rounding of half precision; their modules fall back to PyTorch, by `half_precision`, wherever
kernels do not apply: on CPUs, in float32, for other widths, under torch.compile.

The environment variable CLEARICE_FUSED_CONVOLUTIONS=0 turns them off.
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
    wanted = os.environ.get("CLEARICE_FUSED_CONVOLUTIONS") != "0" and width in _WIDTHS
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
    y = _convolved(x, first, dtype, before=False, after=True)
    for layer in middle:
        y = _convolved(y, layer, dtype, before=True, after=True)
    return _convolved(y, last, dtype, before=True, after=False)


def convolution(
    x: Float[Tensor, "n c h w"], layer: nn.Conv2d, dtype: torch.dtype
) -> Float[Tensor, "n d h w"]:
    """Return a 3×3 convolution by itself; one channel is returned in float32.

    Args:
        x: In any precision, of one channel, or of four or more.
        layer: The convolution.
        dtype: Computed in.
    """
    return _convolved(x, layer, dtype, before=False, after=False)


def block(
    x: Float[Tensor, "n c h w"], first: nn.Conv2d, second: nn.Conv2d, dtype: torch.dtype
) -> Float[Tensor, "n c h w"]:
    """Return x + second(silu(first(silu(x))))."""
    weights = (first.weight, first.bias, second.weight, second.bias)
    out: Tensor = _Block.apply(x.to(dtype), *weights)  # type: ignore[no-untyped-call]
    return out


def _convolved(
    x: Tensor, layer: nn.Conv2d, dtype: torch.dtype, *, before: bool, after: bool
) -> Tensor:
    """Return relu(conv(x)), or conv(x), where x is what another ReLU gave, or is not.

    ReLUs before and after are gone through once each: the gradient in x comes back behind the ReLU
    that gave it, and that in the result is taken to have done so.
    """
    acts = ("relu" if before else "none", "relu" if after else "none")
    y: Tensor = _Convolution.apply(x, layer.weight, layer.bias, dtype, *acts)  # type: ignore[no-untyped-call]
    return y


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


def _forward(x: Tensor, taps: Tensor, bias: Tensor | None, act: Any) -> Tensor:
    """Return act(conv(x) + bias)."""
    from clearice.networks import conv_kernels

    if x.shape[1] == 1:
        return conv_kernels.expand(x, taps, bias, act=act)
    matrices = conv_kernels.pair_matrices(taps)
    return conv_kernels.thick(x, matrices, taps.shape[3], bias, act=act)[0]


def _backward(
    dy: Tensor, taps: Tensor, gate: Tensor, act: Any, add: Tensor | None = None
) -> Tensor:
    """Return conv(dy) · act′(gate) + add, of many channels; of one, nothing can be added."""
    from clearice.networks import conv_kernels

    if dy.shape[1] == 1:
        return conv_kernels.expand(dy, taps, None, gate=gate, gate_act=act)
    matrices, co = conv_kernels.pair_matrices(taps), taps.shape[3]
    return conv_kernels.thick(dy, matrices, co, None, gate=gate, gate_act=act, add=add)[0]


def _of_weights(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a convolution of x in its weights and in its bias."""
    from clearice.networks import conv_kernels

    if x.shape[1] == 1:
        taps, db = conv_kernels.thin_weights(x, dy, 1)
        return _weights(taps[:, :, None]), db
    if dy.shape[1] == 1:
        taps, _ = conv_kernels.thin_weights(dy, x, -1)
        return _weights(taps[..., None]), dy.sum((0, 2, 3))
    taps, db = conv_kernels.thick_weights(x, dy)
    return _weights(taps), db


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, *acts: str
    ) -> Tensor:
        x = x.contiguous() if x.shape[1] == 1 else _last(x.to(dtype))
        ctx.save_for_backward(x, weight)
        ctx.dtype, ctx.before = dtype, acts[0]
        return _forward(x, _taps(weight, dtype), bias, acts[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        one = upstream.shape[1] == 1
        dy, dx = upstream.contiguous() if one else _last(upstream.to(ctx.dtype)), None
        if ctx.needs_input_grad[0]:
            dx = _backward(dy, _adjoint(weight, ctx.dtype), x, ctx.before)
        return dx, *_of_weights(x, dy), None, None, None


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        from clearice.networks import conv_kernels

        x = _last(x)
        active, width = functional.silu(x), x.shape[1]
        first, second = (conv_kernels.pair_matrices(_taps(w, x.dtype)) for w in (w1, w2))
        h, z = conv_kernels.thick(active, first, width, b1, act="silu", keep=True)
        y, _ = conv_kernels.thick(h, second, width, b2, add=x)
        ctx.save_for_backward(x, active, z, h, w1, w2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        x, active, z, h, w1, w2 = ctx.saved_tensors
        dy = _last(upstream)
        dz = _backward(dy, _adjoint(w2, x.dtype), z, "silu")
        dw2, db2 = _of_weights(h, dy)
        dx = _backward(dz, _adjoint(w1, x.dtype), x, "silu", add=dy)
        dw1, db1 = _of_weights(active, dz)
        return dx, dw1, db1, dw2, db2
