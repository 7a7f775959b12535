"""The training loop: validate, report, save, and stop when asked."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clearice.config import TrainConfig
from clearice.data import PatchLoader
from clearice.errors import TrainingDivergedError, TrainingInterruptedError
from clearice.losses import Objective
from clearice.train.state import TrainState, learning_rate
from clearice.train.step import make_step
from clearice.train.validate import Validation, Validator
from clearice.types import LossOutput, PatchBatch


@dataclass(frozen=True)
class TrainReport:
    """What happened since the last report.

    Attributes:
        step: Optimiser steps taken.
        total: Steps of the whole run.
        loss: Mean weighted loss.
        parts: Mean of each loss without its weight.
        weighted: Mean of each loss as it counts in the sum.
        gradient_norms: Norm of the gradient of each weighted loss in the prediction, of the last
            step, when they are asked for.
        learning_rate: At this step.
        patches_per_second: Training pairs per second.
        seconds: Time spent training.
        validation: Scores on held-out micrographs, when they were taken.
    """

    step: int
    total: int
    loss: float
    parts: dict[str, float]
    weighted: dict[str, float]
    gradient_norms: dict[str, float] | None
    learning_rate: float
    patches_per_second: float
    seconds: float
    validation: Validation | None


@dataclass(frozen=True)
class FitHooks:
    """What the loop calls: `report` at each interval, `save(is_best)` when state must survive, and
    `tick(done, total)` after each step, which must cost nothing.
    """

    report: Callable[[TrainReport], None]
    save: Callable[[bool], None]
    tick: Callable[[int, int], None]


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop sees between two steps."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Meter:
    """Sums losses on the device, so that the loop waits for it only when it reports."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._names: list[str] = []
        self._steps = 0

    def add(self, output: LossOutput) -> None:
        self._names = list(output.parts)
        values = [output.total.detach(), *output.parts.values(), *output.weighted.values()]
        stacked = torch.stack(values)
        self._sums = stacked if self._sums is None else self._sums + stacked
        self._steps += 1

    def means(self) -> tuple[float, dict[str, float], dict[str, float]]:
        """Return the total, the parts, and the weighted parts."""
        assert self._sums is not None
        total, *rest = (self._sums / self._steps).tolist()
        half = len(self._names)
        parts, weighted = rest[:half], rest[half:]
        return (
            total,
            dict(zip(self._names, parts, strict=True)),
            dict(zip(self._names, weighted, strict=True)),
        )


def fit(
    state: TrainState,
    loader: PatchLoader,
    validator: Validator | None,
    objective: Objective,
    config: TrainConfig,
    total: int,
    hooks: FitHooks,
) -> None:
    """Train until `total` steps are done.

    Args:
        state: Changed in place; starts anywhere.
        loader: Training pairs.
        validator: Scores on held-out micrographs, if there are any.
        objective: The loss.
        config: How to train.
        total: Steps of the whole run.
        hooks: Reports and saves.

    Raises:
        TrainingDivergedError: The loss is not finite.
        TrainingInterruptedError: Ctrl-C or SIGTERM, after the state was saved.
    """
    step = make_step(state, objective, config, total)
    interval = max(1, total // config.validations)
    meter, mark, first, saved = _Meter(), time.monotonic(), state.step, time.monotonic()
    with _stop_requests() as stop:
        for batch in loader.batches(state.step, total):
            output = step(batch)
            meter.add(output)
            hooks.tick(state.step, total)
            at_interval = state.step % interval == 0 or state.step == total
            due = time.monotonic() - saved > config.checkpoint_seconds
            if not (at_interval or due or stop.is_set()):
                continue
            loss, parts, weighted = meter.means()
            elapsed = time.monotonic() - mark
            state.seconds += elapsed
            _refuse_divergence(loss, state)
            scores = validator(state.network, state.average) if validator and at_interval else None
            best = at_interval and (scores is None or scores.mse < state.best)
            state.best = scores.mse if scores and best else state.best
            rate = (state.step - first) * config.batch_size / elapsed
            lr = learning_rate(state.step - 1, total, config)
            norms = None
            if config.log_gradients and at_interval:
                norms = _gradient_norms(state.network, objective, batch, parts, weighted)
            times = (lr, rate, state.seconds)
            hooks.report(
                TrainReport(state.step, total, loss, parts, weighted, norms, *times, scores)
            )
            hooks.save(best)
            if stop.is_set() and state.step < total:
                raise TrainingInterruptedError(f"stopped at step {state.step} of {total}")
            meter, mark, first, saved = _Meter(), time.monotonic(), state.step, time.monotonic()


@torch.no_grad()
def _gradient_norms(
    network: nn.Module,
    objective: Objective,
    batch: PatchBatch,
    parts: dict[str, float],
    weighted: dict[str, float],
) -> dict[str, float]:
    """Measure the gradients of the weighted losses in the prediction of one batch."""
    prediction = network(batch.input)
    norms = objective.gradient_norms(prediction, batch.target, batch.target_halves).tolist()
    return {
        name: norm * (weighted[name] / parts[name] if parts[name] else 0.0)
        for name, norm in zip(parts, norms, strict=True)
    }


def _refuse_divergence(loss: float, state: TrainState) -> None:
    """Stop before a state that has become useless is saved over a good one."""
    weights = torch.stack([p.detach().sum() for p in state.network.parameters()])
    if not (math.isfinite(loss) and bool(weights.isfinite().all())):
        raise TrainingDivergedError(
            f"loss or weights became infinite or NaN before step {state.step}; start a new run "
            "with a lower --learning-rate or --precision float32 (what was saved before is good)"
        )
