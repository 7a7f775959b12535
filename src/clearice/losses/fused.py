"""Several Fourier losses at once: each image transformed once, one transform back.

The plain forms in `fourier` and `frc` define the losses; these give the same numbers to rounding,
where no gradient in the target is asked for. Autograd keeps one half-spectrum a loss, and no other
array of that size.

On CUDA, for N bytes of float32 images (16.8 MB for 4 of 1024²), a loss on bins moves 8N for the
transforms (two passes each), 3N for values and gradient, 6N to transform that back (a copy, two
passes) and 2N to scale it: 19N, or 0.075 ms at 4.28 TB/s. A loss on rings reads the spectra twice:
21N. Prediction and target in one call would cost 4N more to put them side by side, and the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from clearice.devices import kernel_or_warning
from clearice.loss_spec import LossTerm
from clearice.losses import fused_torch
from clearice.losses.binding import bind
from clearice.losses.fused_plan import BIN_TERMS, RING_TERMS, Plan, plan_for

Evaluate = Callable[..., tuple[Tensor, Tensor]]
"""Has the contract of `fused_torch.evaluate`."""


def is_fused(term: LossTerm) -> bool:
    """Return whether `fourier_terms` has a fused form of a loss."""
    return term.inner is None and term.name in BIN_TERMS + RING_TERMS


def fourier_terms(
    prediction: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    terms: Sequence[LossTerm],
) -> Float[Tensor, "terms n"]:
    """Return Fourier losses of each sample, in float32 or wider.

    Can be differentiated in the prediction, once, as often as the graph is kept. Where a gradient
    in the target is asked for, the plain forms are taken.

    Args:
        prediction: Of the network; a half-precision one is widened.
        target: On the same scale.
        terms: Losses for which `is_fused` holds.

    Raises:
        ConfigError: An option is unknown or out of range, or leaves no frequency to compare.
    """
    wide = prediction if prediction.dtype.itemsize >= 4 else prediction.float()
    target = target.to(wide.dtype)
    if target.requires_grad and torch.is_grad_enabled():
        return torch.stack([bind(term).function(wide, target) for term in terms])
    n, channels, height, width = wide.shape
    plan = plan_for(tuple(terms), (height, width), wide.device, wide.dtype)
    images = wide.flatten(0, 1), target.flatten(0, 1)
    by_image: Tensor = _FourierTerms.apply(*images, plan)  # type: ignore[no-untyped-call]
    return by_image.view(-1, n, channels).mean(2) if channels > 1 else by_image


class _FourierTerms(torch.autograd.Function):
    """Losses of each image, from images."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor, plan: Plan) -> Tensor:
        spectra = torch.fft.rfft2(prediction), torch.fft.rfft2(target)
        wanted = ctx.needs_input_grad[0]
        losses, gradients = _evaluate(spectra[0])(*spectra, plan, with_gradients=wanted)
        ctx.save_for_backward(gradients)
        ctx.plan = plan  # also for a CUDA graph of this: it reads the tables each time
        return losses if plan.place is None else losses.index_select(0, plan.place)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("fused Fourier losses have no second derivative; take plain ones")
        plan: Plan = ctx.plan
        (gradients,) = ctx.saved_tensors
        factors = upstream if plan.place is None else upstream.index_select(0, plan.order)
        factors = factors[..., None, None]
        if plan.terms == 1:
            return _adjoint(gradients[0], plan).mul_(factors[0]), None, None
        total = gradients[0] * factors[0]
        for gradient, factor in zip(gradients[1:], factors[1:], strict=True):
            torch.view_as_real(total).addcmul_(torch.view_as_real(gradient), factor[..., None])
        return _adjoint(total, plan), None, None


def _adjoint(spectrum: Complex[Tensor, "m h wf"], plan: Plan) -> Float[Tensor, "m h w"]:
    """Undo `rfft2` without its scale: the adjoint, if mirrored bins had half their weight."""
    return torch.fft.irfft2(spectrum, s=(plan.height, plan.width), norm="forward")


def _evaluate(spectrum: Tensor) -> Evaluate:
    """Return what computes on spectra of that kind."""
    kernels = None
    if spectrum.device.type == "cuda" and spectrum.dtype == torch.complex64:
        kernels = _cuda_kernels()
    return fused_torch.evaluate if kernels is None else kernels


@lru_cache(maxsize=1)
def _cuda_kernels() -> Evaluate | None:
    """Return the kernels for CUDA if they can be compiled and run here; else say why not, once."""

    def build() -> Evaluate:
        from clearice.losses import kernels

        kernels.probe()
        return kernels.evaluate

    return kernel_or_warning(build, "Fourier losses are computed")
