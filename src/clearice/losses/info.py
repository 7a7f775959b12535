"""What a user must know of a loss before using it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor


class Verdict(StrEnum):
    """Whether the minimiser against a noisy target is that against the clean one.

    Attributes:
        SAFE: It is.
        NEAR_SAFE: It is for symmetric noise, or up to a small bias that `LossInfo.why` names.
        DIRECTION: It is up to a free amplitude, which another loss must fix.
        BIASED: It is not.
    """

    SAFE = "safe"
    NEAR_SAFE = "near-safe"
    DIRECTION = "direction"
    BIASED = "biased"


@dataclass(frozen=True)
class LossInfo:
    """One loss, with what a user must know before using it.

    Attributes:
        function: (prediction, target or targets) → one value a sample; options by keyword.
        formula: In one line.
        source: Paper or equation.
        verdict: For noisy targets; of a loss that wraps another, what it makes of a safe one.
        why: The minimiser against a noisy target, in one sentence.
        instead: What to use instead or beside it, where the verdict is not safe.
        free: What its minimiser leaves free, so that another loss must stand beside it.
        targets: How many independent targets it takes.
        wraps: Whether it stands around another loss.
        spans: What it compares that is larger than a pixel, so that it cannot be counted at some
            pixels alone; empty: it is a mean over pixels, each 0 where nothing differs.
    """

    function: Callable[..., Tensor]
    formula: str
    source: str
    verdict: Verdict
    why: str
    instead: str = ""
    free: str = ""
    targets: int = 1
    wraps: bool = False
    spans: str = "more than single pixels"
