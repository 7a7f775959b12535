"""The explicit registry of losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from torch import Tensor

from clearice.errors import UnknownNameError
from clearice.losses.fourier import fourier_log_power
from clearice.losses.pixel import mse


class Verdict(StrEnum):
    """Whether the minimiser against a noisy target is that against the clean one."""

    SAFE = "safe"
    BIASED = "biased"


@dataclass(frozen=True)
class LossInfo:
    """One loss, with what a user must know before using it.

    Attributes:
        function: (prediction, target) → one value a sample.
        formula: In one line.
        verdict: For noisy targets.
        why: The minimiser against a noisy target, in one sentence.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    formula: str
    verdict: Verdict
    why: str


LOSSES: Final[dict[str, LossInfo]] = {
    "mse": LossInfo(
        mse,
        "mean (p − t)²",
        Verdict.SAFE,
        "the minimiser is E[signal | input], the same as with clean targets",
    ),
    "fourier-log-power": LossInfo(
        fourier_log_power,
        "mean over rfft2 bins of (log(1+|F p|²) − log(1+|F t|²))²",
        Verdict.BIASED,
        "where there is no signal it asks for 0.561 of the target's noise power, so the output "
        "keeps noise-like power",
    ),
}


def find_loss(name: str) -> LossInfo:
    """Look a loss up by name.

    Raises:
        UnknownNameError: No such loss; the message lists those there are.
    """
    if name not in LOSSES:
        raise UnknownNameError("loss", name, LOSSES)
    return LOSSES[name]
