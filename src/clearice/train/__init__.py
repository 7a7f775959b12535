"""Training: `run` builds, `fit` loops, `step` is the maths."""

from clearice.train.loop import TrainReport, fit, step
from clearice.train.run import CONFIG_NAME, METRICS_NAME, TrainResult, read_metrics, run
from clearice.train.state import TrainState

__all__ = [
    "CONFIG_NAME",
    "METRICS_NAME",
    "TrainReport",
    "TrainResult",
    "TrainState",
    "fit",
    "read_metrics",
    "run",
    "step",
]
