"""Do the halves hold the same dose? If not, the smaller one is always the input."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from clearice.fourier import ring_sums
from clearice.metrics import Colours, colours, rings_between

_SCALE_BAND_ANGSTROM = (300.0, 50.0)
_UNEQUAL_DOSE = 1.25


@dataclass(frozen=True)
class PairStatistics:
    """What one pair says of its doses.

    Attributes:
        colours: Power in the signal band over that near Nyquist, of both images.
        slopes: Least-squares scale from the second image's signal to the first's, and from the
            first's to the second's, after each was divided by its own standard deviation. Noise in
            the image that is scaled pulls its slope down, so the better image must be scaled.
    """

    colours: Colours
    slopes: tuple[float, float]


@dataclass(frozen=True)
class DoseRoles:
    """How the two images of each pair may be used.

    Attributes:
        equal: Either may be input or target.
        swapped: The second pattern has the lower dose, so it is the input.
        dose_ratio: Dose of the target over that of the input; 1 if equal, else given or estimated.
        target_gain: Signal scale of the normalised input over that of the normalised target.
        reason: One line for the user.
    """

    equal: bool = True
    swapped: bool = False
    dose_ratio: float = 1.0
    target_gain: float = 1.0
    reason: str = ""


def pair_statistics(groups: Float[Tensor, "2 h w"], pixel_size_angstrom: float) -> PairStatistics:
    """Measure the colour of both images and the scale between their signals."""
    first, second = (group - group.mean() for group in groups.double())
    n_rings = min(groups.shape[-2:]) // 2
    sums = ring_sums(first / first.std(), second / second.std(), n_rings)
    scale = rings_between(n_rings, pixel_size_angstrom, _SCALE_BAND_ANGSTROM)
    cross = sums.cross[scale].sum()
    return PairStatistics(
        colours(sums, n_rings, pixel_size_angstrom),
        (float(cross / sums.power_y[scale].sum()), float(cross / sums.power_x[scale].sum())),
    )


def find_roles(pairs: Sequence[PairStatistics], dose_ratio: float | None) -> DoseRoles:
    """Decide from all pairs together whether the doses are equal, and if not which is the input.

    Args:
        pairs: Statistics of each pair, at least one.
        dose_ratio: Dose of the second image over that of the first, if the user knows it.
    """
    seen = Colours(
        statistics.median(pair.colours.x for pair in pairs),
        statistics.median(pair.colours.y for pair in pairs),
        sum(pair.colours.samples for pair in pairs),
    )
    text = f"low- to high-frequency power {seen.x:.1f} and {seen.y:.1f}"
    if dose_ratio is None:
        estimate, equal = seen.dose_ratio, seen.equal_dose
        ratio = f"{estimate:.0f}" if estimate > 1 else f"1/{1 / estimate:.0f}"
        reason = f"{text}: {'equal dose' if equal else f'unequal dose, ratio about {ratio}'}"
    else:
        estimate = dose_ratio
        equal = max(dose_ratio, 1 / dose_ratio) < _UNEQUAL_DOSE
        reason = f"dose ratio {dose_ratio:g} as given ({text})"
    if equal:
        return DoseRoles(reason=f"{reason}; either half may be input or target")
    swapped = estimate < 1
    gain = statistics.median(pair.slopes[swapped] for pair in pairs)
    which = "second" if swapped else "first"
    return DoseRoles(
        equal=False,
        swapped=swapped,
        dose_ratio=max(estimate, 1 / estimate),
        target_gain=min(max(gain, 1e-3), 1e3) if math.isfinite(gain) else 1.0,
        reason=f"{reason}; the {which} pattern is always the input",
    )
