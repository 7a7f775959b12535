"""Scores → one self-contained HTML page."""

from clearice.report.comparison import render_comparison
from clearice.report.render import render

__all__ = ["render", "render_comparison"]
