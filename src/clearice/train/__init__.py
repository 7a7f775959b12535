"""Training: `run` builds, `fit` loops, `step.compute` is the maths."""

from clearice.train.loop import TrainReport, fit
from clearice.train.run import CONFIG_NAME, METRICS_NAME, TrainResult, read_metrics, run
from clearice.train.state import TrainState
from clearice.train.step import EagerStep, GraphedStep, make_step

__all__ = [
    "CONFIG_NAME",
    "METRICS_NAME",
    "EagerStep",
    "GraphedStep",
    "TrainReport",
    "TrainResult",
    "TrainState",
    "fit",
    "make_step",
    "read_metrics",
    "run",
]
