"""Losses, networks and any other training settings side by side on one data set."""

from clearice.workflows.compare.run import ComparePlan, plan, run

__all__ = ["ComparePlan", "plan", "run"]
