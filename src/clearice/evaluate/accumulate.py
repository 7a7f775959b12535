"""Everything that is summed over Fourier rings for one case; adding pools micrographs.

Any radial filter (Gaussian, Wiener, high-pass) acts on these sums alone, so a scan of filters
costs no further transform.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import reduce

from jaxtyping import Float
from torch import Tensor

from clearice.evaluate.cases import Images
from clearice.fourier import RingSums, ring_frequencies, ring_sums

Rings = Float[Tensor, "rings"]


@dataclass(frozen=True)
class CaseSums:
    """Ring sums between the images of a case; None where an image is missing.

    Attributes:
        n_rings: Rings up to Nyquist; more follow up to the corner.
        pixel_size_angstrom: Å/px.
        raw_reference: (Re, Ro).
        denoised_reference: (De, Ro).
        raw_truth: (Re, S).
        denoised_truth: (De, S).
        denoised_other: (De, Do).
    """

    n_rings: int
    pixel_size_angstrom: float
    raw_reference: RingSums | None
    denoised_reference: RingSums | None
    raw_truth: RingSums | None
    denoised_truth: RingSums | None
    denoised_other: RingSums | None

    @property
    def frequency(self) -> Rings:
        """Middle of each ring, cycles/px, corners included."""
        return ring_frequencies(self.n_rings, corners=True)


def case_sums(images: Images, n_rings: int) -> CaseSums:
    """Transform the images of a case and sum over rings."""

    def sums(x: Tensor | None, y: Tensor | None) -> RingSums | None:
        if x is None or y is None:
            return None
        x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
        return _without_mean(ring_sums(x, y, n_rings, corners=True))

    return CaseSums(
        n_rings,
        images.pixel_size_angstrom,
        sums(images.raw, images.reference),
        sums(images.denoised, images.reference),
        sums(images.raw, images.truth),
        sums(images.denoised, images.truth),
        sums(images.denoised, images.denoised_other),
    )


def _without_mean(sums: RingSums) -> RingSums:
    """Empty the first ring if it holds the mean alone, of which only rounding is left."""
    if float(sums.count[0]) > 1:
        return sums
    for values in (sums.cross, sums.power_x, sums.power_y):
        values[0] = 0
    return sums


def pooled(all_sums: list[CaseSums]) -> CaseSums:
    """Add the sums of all cases."""
    return reduce(_add, all_sums)


def _add(first: CaseSums, second: CaseSums) -> CaseSums:
    """Add each pair of images that both cases have."""
    total: dict[str, RingSums | None] = {}
    for pair in fields(CaseSums):
        one, other = getattr(first, pair.name), getattr(second, pair.name)
        if isinstance(one, RingSums):
            total[pair.name] = None if other is None else one + other
    return replace(first, **total)  # type: ignore[arg-type]


def filtered_correlation(sums: RingSums, filter_x: Rings, window: Rings) -> float:
    """Correlate x, filtered, with y over all pixels, both after `window`.

    Args:
        sums: Of (x, y).
        filter_x: Amplitude factor of x on each ring.
        window: Amplitude factor of both on each ring, for instance a high-pass or a band.
    """
    w = window.square()
    cross = (sums.cross * filter_x * w).sum()
    power = (sums.power_x * filter_x.square() * w).sum() * (sums.power_y * w).sum()
    return float(cross / power.sqrt()) if power > 0 else 0.0


def band_window(frequency: Rings, pixel_size_angstrom: float, low: float, high: float) -> Rings:
    """Return 1 between the resolutions `low` > `high` (Å) and 0 elsewhere."""
    resolution = pixel_size_angstrom / frequency
    return ((resolution <= low) & (resolution > high)).double()
