"""Pairs, truth or coordinates → scores: what survived, what was removed, added, or found."""

from clearice.evaluate.cases import Case, match_cases, match_halves
from clearice.evaluate.picking import PickingSettings, score_picking
from clearice.evaluate.score import Scores, score

__all__ = [
    "Case",
    "PickingSettings",
    "Scores",
    "match_cases",
    "match_halves",
    "score",
    "score_picking",
]
