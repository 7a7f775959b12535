"""How the learning rate goes, and what waits for validations to get better."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clearice.config import TrainConfig

# Of one-cycle, as in PyTorch's: the share of the steps in which the rate rises, and where it starts
# and ends as shares of the peak.
_RISE = 0.3
_START = 1 / 25
_END = 1 / 25e4


@dataclass
class Patience:
    """Waits for a score to fall.

    Attributes:
        best: Lowest score so far.
        waited: Scores since then, or since patience was last lost.
        lost: How often it was.
    """

    best: float = math.inf
    waited: int = 0
    lost: int = 0

    def heed(self, score: float, patience: int) -> bool:
        """Take a score, and tell whether more than so many in a row were no better."""
        if score < self.best:
            self.best, self.waited = score, 0
            return False
        self.waited += 1
        if self.waited <= patience:
            return False
        self.waited = 0
        self.lost += 1
        return True


def learning_rate(step: int, total: int, config: TrainConfig, reductions: int = 0) -> float:
    """Return the learning rate of a step: a linear warm-up, then what the schedule says.

    One-cycle rises in its own way, over 30 % of the steps along half a cosine.

    Args:
        step: Steps taken before it.
        total: Steps of the whole run.
        config: Peak, schedule, warm-up and decay.
        reductions: How often validation stood still, for the schedule `plateau`.

    Source: one-cycle after Smith & Topin, Super-Convergence (2018), in the form of
    `torch.optim.lr_scheduler.OneCycleLR`.
    """
    if config.schedule == "one-cycle":
        return config.learning_rate * _one_cycle(step, total)
    warmup = max(1, round(config.warmup_fraction * total))
    fallen = config.decay_factor**reductions
    if step < warmup:
        return config.learning_rate * fallen * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if config.schedule == "cosine":
        return config.learning_rate * _half_cosine(1.0, 0.0, done)
    if config.schedule == "step":
        # The division may fall short of a whole number by rounding.
        drops = int(done / config.decay_every + 1e-9)
        return config.learning_rate * config.decay_factor**drops
    return config.learning_rate * fallen


def _one_cycle(step: int, total: int) -> float:
    top = max(1.0, _RISE * total - 1)
    if step <= top:
        return _half_cosine(_START, 1.0, step / top)
    return _half_cosine(1.0, _END, min(1.0, (step - top) / max(1.0, total - 1 - top)))


def _half_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
