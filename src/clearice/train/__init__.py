"""Training: `run` builds, `fit` loops, `step.compute` is the maths."""

from clearice.train.begin import CONFIG_NAME, FREE_ON_RESUME
from clearice.train.distributed import Place, find_place
from clearice.train.general import WorldPlan, run_general
from clearice.train.loop import TrainReport, fit
from clearice.train.presets import plan
from clearice.train.records import METRICS_NAME, read_metrics
from clearice.train.run import TrainResult, check, run
from clearice.train.state import TrainState
from clearice.train.step import EagerStep, GraphedStep, make_step

__all__ = [
    "CONFIG_NAME",
    "FREE_ON_RESUME",
    "METRICS_NAME",
    "EagerStep",
    "GraphedStep",
    "Place",
    "TrainReport",
    "TrainResult",
    "TrainState",
    "WorldPlan",
    "check",
    "find_place",
    "fit",
    "make_step",
    "plan",
    "read_metrics",
    "run",
    "run_general",
]
