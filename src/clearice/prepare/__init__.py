"""Movies or half-sets in, a data set out."""

from clearice.prepare.dose import DoseRoles, find_roles
from clearice.prepare.pairs import HalfPair, match_pairs
from clearice.prepare.run import prepare_movies, prepare_pairs
from clearice.prepare.split import split

__all__ = [
    "DoseRoles",
    "HalfPair",
    "find_roles",
    "match_pairs",
    "prepare_movies",
    "prepare_pairs",
    "split",
]
