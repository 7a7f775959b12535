"""Speed, measured as ratios against a baseline in the same run."""

from clearice.benchmark.run import run

__all__ = ["run"]
