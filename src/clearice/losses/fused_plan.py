"""What the fused Fourier losses must know beforehand: weights of bins and tables of rings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearice.fourier import half_spectrum_weights
from clearice.loss_spec import LossTerm
from clearice.losses.binding import bind, options_of
from clearice.losses.registry import find_loss
from clearice.losses.spectrum import (
    AMPLITUDE_FLOOR,
    CORNER,
    NO_MEAN,
    Rings,
    bin_shares,
    rings_of,
)

BIN_TERMS: Final = ("log-power", "amplitude", "complex", "fourier-l1", "phase")
"""Losses that are a weighted sum over bins of a function of F p and F t there."""

RING_TERMS: Final = ("frc", "whitened")
"""Losses that are a weighted sum over rings of a function of the ring's mean powers."""


@dataclass(frozen=True, eq=False)
class RingTerm:
    """One loss on rings.

    Attributes:
        name: In `RING_TERMS`.
        rings: Which bins they hold.
        index: Ring of each bin of the flat half-spectrum; the number of rings where it is left out.
        scale: Share of a bin of the full spectrum in the mean over its ring, over the pixels.
        shares: Of each ring in the sum.
        floor: Least power that `frc` divides by; what `whitened` adds to the residual's.
        order: Bins of the flat half-spectrum, ring by ring.
        starts: Where each ring begins in that order, and where the last one ends.
        mirrored: How often each bin stands in the full spectrum, in that order.
        largest: Bins of the ring that has the most.
    """

    name: str
    rings: Rings
    index: Int[Tensor, "bins"]
    scale: Float[Tensor, "rings"]
    shares: Float[Tensor, "rings"]
    floor: float
    order: Int[Tensor, "kept"]
    starts: Int[Tensor, "ends"]
    mirrored: Float[Tensor, "kept"]
    largest: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Losses on patches of one shape, those on bins before those on rings.

    Attributes:
        height: Of the patch, px.
        width: Of the patch, px.
        bin_terms: Names.
        weights: Of each stored bin in each of them.
        slope_weights: The same of a bin of the full spectrum, which the inverse transform counts.
        ring_terms: With their tables.
        order: Which of the losses that were asked for stands at each place.
        place: Where each loss that was asked for stands; None: `order` changes nothing.
    """

    height: int
    width: int
    bin_terms: tuple[str, ...]
    weights: Float[Tensor, "terms h wf"]
    slope_weights: Float[Tensor, "terms h wf"]
    ring_terms: tuple[RingTerm, ...]
    order: Int[Tensor, "all_terms"]
    place: Int[Tensor, "all_terms"] | None

    @property
    def terms(self) -> int:
        """How many losses there are."""
        return len(self.bin_terms) + len(self.ring_terms)

    @property
    def amplitude_floor(self) -> float:
        """Amplitude below which `phase` does not normalise, of the unnormalised spectrum."""
        return AMPLITUDE_FLOOR * math.sqrt(self.height * self.width)


@lru_cache(maxsize=32)
def plan_for(
    terms: tuple[LossTerm, ...], shape: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Plan:
    """Prepare losses for patches of one shape.

    Args:
        terms: Each with a name of `BIN_TERMS` or `RING_TERMS`.
        shape: Height and width of the patch, px.
        device: Of the tables.
        dtype: Of the tables.

    Raises:
        ConfigError: An option is unknown or out of range, or leaves no frequency to compare.
    """
    height, width = shape
    order = sorted(range(len(terms)), key=lambda at: terms[at].name in RING_TERMS)
    on_bins = [term for term in terms if term.name in BIN_TERMS]
    on_rings = [term for term in terms if term.name in RING_TERMS]
    # Tables that are first made while validating must serve training too.
    with torch.inference_mode(False):
        weights = torch.zeros(len(on_bins), height, width // 2 + 1, device=device, dtype=dtype)
        for table, term in zip(weights, on_bins, strict=True):
            table.copy_(_bin_weights(term, shape, device, dtype))
        return Plan(
            height,
            width,
            tuple(term.name for term in on_bins),
            weights,
            weights / half_spectrum_weights(width, weights),
            tuple(_ring_term(term, shape, device, dtype) for term in on_rings),
            torch.tensor(order, device=device),
            torch.tensor(order, device=device).argsort() if order != sorted(order) else None,
        )


def _options(term: LossTerm) -> dict[str, float | int]:
    bind(term)  # refuses what is not right
    given = dict(term.options)
    defaults = options_of(find_loss(term.name))
    return {name: type(value)(given.get(name, value)) for name, value in defaults.items()}


def _bin_weights(
    term: LossTerm, shape: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "h wf"]:
    height, width = shape
    options = _options(term)
    if term.name == "log-power":
        bins = height * (width // 2 + 1)
        return torch.full((height, width // 2 + 1), 1 / bins, device=device, dtype=dtype)
    scales = {"phase": 1.0, "fourier-l1": 1 / math.sqrt(height * width)}
    low = max(options["low"], NO_MEAN) if term.name == "phase" else options.get("low", 0.0)
    shares = bin_shares(
        shape,
        device,
        dtype,
        exponent=options.get("power", 0.0),
        low=low,
        high=options.get("high", CORNER),
    )
    return shares * scales.get(term.name, 1 / (height * width))


def _ring_term(
    term: LossTerm, shape: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> RingTerm:
    options = _options(term)
    bins = int(options["bins"])
    if term.name == "frc":
        rings = rings_of(shape, device, dtype, bins=bins, high=options["high"])
        return _with_tables("frc", rings, rings.even_shares, AMPLITUDE_FLOOR**2, shape)
    rings = rings_of(shape, device, dtype, bins=bins, low=0.0, high=CORNER)
    return _with_tables("whitened", rings, rings.shares, options["floor"], shape)


def _with_tables(
    name: str, rings: Rings, shares: Float[Tensor, "rings"], floor: float, shape: tuple[int, int]
) -> RingTerm:
    index = rings.index.where(rings.weights > 0, len(shares))
    mirrored = half_spectrum_weights(shape[1], rings.weights).expand(shape[0], -1).flatten()
    scale = shares.new_zeros(len(shares) + 1)
    scale = scale.scatter_reduce_(0, index, rings.weights / mirrored, "amax")[:-1]
    counts = torch.bincount(index, minlength=len(shares) + 1)[:-1]
    order = index.argsort(stable=True)[: int(counts.sum())]
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return RingTerm(
        name,
        rings,
        index.int(),
        scale,
        shares,
        floor,
        order.int(),
        starts.int(),
        mirrored[order],
        int(counts.max()),
    )
