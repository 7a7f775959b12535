"""The traffic lights of the card, in one table; docs/science.md says why each limit stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clearice.evaluate.bootstrap import Estimate

Light = Literal["green", "amber", "red", "none"]


@dataclass(frozen=True)
class Limits:
    """Green on the good side of one limit, red beyond another, amber between them.

    Attributes:
        green: Limit of green.
        red: Limit of red.
        high_is_good: Which side is good.
        innocent: Green and amber until the whole interval is on the bad side: for what a faultless
            model does not have, and few pixels cannot exclude.
    """

    green: float
    red: float
    high_is_good: bool
    innocent: bool = False

    def light(self, estimate: Estimate) -> Light:
        """Judge a number: green and red need the whole interval, if there is one."""
        if not math.isfinite(estimate.value):
            return "amber"
        worst, best = estimate.low, estimate.high
        if math.isnan(worst):
            worst = best = estimate.value
        if not self.high_is_good:
            worst, best = best, worst
        if self.innocent:
            worst = best
        sign = 1 if self.high_is_good else -1
        if sign * worst >= sign * self.green:
            return "green"
        return "red" if sign * best < sign * self.red else "amber"


LIMITS: dict[str, Limits] = {
    # Of the correlation with the truth, denoised less raw: below 0 the picture is worse than raw.
    "improvement": Limits(green=0.0, red=0.0, high_is_good=True),
    # A radial filter has 1 but for a few thousandths, which edges and the width of rings make.
    "gain": Limits(green=1.01, red=0.95, high_is_good=True),
    # An empty image has the error 1.
    "error": Limits(green=1.0, red=1.0, high_is_good=False),
    # Of the amplitude; a twentieth is not seen, a fifth is a coarser picture.
    "excess_removal": Limits(green=0.05, red=0.2, high_is_good=False),
    # Removed power over that of the noise; all above 1 was no noise.
    "residual_power": Limits(green=1.02, red=1.1, high_is_good=False, innocent=True),
    # Of the average precision on denoised micrographs, less that on the best low-pass.
    "picking": Limits(green=0.0, red=0.0, high_is_good=True),
    # Of the standard deviation of the picture, which 256 greys spread over 6: one grey is 0.023.
    "seams": Limits(green=0.02, red=0.1, high_is_good=False, innocent=True),
    "checkerboard": Limits(green=0.02, red=0.1, high_is_good=False, innocent=True),
}
