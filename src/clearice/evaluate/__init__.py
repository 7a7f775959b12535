"""Pairs, truth or coordinates → scores: what survived, what was removed, added, or found."""

from clearice.evaluate.card import Card, card, find_halves
from clearice.evaluate.cases import Case, match_cases, match_halves
from clearice.evaluate.classic import MISSING, is_installed
from clearice.evaluate.crops import score_crops
from clearice.evaluate.ctf import score_ctf
from clearice.evaluate.entries import format_card
from clearice.evaluate.picking import PickingSettings, score_picking
from clearice.evaluate.score import Scores, score
from clearice.evaluate.thon import Optics
from clearice.evaluate.umse import FourWay, four_way

__all__ = [
    "MISSING",
    "Card",
    "Case",
    "FourWay",
    "Optics",
    "PickingSettings",
    "Scores",
    "card",
    "find_halves",
    "format_card",
    "four_way",
    "is_installed",
    "match_cases",
    "match_halves",
    "score",
    "score_crops",
    "score_ctf",
    "score_picking",
]
