"""The fused Fourier losses for CUDA, in Triton; importing it fails where Triton is not installed.

The contract, and the formulas, are those of `fused_torch`. Spectra are read as pairs of floats.
Every program writes its own partial sums, so that results do not depend on the order in which
programs run.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from jaxtyping import Complex, Float
from torch import Tensor

from clearice.losses.fused_plan import BIN_TERMS, RING_TERMS, Plan, RingTerm
from clearice.losses.fused_torch import room_for_gradients

_BLOCK: Final = 1024  # bins that a program takes; those of one ring where it sums rings
_CHUNKS: Final = 16  # partial sums of a ring that are added up at a time

_LOG_POWER = tl.constexpr(BIN_TERMS.index("log-power"))
_AMPLITUDE = tl.constexpr(BIN_TERMS.index("amplitude"))
_COMPLEX = tl.constexpr(BIN_TERMS.index("complex"))
_FOURIER_L1 = tl.constexpr(BIN_TERMS.index("fourier-l1"))
_PHASE = tl.constexpr(BIN_TERMS.index("phase"))
_FRC = tl.constexpr(RING_TERMS.index("frc"))


@triton.jit
def _log1p(x):  # type: ignore[no-untyped-def]
    u = 1.0 + x
    return tl.log(u) + (x - (u - 1.0)) / u


@triton.jit  # type: ignore[untyped-decorator]
def _load_bins(at, first, bins, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load BLOCK complex numbers in whole words; return their real and imaginary parts."""
    i = 2 * first + tl.arange(0, 2 * BLOCK)
    return tl.split(tl.reshape(tl.load(at + i, mask=i < 2 * bins, other=0.0), (BLOCK, 2)))


@triton.jit  # type: ignore[untyped-decorator]
def _density(pr, pi, tr, ti, floor, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return what a loss on bins sums."""
    pp = pr * pr + pi * pi
    tt = tr * tr + ti * ti
    if KIND == _LOG_POWER:
        difference = _log1p(pp) - _log1p(tt)
        density = difference * difference
    elif KIND == _AMPLITUDE:
        difference = tl.sqrt(pp) - tl.sqrt(tt)
        density = difference * difference
    elif KIND == _PHASE:
        norm = tl.maximum(tl.sqrt(pp), floor) * tl.maximum(tl.sqrt(tt), floor)
        density = 1.0 - (pr * tr + pi * ti) / norm
    else:
        density = (pr - tr) * (pr - tr) + (pi - ti) * (pi - ti)
        if KIND == _FOURIER_L1:
            density = tl.sqrt(density)
    return density


@triton.jit  # type: ignore[untyped-decorator]
def _slope(pr, pi, tr, ti, floor, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the derivative of that density in the real and in the imaginary part of P."""
    pp = pr * pr + pi * pi
    tt = tr * tr + ti * ti
    if KIND == _LOG_POWER:
        a = 4.0 * (_log1p(pp) - _log1p(tt)) / (1.0 + pp)
        real, imaginary = a * pr, a * pi
    elif KIND == _AMPLITUDE:
        size = tl.sqrt(pp)
        a = tl.where(size > 0, 2.0 * (size - tl.sqrt(tt)) / size, 0.0)
        real, imaginary = a * pr, a * pi
    elif KIND == _PHASE:
        size = tl.maximum(tl.sqrt(pp), floor)
        b = 1.0 / (size * tl.maximum(tl.sqrt(tt), floor))
        cosine = b * (pr * tr + pi * ti)
        a = tl.where(tl.sqrt(pp) >= floor, cosine / (size * size), 0.0)
        real, imaginary = a * pr - b * tr, a * pi - b * ti
    elif KIND == _COMPLEX:
        real, imaginary = 2.0 * (pr - tr), 2.0 * (pi - ti)
    else:
        error = tl.sqrt((pr - tr) * (pr - tr) + (pi - ti) * (pi - ti))
        c = tl.where(error > 0, 1.0 / error, 0.0)
        real, imaginary = c * (pr - tr), c * (pi - ti)
    return real, imaginary


@triton.jit  # type: ignore[untyped-decorator]
def _store_bins(at, first, bins, real, imaginary, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = 2 * first + tl.arange(0, 2 * BLOCK)
    tl.store(at + i, tl.interleave(real, imaginary), mask=i < 2 * bins)


@triton.jit  # type: ignore[untyped-decorator]
def _pass_over_bins(  # type: ignore[no-untyped-def]
    prediction, target, weights, slope_weights, partial, gradients, images, bins, floor,
    KINDS: tl.constexpr, TERMS: tl.constexpr, GRADIENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the losses on bins over one block of one image, and write their gradients there."""
    block = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    first = block * BLOCK
    pr, pi = _load_bins(prediction + 2 * image * bins, first, bins, BLOCK)
    tr, ti = _load_bins(target + 2 * image * bins, first, bins, BLOCK)
    i = first + tl.arange(0, BLOCK)
    for t in tl.static_range(TERMS):
        weight = tl.load(weights + t * bins + i, mask=i < bins, other=0.0)
        density = _density(pr, pi, tr, ti, floor, (KINDS >> (4 * t)) & 15)
        to = (t * images + image) * tl.num_programs(0) + block
        tl.store(partial + to, tl.sum(weight * density, 0))
        if GRADIENTS:
            weight = tl.load(slope_weights + t * bins + i, mask=i < bins, other=0.0)
            real, imaginary = _slope(pr, pi, tr, ti, floor, (KINDS >> (4 * t)) & 15)
            at = gradients + 2 * (t * images + image) * bins
            _store_bins(at, first, bins, weight * real, weight * imaginary, BLOCK)


@triton.jit  # type: ignore[untyped-decorator]
def _sum_rings(  # type: ignore[no-untyped-def]
    prediction, target, order, starts, mirrored, partial, bins, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum powers over one chunk of one ring of one image, whose bins `order` puts side by side."""
    chunk = tl.program_id(0)
    ring = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    start = tl.load(starts + ring) + chunk * BLOCK
    at = start + tl.arange(0, BLOCK)
    inside = at < tl.load(starts + ring + 1)
    i = tl.load(order + at, mask=inside, other=0)
    weight = tl.load(mirrored + at, mask=inside, other=0.0)
    p = prediction + 2 * image * bins + 2 * i
    t = target + 2 * image * bins + 2 * i
    pr = tl.load(p, mask=inside, other=0.0)
    pi = tl.load(p + 1, mask=inside, other=0.0)
    tr = tl.load(t, mask=inside, other=0.0)
    ti = tl.load(t + 1, mask=inside, other=0.0)
    error = (pr - tr) * (pr - tr) + (pi - ti) * (pi - ti)
    quantity = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2)
    to = partial + (image * tl.num_programs(1) + ring) * tl.num_programs(0) + chunk
    tl.store(to, tl.sum(weight * (pr * tr + pi * ti), 0))
    tl.store(to + quantity, tl.sum(weight * (pr * pr + pi * pi), 0))
    tl.store(to + 2 * quantity, tl.sum(weight * (tr * tr + ti * ti), 0))
    tl.store(to + 3 * quantity, tl.sum(weight * error, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _ring_sum(partial, ring, rings, chunks, CHUNKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add up the chunks of each ring."""
    total = tl.zeros_like(ring).to(tl.float32)
    for first in range(0, chunks, CHUNKS):
        chunk = first + tl.arange(0, CHUNKS)
        there = (ring < rings)[:, None] & (chunk < chunks)[None, :]
        at = partial + ring[:, None] * chunks + chunk[None, :]
        total += tl.sum(tl.load(at, mask=there, other=0.0), 1)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _finish_rings(  # type: ignore[no-untyped-def]
    partial, shares, scales, losses, slopes, rings, chunks, floor,
    KIND: tl.constexpr, RINGS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Make of the sums over the rings of one image the loss and its slopes."""
    image = tl.program_id(0)
    quantity = tl.num_programs(0) * rings * chunks
    mine = partial + image * rings * chunks
    ring = tl.arange(0, RINGS)
    share = tl.load(shares + ring, mask=ring < rings, other=0.0)
    scale = tl.load(scales + ring, mask=ring < rings, other=0.0)
    # One beyond the last ring is for bins that are left out: it has no share and gets no slope.
    to = slopes + (image * (rings + 1) + ring) * 2
    if KIND == _FRC:
        cross = scale * _ring_sum(mine, ring, rings, chunks, CHUNKS)
        first = scale * _ring_sum(mine + quantity, ring, rings, chunks, CHUNKS)
        second = scale * _ring_sum(mine + 2 * quantity, ring, rings, chunks, CHUNKS)
        kept = tl.maximum(first, floor)
        norm = tl.sqrt(kept) * tl.sqrt(tl.maximum(second, floor))
        correlation = cross / norm
        loss = share * (1.0 - correlation)
        along = tl.where(first >= floor, share * scale * correlation / kept, 0.0)
        tl.store(to, along, mask=ring <= rings)
        tl.store(to + 1, -share * scale / norm, mask=ring <= rings)
    else:
        error = scale * _ring_sum(mine + 3 * quantity, ring, rings, chunks, CHUNKS) + floor
        loss = share * tl.log(error)
        tl.store(to, 2.0 * share * scale / error, mask=ring <= rings)
    tl.store(losses + image, tl.sum(loss, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _pass_over_rings(  # type: ignore[no-untyped-def]
    prediction, target, index, slopes, gradient, bins, rings,
    KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a loss on rings in one block of one image."""
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK
    pr, pi = _load_bins(prediction + 2 * image * bins, first, bins, BLOCK)
    tr, ti = _load_bins(target + 2 * image * bins, first, bins, BLOCK)
    i = first + tl.arange(0, BLOCK)
    ring = tl.load(index + i, mask=i < bins, other=0)
    at = slopes + (image * (rings + 1) + ring) * 2
    if KIND == _FRC:
        a = tl.load(at)
        b = tl.load(at + 1)
        real, imaginary = a * pr + b * tr, a * pi + b * ti
    else:
        c = tl.load(at)
        real, imaginary = c * (pr - tr), c * (pi - ti)
    _store_bins(gradient + 2 * image * bins, first, bins, real, imaginary, BLOCK)


def evaluate(
    prediction: Complex[Tensor, "m h wf"],
    target: Complex[Tensor, "m h wf"],
    plan: Plan,
    *,
    with_gradients: bool,
) -> tuple[Float[Tensor, "terms m"], Complex[Tensor, "some m h wf"]]:
    """Do what `fused_torch.evaluate` says."""
    on_bins = len(plan.bin_terms)
    gradients = room_for_gradients(prediction, plan, with_gradients=with_gradients)
    spectra = _as_floats(prediction), _as_floats(target)
    losses = spectra[0].new_empty(plan.terms, len(prediction))
    with torch.cuda.device_of(prediction):  # type: ignore[no-untyped-call]
        if plan.bin_terms:
            _losses_on_bins(*spectra, plan, losses[:on_bins], _as_floats(gradients))
        for at, term in enumerate(plan.ring_terms, on_bins):
            gradient = _as_floats(gradients[at]) if with_gradients else None
            _loss_on_rings(*spectra, term, losses[at], gradient)
    return losses, gradients


def _as_floats(spectrum: Tensor) -> Tensor:
    return torch.view_as_real(spectrum.contiguous())


def _losses_on_bins(
    prediction: Tensor, target: Tensor, plan: Plan, losses: Tensor, gradients: Tensor
) -> None:
    terms, images = losses.shape
    bins = plan.weights[0].numel()
    blocks = triton.cdiv(bins, _BLOCK)
    partial = losses.new_empty(terms, images, blocks)
    kinds = sum(BIN_TERMS.index(name) << (4 * at) for at, name in enumerate(plan.bin_terms))
    _pass_over_bins[(blocks, images)](
        prediction, target, plan.weights, plan.slope_weights, partial, gradients,
        images, bins, plan.amplitude_floor, kinds, terms, len(gradients) > 0, _BLOCK,
    )  # fmt: skip
    torch.sum(partial, -1, out=losses)


def _loss_on_rings(
    prediction: Tensor, target: Tensor, term: RingTerm, loss: Tensor, gradient: Tensor | None
) -> None:
    rings, images, bins = len(term.shares), len(prediction), len(term.index)
    chunks, kind = triton.cdiv(term.largest, _BLOCK), RING_TERMS.index(term.name)
    partial = loss.new_empty(4, images, rings, chunks)
    slopes = loss.new_empty(images, rings + 1, 2)
    _sum_rings[(chunks, rings, images)](
        prediction, target, term.order, term.starts, term.mirrored, partial, bins, _BLOCK
    )
    _finish_rings[(images,)](
        partial, term.shares, term.scale, loss, slopes, rings, chunks, term.floor,
        kind, triton.next_power_of_2(rings + 1), _CHUNKS,
    )  # fmt: skip
    if gradient is not None:
        _pass_over_rings[(triton.cdiv(bins, _BLOCK), images)](
            prediction, target, term.index, slopes, gradient, bins, rings, kind, _BLOCK
        )


def probe() -> None:
    """Compile and run a kernel once."""
    with torch.device("cuda"):
        zeros = torch.zeros(16)
        _pass_over_bins[(1, 1)](
            zeros, zeros, zeros, zeros, zeros, zeros, 1, 1, 0.0, 0, 1, False, _BLOCK
        )
