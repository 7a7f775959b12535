"""Losses: one file a family, an explicit registry, each with its Noise2Noise verdict."""

from clearice.losses.binding import BoundLoss, bind, options_of
from clearice.losses.info import LossInfo, Verdict
from clearice.losses.objective import Objective, balancing_scales, weight_at
from clearice.losses.registry import LOSSES, find_loss

__all__ = [
    "LOSSES",
    "BoundLoss",
    "LossInfo",
    "Objective",
    "Verdict",
    "balancing_scales",
    "bind",
    "find_loss",
    "options_of",
    "weight_at",
]
