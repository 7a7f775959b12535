"""Pairs or truth → scores: what survived, what was removed, what was added."""

from clearice.evaluate.cases import Case, match_cases, match_halves
from clearice.evaluate.score import Scores, score

__all__ = ["Case", "Scores", "match_cases", "match_halves", "score"]
