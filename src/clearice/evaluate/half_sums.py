"""Everything that one micrograph's denoised halves tell, summed over the slots of the spectrum.

Re and Ro are the raw halves, De and Do their denoised versions, S the unknown signal. Each sum is
the mean of both directions. All later estimates are ratios of these sums, so micrographs are
pooled, and resampled, by adding them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.evaluate.artefacts import Artefacts, find_artefacts
from clearice.evaluate.cases import Images
from clearice.evaluate.slots import (
    HIGHPASSED,
    TOTAL,
    Slots,
    Spectrum,
    Sums,
    slots_of,
    spectrum_of,
    taper,
)

SumsOfEach = Float[Tensor, "*micrographs slots"]


@dataclass(frozen=True)
class HalfSums:
    """Sums of products over the slots, of one micrograph or, stacked, of many.

    Attributes:
        signal: Re Σ Re Ro*, whose mean is Σ|S|².
        seen: Re Σ De Ro* and Re Σ Do Re*, whose mean is Re Σ De S*.
        matched: As `signal`, with Re filtered so that each of its rings has the power of De.
        raw: Σ|Re|² and Σ|Ro|².
        denoised: Σ|De|² and Σ|Do|².
        both: Re Σ De Do*.
        own: Re Σ De Re* and Re Σ Do Ro*.
        truth: Σ|S|², NaN if unknown.
        denoised_truth: Re Σ De S*, NaN if S is unknown.
        unbalance: (Σ|Re|² − Σ|Ro|²) / 2.
    """

    signal: SumsOfEach
    seen: SumsOfEach
    matched: SumsOfEach
    raw: SumsOfEach
    denoised: SumsOfEach
    both: SumsOfEach
    own: SumsOfEach
    truth: SumsOfEach
    denoised_truth: SumsOfEach
    unbalance: SumsOfEach

    def weighted(self, weights: Float[Tensor, "draws micrographs"]) -> HalfSums:
        """Return weighted sums over the micrographs, one for each draw."""
        return HalfSums(**{f.name: weights @ getattr(self, f.name) for f in fields(self)})

    def up_to(self, band: int) -> HalfSums:
        """Let the sum over all frequencies end after a band."""
        first = HIGHPASSED.start

        def cut(values: SumsOfEach) -> SumsOfEach:
            values = values.clone()
            values[..., TOTAL] = values[..., first : first + band + 1].sum(-1)
            return values

        return HalfSums(**{f.name: cut(getattr(self, f.name)) for f in fields(self)})

    def total(self) -> HalfSums:
        """Add all micrographs."""
        return HalfSums(**{f.name: getattr(self, f.name).sum(0) for f in fields(self)})


@dataclass(frozen=True)
class Measured:
    """One micrograph: its sums, its artefacts, and the spectra that are compared with others'."""

    sums: HalfSums
    artefacts: Artefacts
    slots: Slots
    raw: tuple[Spectrum, Spectrum]
    denoised: tuple[Spectrum, Spectrum]


def measure(images: Images, tile: int | None = None) -> Measured:
    """Transform the halves of one micrograph and sum over the slots.

    Args:
        images: Both raw halves and both denoised ones (`reference` and `denoised_other` are those
            of the other half); `truth` if it is known.
        tile: Edge of the tiles that were denoised, px, to look for seams.
    """
    assert images.raw is not None
    assert images.reference is not None
    assert images.denoised_other is not None
    slots = slots_of(*images.raw.shape, images.pixel_size_angstrom)
    raw = spectrum_of(images.raw), spectrum_of(images.reference)
    denoised = spectrum_of(images.denoised), spectrum_of(images.denoised_other)
    power = [_power(spectrum) for spectrum in (*raw, *denoised)]
    even, odd, denoised_even, denoised_odd = (slots.sum(p) for p in power)
    unknown = torch.full_like(even, torch.nan)
    truth = denoised_truth = unknown
    if images.truth is not None:
        known = spectrum_of(images.truth)
        truth = slots.sum(_power(known))
        denoised_truth = (slots.cross(denoised[0], known) + slots.cross(denoised[1], known)) / 2
    sums = HalfSums(
        signal=slots.cross(*raw),
        seen=(slots.cross(denoised[0], raw[1]) + slots.cross(denoised[1], raw[0])) / 2,
        matched=_matched(slots, raw, power),
        raw=(even + odd) / 2,
        denoised=(denoised_even + denoised_odd) / 2,
        both=slots.cross(*denoised),
        own=(slots.cross(denoised[0], raw[0]) + slots.cross(denoised[1], raw[1])) / 2,
        truth=truth,
        denoised_truth=denoised_truth,
        unbalance=(even - odd) / 2,
    )
    artefacts = find_artefacts(
        (images.denoised, images.denoised_other),
        power[2:],
        sums.denoised[TOTAL],
        float(taper(*images.raw.shape).square().sum()),
        tile,
    )
    return Measured(sums, artefacts, slots, raw, denoised)


def _power(spectrum: Spectrum) -> Float[Tensor, "h wf"]:
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)


def _matched(
    slots: Slots, raw: tuple[Spectrum, Spectrum], power: Sequence[Float[Tensor, "h wf"]]
) -> Sums:
    """Correlate the halves after the radial filter that has the response of the denoiser."""
    even, odd, denoised_even, denoised_odd = (slots.rings(p) for p in power)
    tiny = torch.finfo(torch.float64).tiny
    response = (denoised_even / even.clamp(min=tiny)).sqrt()
    response = (response + (denoised_odd / odd.clamp(min=tiny)).sqrt()) / 2
    cross = (raw[0].real * raw[1].real).addcmul_(raw[0].imag, raw[1].imag)
    return slots.sum(cross.mul_(response[slots.ring].reshape(cross.shape)))
