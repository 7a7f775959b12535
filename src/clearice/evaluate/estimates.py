"""From the sums of denoised halves to what they say of the unknown signal.

Each function takes sums over micrographs and returns one value a slot. S is the unknown signal; its
covariance with De is that of De and Ro, because the noise of Ro is independent of De.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.evaluate.half_sums import HalfSums

Values = Float[Tensor, "*draws slots"]


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient; NaN where noise leaves no positive denominator: it may be anything."""
    return torch.where(denominator > 0, numerator / denominator, torch.nan)


def _correlation(covariance: Tensor, powers: Tensor) -> Tensor:
    return _ratio(covariance, powers.clamp(min=0).sqrt())


def truth_correlation(sums: HalfSums) -> Values:
    """Return ρ = Σ De Ro / √(Σ De² Σ Re Ro), for equal halves FRC(De,Ro) / √FRC(Re,Ro).

    Halves need one scale of the signal, but not equal noise.
    """
    return _correlation(sums.seen, sums.denoised * sums.signal)


def raw_correlation(sums: HalfSums) -> Values:
    """Return the correlation of a raw half with the truth, √FRC(Re,Ro)."""
    return _correlation(sums.signal, sums.raw * sums.signal)


def mean_correlation(sums: HalfSums) -> Values:
    """Return the correlation of (De + Do)/2 with the truth."""
    return _correlation(sums.seen, sums.signal * (sums.denoised + sums.both) / 2)


def gain(sums: HalfSums) -> Values:
    """Return FRC(De,Ro) over that of Re, filtered to the power of De ring by ring, with Ro.

    In one ring that is FRC(De,Ro)/FRC(Re,Ro). In a band the plain quotient exceeds 1 for filters
    that favour its better rings; this one is 1 for each radial filter.
    """
    return _ratio(sums.seen, sums.matched)


def transfer(sums: HalfSums) -> Values:
    """Return T = Σ De Ro / Σ Re Ro, the share of the signal's amplitude that is left."""
    return _ratio(sums.seen, sums.signal)


def residual_noise(sums: HalfSums) -> Values:
    """Return (var De − cov(De,Do)) / var S."""
    return _ratio(sums.denoised - sums.both, sums.signal)


def bias(sums: HalfSums) -> Values:
    """Return (cov(De,Do) + var S − 2 cov(De,Ro)) / var S."""
    return _ratio(sums.both + sums.signal - 2 * sums.seen, sums.signal)


def error(sums: HalfSums) -> Values:
    """Return E|De − S|² / var S, residual noise and bias together: 1 for an empty image.

    Source: uMSE of Marcos-Morales et al. 2023, with Re and Ro in the place of two further copies.
    """
    return _ratio(sums.denoised + sums.signal - 2 * sums.seen, sums.signal)


def excess_removal(sums: HalfSums) -> Values:
    """Return ρ² − T: the signal's amplitude that was removed beyond what its uncertainty asks for.

    The mean of all signals that could have been there keeps the share ρ².
    """
    kept = _ratio(sums.seen * sums.seen.abs(), sums.denoised * sums.signal)
    return kept - transfer(sums)


def residual_correlation(sums: HalfSums) -> Values:
    """Return the correlation of what was removed, Re − De, with the truth."""
    return _correlation(sums.signal - sums.seen, _residual(sums) * sums.signal)


def residual_power(sums: HalfSums) -> Values:
    """Return the power of what was removed, Re − De, over that of the noise in Re."""
    return _ratio(_residual(sums), sums.raw - sums.signal)


def _residual(sums: HalfSums) -> Values:
    return sums.raw + sums.denoised - 2 * sums.own


def half_correlation(sums: HalfSums) -> Values:
    """Return FRC(Re,Ro)."""
    return _ratio(sums.signal, sums.raw)


def naive_correlation(sums: HalfSums) -> Values:
    """Return FRC(De,Do), which counts as agreement whatever the network adds to both."""
    return _ratio(sums.both, sums.denoised)


def true_correlation(sums: HalfSums) -> Values:
    """Return the correlation of De with the truth that is given."""
    return _correlation(sums.denoised_truth, sums.denoised * sums.truth)


# Their intervals end at −1 and 1.
CORRELATIONS = (
    truth_correlation,
    raw_correlation,
    mean_correlation,
    residual_correlation,
    half_correlation,
    naive_correlation,
    true_correlation,
)

BY_BAND: dict[str, Callable[[HalfSums], Values]] = {
    "correlation_with_truth": truth_correlation,
    "correlation_with_truth_raw": raw_correlation,
    "gain": gain,
    "signal_transfer": transfer,
    "residual_noise": residual_noise,
    "bias": bias,
    "error": error,
    "excess_removal": excess_removal,
    "residual_correlation": residual_correlation,
    "residual_power": residual_power,
    "half_correlation": half_correlation,
    "naive_frc_denoised_halves": naive_correlation,
}
