"""Pairs or truth → scores: what survived, what was removed, what was added."""

from clearice.evaluate.card import Card, card, find_halves
from clearice.evaluate.cases import Case, match_cases, match_halves
from clearice.evaluate.entries import format_card
from clearice.evaluate.score import Scores, score
from clearice.evaluate.umse import FourWay, four_way

__all__ = [
    "Card",
    "Case",
    "FourWay",
    "Scores",
    "card",
    "find_halves",
    "format_card",
    "four_way",
    "match_cases",
    "match_halves",
    "score",
]
