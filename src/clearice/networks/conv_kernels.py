"""3×3 convolutions of few channels for CUDA, in Triton; importing it fails where that is missing.

Images lie channels-last, so two neighbours of a row and the pixels beside them are 4c values in a
row of memory. A program multiplies such rows, three for the three rows of the kernel, by matrices
of 4c × 2c: weights where a tap lands, zero elsewhere. That reads each pixel six times from cache in
place of nine, in three wide products in place of nine narrow ones, for a third more arithmetic, of
which there is plenty. Biases, activations, their slopes and added images cost no pass of their own.

For c channels and p pixels in bfloat16 the forward pass moves 4cp bytes, the gradient in the input
6cp, that in the weights 4cp. Sums are in float32, in an order that does not depend on timing.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

Activation = Literal["none", "relu", "silu"]

_ROWS: Final = 2
_PAIRS: Final = 64  # of the tile of pixels that a program takes
_SUMMED_PAIRS: Final = 32  # the same, where a program sums over tiles
_SIDE: Final = 16  # of the square tile, where neighbours are gathered one by one
_TAPS: Final = 16  # 9 offsets of a 3×3 kernel, padded to what matrix units take
_NARROW: Final = 16  # fewest columns of a matrix; those that mean nothing are zero
_PROBED_ERROR: Final = 5e-3  # relative: that of rounding to bfloat16 is 2e-3, of TF32 3e-4
_PROGRAMS: Final = 2  # that sum weight gradients, for each multiprocessor


@triton.jit  # type: ignore[untyped-decorator]
def _activate(z, ACT: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACT == "relu":
        z = tl.maximum(z, 0.0)
    if ACT == "silu":
        z = z / (1.0 + tl.exp(-z))
    return z


@triton.jit  # type: ignore[untyped-decorator]
def _slope(z, ACT: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACT == "relu":
        return tl.where(z > 0, 1.0, 0.0)
    share = 1.0 / (1.0 + tl.exp(-z))
    return share * (1.0 + z * (1.0 - share))


@triton.jit  # type: ignore[untyped-decorator]
def _tile(tile, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the image, rows and columns of what a tile holds."""
    across = tl.cdiv(width, COLUMNS)
    in_image = tl.cdiv(height, ROWS) * across
    image, place = tile // in_image, tile % in_image
    item = tl.arange(0, ROWS * COLUMNS)
    rows = place // across * ROWS + item // COLUMNS
    columns = place % across * COLUMNS + item % COLUMNS
    return image.to(tl.int64), rows, columns


@triton.jit  # type: ignore[untyped-decorator]
def _load_run(at, image, rows, start, H, W, C: tl.constexpr, LENGTH: tl.constexpr,  # type: ignore[no-untyped-def]
              WIDTH: tl.constexpr):  # fmt: skip
    """Load LENGTH pixels in a row, all channels, from `start`; what is outside, or more, is 0."""
    k = tl.arange(0, WIDTH)
    column = start[:, None] + (k // C)[None, :]
    inside = ((rows >= 0) & (rows < H))[:, None] & (column >= 0) & (column < W)
    if WIDTH > LENGTH * C:
        inside = inside & (k < LENGTH * C)[None, :]
    offset = (image * H * W + rows * W + start)[:, None] * C + k[None, :]
    return tl.load(at + offset, mask=inside, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _load_taps(at, image, rows, columns, H, W, SIGN: tl.constexpr, TAPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load the 3×3 neighbours of pixels of one channel, as columns; those beyond nine are 0."""
    tap = tl.arange(0, TAPS)
    r = rows[:, None] + SIGN * (tap // 3 - 1)[None, :]
    c = columns[:, None] + SIGN * (tap % 3 - 1)[None, :]
    inside = (r >= 0) & (r < H) & (c >= 0) & (c < W) & (tap < 9)[None, :]
    return tl.load(at + image * H * W + r * W + c, mask=inside, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _finish(acc, bias, gate, add, out, before, offset, inside, channel, BIAS: tl.constexpr,  # type: ignore[no-untyped-def]
            GATE: tl.constexpr, ADD: tl.constexpr, ACT: tl.constexpr,
            BEFORE: tl.constexpr):  # fmt: skip
    """Add a bias, multiply by a slope, add an image, store; activate, store."""
    if BIAS:
        acc += tl.load(bias + channel).to(tl.float32)[None, :]
    if GATE != "none":
        acc *= _slope(tl.load(gate + offset, mask=inside, other=0.0).to(tl.float32), GATE)
    if ADD:
        acc += tl.load(add + offset, mask=inside, other=0.0).to(tl.float32)
    if BEFORE:
        tl.store(before + offset, acc.to(before.dtype.element_ty), mask=inside)
    tl.store(out + offset, _activate(acc, ACT).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _thick(x, weight, bias, gate, add, out, before, H, W, CI: tl.constexpr, CO: tl.constexpr,  # type: ignore[no-untyped-def]
           WIDTH: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr, ADD: tl.constexpr,
           ACT: tl.constexpr, BEFORE: tl.constexpr, ROWS: tl.constexpr,
           PAIRS: tl.constexpr):  # fmt: skip
    """From CI channels to CO, two pixels at a time."""
    image, rows, pairs = _tile(tl.program_id(0), H, tl.cdiv(W, 2), ROWS, PAIRS)
    k, j = tl.arange(0, 4 * CI), tl.arange(0, WIDTH)
    acc = tl.zeros((ROWS * PAIRS, WIDTH), tl.float32)
    for tap_row in range(3):
        a = _load_run(x, image, rows + (tap_row - 1), 2 * pairs - 1, H, W, CI, 4, 4 * CI)
        m = tl.load(weight + (tap_row * 4 * CI + k)[:, None] * WIDTH + j[None, :])
        acc = tl.dot(a, m, acc)
    column = 2 * pairs[:, None] + (j // CO)[None, :]
    inside = (rows < H)[:, None] & (column < W) & (j < 2 * CO)[None, :]
    offset = (image * H * W + rows * W + 2 * pairs)[:, None] * CO + j[None, :]
    _finish(acc, bias, gate, add, out, before, offset, inside, j % CO, BIAS, GATE, ADD, ACT, BEFORE)


@triton.jit  # type: ignore[untyped-decorator]
def _expand(x, weight, bias, gate, out, H, W, C: tl.constexpr, BIAS: tl.constexpr,  # type: ignore[no-untyped-def]
            GATE: tl.constexpr, ACT: tl.constexpr, SIDE: tl.constexpr,
            TAPS: tl.constexpr):  # fmt: skip
    """From one channel to C: one product of the neighbours with the taps."""
    image, rows, columns = _tile(tl.program_id(0), H, W, SIDE, SIDE)
    tap, channel = tl.arange(0, TAPS), tl.arange(0, C)
    m = tl.load(weight + tap[:, None] * C + channel[None, :])
    acc = tl.dot(_load_taps(x, image, rows, columns, H, W, 1, TAPS).to(m.dtype), m)
    inside = ((rows < H) & (columns < W))[:, None]
    offset = (image * H * W + rows * W + columns)[:, None] * C + channel[None, :]
    _finish(acc, bias, gate, bias, out, out, offset, inside, channel, BIAS, GATE, False, ACT, False)


@triton.jit  # type: ignore[untyped-decorator]
def _thick_weights(x, dy, partial, sums, H, W, tiles, CI: tl.constexpr, CO: tl.constexpr,  # type: ignore[no-untyped-def]
                   WIDTH: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr):  # fmt: skip
    """Sum the gradients of those matrices and of the bias over tiles."""
    program, step = tl.program_id(0), tl.num_programs(0)
    above = tl.zeros((4 * CI, WIDTH), tl.float32)
    level = tl.zeros((4 * CI, WIDTH), tl.float32)
    below = tl.zeros((4 * CI, WIDTH), tl.float32)
    bias = tl.zeros((16, WIDTH), tl.float32)
    ones = tl.full((16, ROWS * PAIRS), 1.0, dy.dtype.element_ty)
    for tile in range(program, tiles, step):
        image, rows, pairs = _tile(tile, H, tl.cdiv(W, 2), ROWS, PAIRS)
        g = _load_run(dy, image, rows, 2 * pairs, H, W, CO, 2, WIDTH)
        a = _load_run(x, image, rows - 1, 2 * pairs - 1, H, W, CI, 4, 4 * CI)
        above = tl.dot(tl.trans(a), g, above)
        a = _load_run(x, image, rows, 2 * pairs - 1, H, W, CI, 4, 4 * CI)
        level = tl.dot(tl.trans(a), g, level)
        a = _load_run(x, image, rows + 1, 2 * pairs - 1, H, W, CI, 4, 4 * CI)
        below = tl.dot(tl.trans(a), g, below)
        bias = tl.dot(ones, g, bias)
    k, j = tl.arange(0, 4 * CI), tl.arange(0, WIDTH)
    at = partial + (program * 12 * CI + k)[:, None] * WIDTH + j[None, :]
    tl.store(at, above)
    tl.store(at + 4 * CI * WIDTH, level)
    tl.store(at + 8 * CI * WIDTH, below)
    whole = tl.sum(tl.where((tl.arange(0, 16) == 0)[:, None], bias, 0.0), axis=0)
    tl.store(sums + program * WIDTH + j, whole)


@triton.jit  # type: ignore[untyped-decorator]
def _thin_weights(thin, thick, partial, H, W, tiles, C: tl.constexpr, SIGN: tl.constexpr,  # type: ignore[no-untyped-def]
                  SIDE: tl.constexpr, TAPS: tl.constexpr):  # fmt: skip
    """Sum neighbours of one image times the channels of another over tiles; row 9 is the sum."""
    program, step = tl.program_id(0), tl.num_programs(0)
    tap, channel = tl.arange(0, TAPS), tl.arange(0, C)
    acc = tl.zeros((TAPS, C), tl.float32)
    for tile in range(program, tiles, step):
        image, rows, columns = _tile(tile, H, W, SIDE, SIDE)
        g = _load_run(thick, image, rows, columns, H, W, C, 1, C)
        a = _load_taps(thin, image, rows, columns, H, W, SIGN, TAPS).to(g.dtype)
        a = tl.where((tap == 9)[None, :], 1.0, a).to(g.dtype)
        acc = tl.dot(tl.trans(a), g, acc)
    tl.store(partial + (program * TAPS + tap)[:, None] * C + channel[None, :], acc)


def pair_matrices(taps: Tensor) -> Tensor:
    """Return the matrices that turn runs of four pixels into two: (3, 4 ci, 2 co), contiguous.

    Args:
        taps: (3, 3, ci, co); few output channels give 16 columns, of which the first are used.
    """
    _, _, ci, co = taps.shape
    matrices = taps.new_zeros((3, 4, ci, 2, co))
    matrices[:, :3, :, 0] = taps
    matrices[:, 1:, :, 1] = taps
    return functional.pad(matrices.view(3, 4 * ci, 2 * co), (0, _width(co) - 2 * co))


def _of_pairs(matrices: Tensor, co: int) -> Tensor:
    """Return the gradient in the taps, (3, 3, ci, co), from that in their matrices."""
    blocks = matrices[:, :, : 2 * co].reshape(3, 4, -1, 2, co)
    return blocks[:, :3, :, 0] + blocks[:, 1:, :, 1]


def _width(co: int) -> int:
    """Return the columns of the matrices."""
    return max(2 * co, _NARROW)


def thick(
    x: Tensor,
    matrices: Tensor,
    co: int,
    bias: Tensor | None,
    *,
    gate: Tensor | None = None,
    gate_act: Activation = "none",
    add: Tensor | None = None,
    act: Activation = "none",
    keep: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return y = act(z) and z = (conv(x) + bias) · gate_act′(gate) + add.

    Args:
        x: (n, ci, h, w), channels-last, in half precision.
        matrices: Of `pair_matrices`, in that precision; 4 ci must be 16 or more.
        co: Channels of the output; one channel is returned in float32.
        bias: (co), or none.
        gate: (n, co, h, w), channels-last, or none.
        gate_act: Whose slope multiplies.
        add: Like `gate`.
        act: Of the output.
        keep: Whether z is wanted beside y; else y stands for it.
    """
    _, ci, height, width = x.shape
    out = _image(x, co, torch.float32 if co == 1 else x.dtype)
    before = torch.empty_like(out) if keep else out
    _thick[(_tiles(x, _ROWS, 2 * _PAIRS),)](
        x, matrices, _or(bias, x), _or(gate, x), _or(add, x), out, before, height, width, ci, co,
        _width(co), bias is not None, gate_act, add is not None, act, keep, _ROWS, _PAIRS,
        num_stages=2,
    )  # fmt: skip
    return out, before


def expand(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    *,
    gate: Tensor | None = None,
    gate_act: Activation = "none",
    act: Activation = "none",
) -> Tensor:
    """Return act((conv(x) + bias) · gate_act′(gate)) of one channel.

    Args:
        x: (n, 1, h, w).
        taps: (3, 3, 1, c), in half precision, which the result has.
        bias: (c), or none.
        gate: (n, c, h, w), channels-last, or none.
        gate_act: Whose slope multiplies.
        act: Of the output.
    """
    channels = taps.shape[3]
    weight = functional.pad(taps.reshape(9, channels), (0, 0, 0, _TAPS - 9))
    out = _image(x, channels, taps.dtype)
    _expand[(_tiles(x, _SIDE, _SIDE),)](
        x, weight, _or(bias, x), _or(gate, x), out, *x.shape[2:], channels,
        bias is not None, gate_act, act, _SIDE, _TAPS,
    )  # fmt: skip
    return out


def thick_weights(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of `thick` in its taps (3, 3, ci, co) and bias (co), in float32.

    Args:
        x: Its input.
        dy: The gradient in its output before any activation, channels-last, in half precision.
    """
    tiles, ci, co = _tiles(x, _ROWS, 2 * _SUMMED_PAIRS), x.shape[1], dy.shape[1]
    programs, width = _programs(x, tiles), _width(co)
    partial = x.new_empty((programs, 3, 4 * ci, width), dtype=torch.float32)
    sums = x.new_empty((programs, width), dtype=torch.float32)
    # Loads of the next tile while products of this one run overwrite what these still read: Triton
    # 3.6 on Hopper gave errors of 1 to 10 % in most settings with more than one stage.
    _thick_weights[(programs,)](
        x, dy, partial, sums, *x.shape[2:], tiles, ci, co, width, _ROWS, _SUMMED_PAIRS,
        num_warps=4, num_stages=1,
    )  # fmt: skip
    return _of_pairs(partial.sum(0), co), sums.sum(0)[: 2 * co].view(2, co).sum(0)


def thin_weights(thin: Tensor, thick: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """Return Σ thin[pixel + sign · tap] · thick[pixel] for each tap, (3, 3, c), and Σ thick, (c).

    Args:
        thin: (n, 1, h, w).
        thick: (n, c, h, w), channels-last, in half precision.
        sign: 1 or −1.
    """
    tiles, channels = _tiles(thin, _SIDE, _SIDE), thick.shape[1]
    programs = _programs(thin, tiles)
    partial = thin.new_empty((programs, _TAPS, channels), dtype=torch.float32)
    _thin_weights[(programs,)](
        thin, thick, partial, *thin.shape[2:], tiles, channels, sign, _SIDE, _TAPS
    )
    whole = partial.sum(0)
    return whole[:9].view(3, 3, channels), whole[9]


def probe() -> None:
    """Compile and run kernels as networks do; what fails here would fail later.

    Raises:
        RuntimeError: One gives wrong numbers.
    """
    generator = torch.Generator("cuda").manual_seed(0)
    shape = {"generator": generator, "dtype": torch.bfloat16, "device": "cuda"}
    last = torch.channels_last
    for width in (16, 32):
        images = torch.randn((2, 2, width, 70, 330), **shape)  # type: ignore[call-overload]
        x, dy = (image.contiguous(memory_format=last) for image in images)
        taps = torch.randn((3, 3, width, width), **shape)  # type: ignore[call-overload]
        weight = taps.permute(3, 2, 0, 1).float()
        y = functional.conv2d(x.float(), weight, padding=1)
        _compare(thick(x, pair_matrices(taps), width, None)[0], y, f"{width} channels")
        dw = conv2d_weight(x.float(), weight.shape, dy.float(), padding=1)  # type: ignore[no-untyped-call]
        found = thick_weights(x, dy)[0].permute(3, 2, 0, 1)
        _compare(found, dw, f"{width} channels, gradient in the weights")


def _compare(found: Tensor, expected: Tensor, what: str) -> None:
    error = float((found.float() - expected).norm() / expected.norm())
    if not error < _PROBED_ERROR:
        raise RuntimeError(f"convolutions of {what} are off by {error:.1e}")


def _image(x: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    shape = (len(x), channels, *x.shape[2:])
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel needs an address even for what it does not read."""
    return other if tensor is None else tensor


def _tiles(x: Tensor, rows: int, columns: int) -> int:
    return len(x) * -(-x.shape[2] // rows) * -(-x.shape[3] // columns)


def _programs(x: Tensor, tiles: int) -> int:
    if x.device.type != "cuda":
        return 2  # Triton's interpreter
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    return int(min(tiles, _PROGRAMS * processors))
