"""Scores → one self-contained HTML page."""

from clearice.report.render import render

__all__ = ["render"]
