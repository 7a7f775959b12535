"""Trained networks written for other programs, and weights of other programs taken in."""

from clearice.export.card import describe
from clearice.export.portable import Portable, trace
from clearice.export.topaz import import_topaz
from clearice.export.write import Format, export_model

__all__ = ["Format", "Portable", "describe", "export_model", "import_topaz", "trace"]
