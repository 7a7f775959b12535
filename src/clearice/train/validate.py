"""How good is the network on micrographs that it does not train on?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clearice.data import PatchLoader
from clearice.fourier import highpass
from clearice.losses import Objective
from clearice.metrics import snr_db
from clearice.networks import inputs_of
from clearice.seeds import derive_seed
from clearice.train.distributed import ALONE, Ranks
from clearice.train.masking import counted, masked, masked_share
from clearice.types import PatchBatch

_HIGHPASS_ANGSTROM = 400.0
# The same masks in all runs, so that they can be compared.
_MASKS = derive_seed("masks of validation")


@dataclass(frozen=True)
class Validation:
    """Scores on held-out micrographs.

    Attributes:
        mse: Error against the noisy target. Up to a constant, the target's noise, it is the error
            against the truth, so its lowest value marks the best network whatever the loss is. With
            blind spots it is that of hidden pixels, always the same ones.
        parts: Each loss, without its weight.
        correlation: With the unknown truth, above 1/400 Å, from the halves, as
            corr(D, T) / √corr(I, T) (None where there are no halves, or they differ in dose or do
            not correlate).
        snr_db: −10 log₁₀(1 − correlation²).
    """

    mse: float
    parts: dict[str, float]
    correlation: float | None
    snr_db: float | None


@final
class Validator:
    """Scores a network on fixed patches.

    Args:
        loader: Patches of the validation micrographs.
        n_batches: How many batches there are.
        objective: The loss, for its parts.
        pixel_size_angstrom: Å/px.
        comparable: Whether input and target have the same dose and scale.
        blind: Hide pixels of the input, and judge by them alone.
        ranks: Processes that each score a share of the patches.
    """

    def __init__(
        self,
        loader: PatchLoader,
        n_batches: int,
        objective: Objective,
        pixel_size_angstrom: float,
        *,
        comparable: bool,
        blind: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        self._loader = loader
        self._n_batches = n_batches
        self._objective = objective
        self._cutoff = pixel_size_angstrom / _HIGHPASS_ANGSTROM
        self._comparable = comparable
        self._blind = blind

    def cost(self, scores: Validation) -> float:
        """Return what is the lower the better: −correlation, or the error where halves differ."""
        if not self._comparable:
            return scores.mse
        return 1.0 if scores.correlation is None else -scores.correlation

    @torch.no_grad()
    def __call__(self, network: nn.Module, weights: dict[str, Tensor]) -> Validation:
        """Score a network with the given weights."""
        network.eval()
        errors, patches = 0.0, 0
        parts: dict[str, float] = dict.fromkeys(self._objective.weights, 0.0)
        moments = torch.zeros(5, dtype=torch.float64)
        for drawn in self._loader.batches(0, self._n_batches):
            batch, share = self._hidden(drawn, patches) if self._blind else (drawn, 1.0)
            output = functional_call(
                network, weights, inputs_of(network, batch.input, batch.dose)
            ).float()
            output = counted(output, batch)
            n = len(output)
            errors += n / share * float((output - batch.target).square().mean())
            losses = self._objective(output, batch.target, halves=batch.target_halves)
            for name, part in losses.parts.items():
                parts[name] += n / share * float(part)
            if self._comparable:
                moments += self._moments(output, batch.input, batch.target)
            patches += n
        network.train()
        sums = torch.tensor([errors, patches, *parts.values()], dtype=torch.float64)
        totals = self._ranks.sum(torch.cat([moments, sums]))
        moments, (errors, count, *values) = totals[:5], totals[5:].tolist()
        rho = _correlation(moments) if self._comparable else None
        return Validation(
            mse=errors / count,
            parts={name: v / count for name, v in zip(parts, values, strict=True)},
            correlation=rho,
            snr_db=None if rho is None else snr_db(rho),
        )

    def _hidden(self, batch: PatchBatch, before: int) -> tuple[PatchBatch, float]:
        """Mask each patch as always, whichever rank has it; return also the share of its pixels."""
        rank, ranks = self._ranks.place.rank, self._ranks.place.size
        share = masked_share(*batch.input.shape[-2:])
        return masked(batch, _MASKS, rank + ranks * before, ranks), share

    def _moments(self, output: Tensor, noisy: Tensor, target: Tensor) -> Tensor:
        """Return Σ DT, Σ DD, Σ TT, Σ IT, Σ II after the high-pass."""
        d, i, t = (highpass(image, self._cutoff) for image in (output, noisy, target))
        products = (d * t, d * d, t * t, i * t, i * i)
        return torch.stack([product.sum() for product in products]).cpu().double()


def _correlation(moments: Tensor) -> float | None:
    dt, dd, tt, it, ii = moments.tolist()
    if dd <= 0 or it <= 0:
        return None
    rho = dt / math.sqrt(dd * tt) / math.sqrt(it / math.sqrt(ii * tt))
    return min(rho, 0.9999)
