"""Cases for the fused Fourier losses, and their comparison with the plain ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clearice.loss_spec import LossTerm, parse_term
from clearice.losses import bind
from clearice.losses.fused import fourier_terms
from clearice.losses.fused_plan import BIN_TERMS, RING_TERMS

NAMES = (*BIN_TERMS, *RING_TERMS)
SPECS = (
    *NAMES,
    "complex(power=2,low=0.1,high=0.45)",
    "complex(power=0)",
    "phase(low=0.1,high=0.4)",
    "frc(bins=5,high=0.4)",
    "whitened(bins=3,floor=0.1)",
)
MIXED = ("frc(bins=5)", "log-power", "whitened", "phase", "complex", "frc", "amplitude")


def terms_of(*specs: str) -> tuple[LossTerm, ...]:
    return tuple(parse_term(spec) for spec in specs)


def pair(
    shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction, target = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return prediction.requires_grad_(), target


def plain_terms(prediction: Tensor, target: Tensor, terms: Sequence[LossTerm]) -> Tensor:
    return torch.stack([bind(term).function(prediction, target) for term in terms])


def compared(
    prediction: Tensor, target: Tensor, specs: Sequence[str], reference: Tensor | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return values and gradient, fused and plain, of a sum with random factors."""
    terms = terms_of(*specs)
    wide = prediction if reference is None else reference
    plain = plain_terms(wide, target.to(wide), terms)
    fused = fourier_terms(prediction, target, terms)
    factors = torch.rand(plain.shape, generator=torch.Generator().manual_seed(1)).to(plain)
    (expected,) = torch.autograd.grad((factors * plain).sum(), wide)
    (found,) = torch.autograd.grad((factors.to(fused) * fused).sum(), prediction)
    return (fused, found), (plain, expected)


def relative_error(found: Tensor, expected: Tensor) -> float:
    wide = found.detach().double(), expected.detach().double()
    return float((wide[0] - wide[1]).norm() / wide[1].norm())
