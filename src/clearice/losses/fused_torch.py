"""The fused Fourier losses in PyTorch: spectra in, values and gradients out.

P and T are the half-spectra of prediction and target. The gradient of every loss here is
a·P + b·T + c·(P − T) with real a, b and c, functions of the bin or of its ring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from clearice.losses.fused_plan import Plan, RingTerm
from clearice.losses.spectrum import cross_power

_Slopes = Callable[[], dict[str, Tensor]]


def evaluate(
    prediction: Complex[Tensor, "m h wf"],
    target: Complex[Tensor, "m h wf"],
    plan: Plan,
    *,
    with_gradients: bool,
) -> tuple[Float[Tensor, "terms m"], Complex[Tensor, "some m h wf"]]:
    """Return each loss of each image, and its gradient.

    Args:
        prediction: Half-spectra; the gradient takes their place if there is one loss.
        target: Half-spectra.
        plan: What to compute.
        with_gradients: False: there are none.

    Returns:
        Losses in the plan's own order, and for each a half-spectrum whose unnormalised inverse
        transform is the gradient in the image.
    """
    losses = []
    gradients = room_for_gradients(prediction, plan, with_gradients=with_gradients)
    for at, (name, weights) in enumerate(zip(plan.bin_terms, plan.weights, strict=True)):
        density, slopes = _BIN_TERMS[name](prediction, target, plan.amplitude_floor)
        losses.append(density.mul_(weights).sum((1, 2)))
        del density
        if with_gradients:
            by_bin = {key: slope.mul_(plan.slope_weights[at]) for key, slope in slopes().items()}
            _combine(by_bin, prediction, target, gradients[at])
    for at, term in enumerate(plan.ring_terms, len(plan.bin_terms)):
        loss, slopes = _RING_TERMS[term.name](prediction, target, term)
        losses.append(loss)
        if with_gradients:
            by_bin = {key: _spread(slope, term, prediction) for key, slope in slopes().items()}
            _combine(by_bin, prediction, target, gradients[at])
    return torch.stack(losses), gradients


def room_for_gradients(
    prediction: Complex[Tensor, "m h wf"], plan: Plan, *, with_gradients: bool
) -> Complex[Tensor, "some m h wf"]:
    """Return where gradients go: over the prediction's spectrum if there is one."""
    if with_gradients and plan.terms == 1 and prediction.is_contiguous():
        return prediction[None]
    return prediction.new_empty(plan.terms if with_gradients else 0, *prediction.shape)


def _combine(slopes: dict[str, Tensor], prediction: Tensor, target: Tensor, out: Tensor) -> None:
    """Write a·P + b·T + c·(P − T)."""
    if "c" in slopes:
        torch.sub(prediction, target, out=out).mul_(slopes["c"])
        return
    torch.mul(prediction, slopes["a"], out=out)
    if "b" in slopes:
        torch.view_as_real(out).addcmul_(slopes["b"][..., None], torch.view_as_real(target))


def _spread(slopes: Float[Tensor, "m rings"], term: RingTerm, like: Tensor) -> Tensor:
    """Give each bin the slope of its ring; what is left out has none."""
    padded = torch.nn.functional.pad(slopes, (0, 1))
    return padded[:, term.index].view(like.shape)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)


def _error_power(prediction: Tensor, target: Tensor) -> Tensor:
    imaginary = prediction.imag - target.imag
    return (prediction.real - target.real).square_().addcmul_(imaginary, imaginary)


def _log_power(prediction: Tensor, target: Tensor, floor: float) -> tuple[Tensor, _Slopes]:
    power = _power(prediction)
    ratio = power.log1p().sub_(_power(target).log1p_())
    return ratio.square(), lambda: {"a": ratio.mul_(4).div_(power.add_(1))}


def _amplitude(prediction: Tensor, target: Tensor, floor: float) -> tuple[Tensor, _Slopes]:
    size = prediction.abs()
    excess = size - target.abs()

    def slopes() -> dict[str, Tensor]:
        return {"a": excess.mul_(2).div_(size).masked_fill_(size == 0, 0.0)}

    return excess.square(), slopes


def _complex(prediction: Tensor, target: Tensor, floor: float) -> tuple[Tensor, _Slopes]:
    return (
        _error_power(prediction, target),
        lambda: {"c": torch.full_like(prediction.real, 2.0)},
    )


def _fourier_l1(prediction: Tensor, target: Tensor, floor: float) -> tuple[Tensor, _Slopes]:
    error = _error_power(prediction, target).sqrt_()
    slope = error.reciprocal()
    return error, lambda: {"c": slope.masked_fill_(slope.isinf(), 0.0)}


def _phase(prediction: Tensor, target: Tensor, floor: float) -> tuple[Tensor, _Slopes]:
    size = prediction.abs()
    free = size < floor
    size.clamp_(min=floor)
    norm = target.abs().clamp_(min=floor).mul_(size)
    cosine = cross_power(prediction, target).div_(norm)

    def slopes() -> dict[str, Tensor]:
        along = cosine.div_(size).div_(size).masked_fill_(free, 0.0)
        return {"a": along, "b": norm.reciprocal_().neg_()}

    return 1 - cosine, slopes


def _frc(prediction: Tensor, target: Tensor, term: RingTerm) -> tuple[Tensor, _Slopes]:
    first, second = _ring_mean(term, _power(prediction)), _ring_mean(term, _power(target))
    kept = first.clamp(min=term.floor)
    norm = kept.sqrt() * second.clamp(min=term.floor).sqrt()
    correlation = _ring_mean(term, cross_power(prediction, target)) / norm

    def slopes() -> dict[str, Tensor]:
        share = term.shares * term.scale
        along = (share * correlation / kept).masked_fill_(first < term.floor, 0.0)
        return {"a": along, "b": -share / norm}

    return ((1 - correlation) * term.shares).sum(1), slopes


def _whitened(prediction: Tensor, target: Tensor, term: RingTerm) -> tuple[Tensor, _Slopes]:
    error = _ring_mean(term, _error_power(prediction, target)) + term.floor
    return (
        (error.log() * term.shares).sum(1),
        lambda: {"c": 2 * term.shares * term.scale / error},
    )


def _ring_mean(term: RingTerm, values: Float[Tensor, "m h wf"]) -> Float[Tensor, "m rings"]:
    return term.rings.mean(values[:, None])[:, 0]


_BIN_TERMS: Final[dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, _Slopes]]]] = {
    "log-power": _log_power,
    "amplitude": _amplitude,
    "complex": _complex,
    "fourier-l1": _fourier_l1,
    "phase": _phase,
}
_RING_TERMS: Final[dict[str, Callable[[Tensor, Tensor, RingTerm], tuple[Tensor, _Slopes]]]] = {
    "frc": _frc,
    "whitened": _whitened,
}
