"""What all micrographs share: the fixed pattern of the detector, which halves take for signal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from clearice.evaluate.half_sums import HalfSums, Measured
from clearice.evaluate.slots import (
    BESIDE_COLUMNS,
    BESIDE_ROWS,
    COLUMNS,
    FAST,
    LOWEST_NEAR_NYQUIST,
    N_SLOTS,
    NEAR_NYQUIST,
    ROWS,
    Slots,
    Sums,
)

SIGMAS = 5.0
BETWEEN_LIMIT, NYQUIST_LIMIT, STRIPES_LIMIT = 0.005, 0.01, 0.1
# Halves of one micrograph show no signal finer than 4 Å; with larger pixels than this they may
# share signal between 0.4 and 0.5 cycles/px.
_NO_SIGNAL_ANGSTROM = 4.0


@dataclass(frozen=True)
class Share:
    """A correlation that independent noise would not have.

    Attributes:
        value: NaN where it cannot be measured.
        error: Its standard error if there is no pattern.
        limit: Above which it is flagged, if it is also five standard errors above 0.
        conclusive: No signal can be the reason.
    """

    value: float
    error: float
    limit: float
    conclusive: bool = True

    @property
    def significant(self) -> bool:
        """Whether it is more than chance."""
        return self.value > SIGMAS * self.error

    @property
    def flagged(self) -> bool:
        """Whether it is more than chance, and enough to spoil what halves say."""
        return self.conclusive and self.significant and self.value > self.limit


class Shared:
    """Adds up spectra over micrographs, so that each half can be compared with the other ones.

    Σ over i ≠ j of Re_i Ro_j* is (Σ Re)(Σ Ro)* without the terms of i = j, so all pairs cost no
    more than the micrographs. Those of another size than the first one are left out.
    """

    def __init__(self) -> None:
        self.count = 0
        self._slots: Slots | None = None
        self._raw: list[Complex[Tensor, "h wf"]] = []
        self._denoised: list[Complex[Tensor, "h wf"]] = []
        self._same = torch.zeros(2, N_SLOTS, dtype=torch.float64)

    def add(self, measured: Measured) -> None:
        """Take in one micrograph."""
        if self._slots is None:
            self._slots = measured.slots
            self._raw = [torch.zeros_like(s, dtype=torch.complex64) for s in measured.raw]
            self._denoised = [torch.zeros_like(total) for total in self._raw]
        if measured.raw[0].shape != self._raw[0].shape:
            return
        totals, spectra = (*self._raw, *self._denoised), (*measured.raw, *measured.denoised)
        for total, spectrum in zip(totals, spectra, strict=True):
            total.add_(spectrum)
        self._same += torch.stack([measured.sums.signal, measured.sums.seen])
        self.count += 1

    def between(self) -> tuple[Sums, Sums]:
        """Return the mean over pairs of different micrographs of Re Ro*, and of De Ro*.

        They are the power of what all raw images share, and what the denoised ones kept of it.
        """
        assert self._slots is not None
        pairs = self.count * (self.count - 1)
        if not pairs:
            nothing = torch.full((N_SLOTS,), torch.nan, dtype=torch.float64)
            return nothing, nothing
        even, odd = (total.to(torch.complex128) for total in self._raw)
        denoised_even, denoised_odd = (total.to(torch.complex128) for total in self._denoised)
        raw = self._slots.cross(even, odd)
        seen = (self._slots.cross(denoised_even, odd) + self._slots.cross(denoised_odd, even)) / 2
        return (raw - self._same[0]) / pairs, (seen - self._same[1]) / pairs


@dataclass(frozen=True)
class Pattern:
    """What the halves share that is no specimen.

    Attributes:
        between: Correlation of halves of different micrographs, at fine detail.
        near_nyquist: Correlation of the halves of a micrograph where there is hardly any signal.
        rows: Correlation of row means of the halves, above that beside the axis of the spectrum.
        columns: The same of column means.
        leakage: Share of what De and Ro have in common at fine detail that is pattern.
    """

    between: Share
    near_nyquist: Share
    rows: Share
    columns: Share
    leakage: float

    @property
    def shares(self) -> dict[str, Share]:
        """By name."""
        return {
            "between_micrographs": self.between,
            "near_nyquist": self.near_nyquist,
            "row_means": self.rows,
            "column_means": self.columns,
        }

    @property
    def flagged(self) -> bool:
        """Whether any of them is too much."""
        return any(share.flagged for share in self.shares.values())


def find_pattern(
    total: HalfSums, count: Float[Tensor, "slots"], shared: Shared, pixel_size_angstrom: float
) -> Pattern:
    """Measure the fixed pattern.

    Args:
        total: Sums over all micrographs.
        count: Independent pixels in each slot, over all micrographs.
        shared: Of the same micrographs.
        pixel_size_angstrom: Å/px.
    """
    correlation = total.signal / total.raw
    error = count.rsqrt()
    micrographs = max(shared.count, 1)
    pixels = float(count[FAST]) / micrographs
    raw, denoised = shared.between()
    pairs = shared.count * (shared.count - 1)
    between = Share(
        float(raw[FAST] / (total.raw[FAST] / micrographs)),
        1 / math.sqrt(pixels * pairs) if pairs else math.nan,
        BETWEEN_LIMIT,
    )
    leaked = float(denoised[FAST] * micrographs / total.seen[FAST])

    def axis(on: int, beside: int) -> Share:
        value = float(correlation[on] - correlation[beside])
        return Share(value, math.hypot(float(error[on]), float(error[beside])), STRIPES_LIMIT)

    nyquist = Share(
        float(correlation[NEAR_NYQUIST]),
        float(error[NEAR_NYQUIST]),
        NYQUIST_LIMIT,
        conclusive=pixel_size_angstrom / LOWEST_NEAR_NYQUIST <= _NO_SIGNAL_ANGSTROM,
    )
    rows, columns = axis(ROWS, BESIDE_ROWS), axis(COLUMNS, BESIDE_COLUMNS)
    return Pattern(between, nyquist, rows, columns, leaked)
