"""Movies, half-sets or single micrographs in, a data set out."""

from clearice.prepare.convert import convert_flat, describe_flat, is_flat
from clearice.prepare.discover import Inputs, find_inputs, find_pairs, format_discovery
from clearice.prepare.dose import DoseRoles, find_roles
from clearice.prepare.pairs import HalfPair, match_pairs
from clearice.prepare.run import prepare_inputs, prepare_movies, prepare_pairs, prepare_single
from clearice.prepare.single import find_single
from clearice.prepare.split import split

__all__ = [
    "DoseRoles",
    "HalfPair",
    "Inputs",
    "convert_flat",
    "describe_flat",
    "find_inputs",
    "find_pairs",
    "find_roles",
    "find_single",
    "format_discovery",
    "is_flat",
    "match_pairs",
    "prepare_inputs",
    "prepare_movies",
    "prepare_pairs",
    "prepare_single",
    "split",
]
