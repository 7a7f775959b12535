"""The loader's kernel for CUDA, in Triton; importing it fails where Triton is not installed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 32  # a square, so that turned patches are read in whole cache lines too


@triton.jit  # type: ignore[untyped-decorator]
def _gather(pool, where, mix, out, size, PLANES: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    sample = tl.program_id(2)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    first = tl.load(where + 5 * sample)
    rows = tl.load(where + 5 * sample + 1)
    columns = tl.load(where + 5 * sample + 2)
    plane = tl.load(where + 5 * sample + 3)
    planes = tl.load(where + 5 * sample + 4)
    at = pool + first + i * rows + j * columns
    inside = (i < size) & (j < size)
    noisy = tl.zeros([BLOCK, BLOCK], tl.float32)
    target = tl.zeros([BLOCK, BLOCK], tl.float32)
    for k in tl.static_range(PLANES):
        values = tl.load(at + k * plane, mask=inside & (k < planes), other=0.0).to(tl.float32)
        noisy += tl.load(mix + 2 * PLANES * sample + k) * values
        target += tl.load(mix + 2 * PLANES * sample + PLANES + k) * values
    to = out + 2 * size * size * sample.to(tl.int64) + i * size + j
    tl.store(to, noisy, mask=inside)
    tl.store(to + size * size, target, mask=inside)


def gather(
    pool: Float[Tensor, "elements"],
    where: Int[Tensor, "n 5"],
    mix: Float[Tensor, "n 2 planes"],
    size: int,
) -> Float[Tensor, "n 2 size size"]:
    """Do what `clearice.data.assemble.gather` says, reading each pixel once."""
    out = torch.empty(len(where), 2, size, size, device=pool.device)
    blocks = triton.cdiv(size, _BLOCK)
    with torch.cuda.device(pool.device):
        _gather[(blocks, blocks, len(where))](
            pool, where.contiguous(), mix.contiguous(), out, size, mix.shape[2], _BLOCK
        )
    return out
