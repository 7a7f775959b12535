"""The training loop: `fit` loops, `step` is the maths and fits one screen."""

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
from clearice.seeds import derive_seed
from clearice.train.state import TrainState, learning_rate, update_average
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
        learning_rate: At this step.
        patches_per_second: Training pairs per second.
        seconds: Time spent training.
        validation: Scores on held-out micrographs, when they were taken.
    """

    step: int
    total: int
    loss: float
    parts: dict[str, float]
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


def step(
    state: TrainState,
    network: nn.Module,
    objective: Objective,
    batch: PatchBatch,
    config: TrainConfig,
    total: int,
) -> LossOutput:
    """Take one optimiser step.

    Args:
        state: Changed in place.
        network: `state.network`, or what torch.compile made of it.
        objective: The loss.
        batch: Inputs and targets, on the device.
        config: Precision, schedule, clipping, averaging.
        total: Steps of the whole run.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, total, config)
    if config.dropout > 0:
        # Drawn from (seed, step) like the samples, so that a resumed run drops the same channels.
        torch.manual_seed(derive_seed(config.seed, "dropout", state.step))
    half = config.precision == "bfloat16"
    with torch.autocast(batch.input.device.type, torch.bfloat16, enabled=half):
        prediction = network(batch.input)
    output = objective(prediction, batch.target, batch.weight)
    output.total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.network.parameters(), config.gradient_clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    update_average(state, config.ema_decay)
    return output


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
        self._total: Tensor | None = None
        self._parts: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, output: LossOutput) -> None:
        total = output.total.detach()
        self._total = total if self._total is None else self._total + total
        for name, part in output.parts.items():
            self._parts[name] = self._parts.get(name, torch.zeros_like(part)) + part
        self._steps += 1

    def means(self) -> tuple[float, dict[str, float]]:
        assert self._total is not None
        parts = {name: float(value) / self._steps for name, value in self._parts.items()}
        return float(self._total) / self._steps, parts


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
    network = torch.compile(state.network) if config.compile else state.network
    interval = max(1, total // config.validations)
    meter, mark, first, saved = _Meter(), time.monotonic(), state.step, time.monotonic()
    with _stop_requests() as stop:
        for batch in loader.batches(state.step, total):
            output = step(state, network, objective, batch, config, total)  # type: ignore[arg-type]
            meter.add(output)
            hooks.tick(state.step, total)
            at_interval = state.step % interval == 0 or state.step == total
            due = time.monotonic() - saved > config.checkpoint_seconds
            if not (at_interval or due or stop.is_set()):
                continue
            loss, parts = meter.means()
            elapsed = time.monotonic() - mark
            state.seconds += elapsed
            _refuse_divergence(loss, state)
            scores = validator(state.network, state.average) if validator and at_interval else None
            best = at_interval and (scores is None or scores.mse < state.best)
            state.best = scores.mse if scores and best else state.best
            rate = (state.step - first) * config.batch_size / elapsed
            lr = learning_rate(state.step - 1, total, config)
            hooks.report(
                TrainReport(state.step, total, loss, parts, lr, rate, state.seconds, scores)
            )
            hooks.save(best)
            if stop.is_set() and state.step < total:
                raise TrainingInterruptedError(f"stopped at step {state.step} of {total}")
            meter, mark, first, saved = _Meter(), time.monotonic(), state.step, time.monotonic()


def _refuse_divergence(loss: float, state: TrainState) -> None:
    """Stop before a state that has become useless is saved over a good one."""
    weights = torch.stack([p.detach().sum() for p in state.network.parameters()])
    if not (math.isfinite(loss) and bool(weights.isfinite().all())):
        raise TrainingDivergedError(
            f"loss or weights became infinite or NaN before step {state.step}; start a new run "
            "with a lower --learning-rate or --precision float32 (what was saved before is good)"
        )
