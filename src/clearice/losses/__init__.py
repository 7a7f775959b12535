"""Losses: one file a family, an explicit registry, each with its Noise2Noise verdict."""

from clearice.losses.objective import Objective
from clearice.losses.registry import LOSSES, LossInfo, Verdict, find_loss

__all__ = ["LOSSES", "LossInfo", "Objective", "Verdict", "find_loss"]
