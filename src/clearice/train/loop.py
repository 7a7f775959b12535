"""The training loop: validate, report, save, and stop when asked."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from clearice.config import TrainConfig
from clearice.errors import ConfigError, TrainingDivergedError, TrainingInterruptedError
from clearice.losses import Objective, balancing_scales, weight_at
from clearice.seeds import derive_seed
from clearice.train.masking import masked
from clearice.train.schedules import learning_rate
from clearice.train.stages import Stage, walk
from clearice.train.state import TrainState
from clearice.train.step import gradient_norms, make_step
from clearice.train.validate import Validation
from clearice.types import LossOutput, PatchBatch

# SLURM sends the last one ahead of a time limit, if asked to; Windows has none.
_STOP_SIGNALS = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if name in signal.Signals.__members__
]
_SAME_REQUEST_SECONDS = 1.0


@dataclass(frozen=True)
class TrainReport:
    """What happened since the last report.

    Attributes:
        step: Optimiser steps taken.
        total: Steps of the whole run.
        loss: Mean weighted loss, of the steps in which it was finite.
        parts: Mean of each loss without its weight.
        weighted: Mean of each loss as it counts in the sum.
        gradient_norms: Norm of the gradient of each weighted loss in the prediction, of the last
            step, when they are asked for.
        learning_rate: At this step.
        patches_per_second: Training pairs per second.
        seconds: Time spent training.
        validation: Scores on held-out micrographs, when they were taken.
        skipped: Steps left out, since their gradient was not finite.
        device_memory_bytes: Most that was reserved on the GPU so far, if there is one.
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
    skipped: int = 0
    device_memory_bytes: int | None = None


class Judge(Protocol):
    """Scores a network on what it does not train on."""

    def __call__(self, network: nn.Module, weights: dict[str, Tensor], /) -> Validation: ...

    def cost(self, scores: Validation, /) -> float:
        """Return what is the lower the better."""
        ...


@dataclass(frozen=True)
class FitHooks:
    """What the loop calls: `report` at each interval, `save(is_best)` when state must survive,
    `settle` to be sure that it has, and `tick(done, total)` after each step, which must cost
    nothing.
    """

    report: Callable[[TrainReport], None]
    save: Callable[[bool], None]
    settle: Callable[[], None]
    tick: Callable[[int, int], None]


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into a request that the loop sees between steps.

    The same signal within a second is the same request: launchers pass on what they get, and the
    terminal has sent it to all processes already. A later one ends the program at once.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in _STOP_SIGNALS}
    asked: dict[int, float] = {}

    def request(number: int, frame: object) -> None:
        stop.set()
        if time.monotonic() - asked.setdefault(number, time.monotonic()) > _SAME_REQUEST_SECONDS:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_Means = tuple[float, dict[str, float], dict[str, float]]


class _Meter:
    """Sums losses on the device, so that the loop waits for it only when it reports."""

    def __init__(self, state: TrainState) -> None:
        self._sums: Tensor | None = None
        self._names: list[str] = []
        self._start = time.monotonic()
        self._first_step = state.step
        self._state = state

    def add(self, output: LossOutput) -> None:
        self._names = list(output.parts)
        one = torch.ones_like(output.total)
        values = [one, output.total.detach(), *output.parts.values(), *output.weighted.values()]
        stacked = torch.where(output.total.detach().isfinite(), torch.stack(values), 0.0)
        self._sums = stacked if self._sums is None else self._sums + stacked

    def seconds(self) -> float:
        """Return the time since the first step."""
        return time.monotonic() - self._start

    def steps(self) -> int:
        """Return how many steps there were."""
        return self._state.step - self._first_step

    def means(self) -> _Means | None:
        """Return the total, the parts, and the weighted parts, of all ranks; None without any."""
        assert self._sums is not None
        count, *sums = self._state.ranks.sum(self._sums).tolist()
        if count == 0:
            return None
        total, *rest = (value / count for value in sums)
        half = len(self._names)
        parts, weighted = rest[:half], rest[half:]
        return (
            total,
            dict(zip(self._names, parts, strict=True)),
            dict(zip(self._names, weighted, strict=True)),
        )


def fit(
    state: TrainState,
    stages: Sequence[Stage],
    validator: Judge | None,
    config: TrainConfig,
    total: int,
    hooks: FitHooks,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Train until `total` steps are done, or validation no longer gets better.

    Args:
        state: Changed in place; starts anywhere.
        stages: Training pairs and the loss, one after the other.
        validator: Scores on held-out micrographs, if there are any.
        config: How to train.
        total: Steps of the whole run.
        hooks: Reports and saves.
        say: Called with one line for each thing that the user should know.

    Raises:
        ConfigError: The configuration waits for validations that there are not.
        TrainingDivergedError: Too many gradients in a row, or the weights, are not finite.
        TrainingInterruptedError: Ctrl-C or SIGTERM, after the state was saved.
    """
    _check_validation(validator, config)
    interval = max(1, total // config.validations)
    meter, skipped = _Meter(state), int(state.guard.skipped)
    with _stop_requests() as stop:
        for objective, batch, output in _steps(state, stages, config, total, say):
            meter.add(output)
            hooks.tick(state.step, total)
            at_interval = state.step % interval == 0 or state.step == total
            due = meter.seconds() > config.checkpoint_seconds
            stopping, due = state.ranks.agree(stop=stop.is_set(), save=due)
            if not (at_interval or due or stopping):
                continue
            means, elapsed = meter.means(), meter.seconds()
            state.seconds += elapsed
            _refuse_divergence(state, config, total)
            best = False
            if means is not None:  # else there is nothing to tell, and nothing has changed
                scores, norms = None, None
                rate = learning_rate(state.step - 1, total, config, state.plateau.lost)
                if at_interval:
                    scores = validator(state.network, state.average) if validator else None
                    best = _judge(state, scores, validator, config)
                    norms = _gradient_norms(state, objective, batch, config, total)
                before, skipped = skipped, int(state.guard.skipped)
                times = (rate, meter.steps() * config.batch_size / elapsed, state.seconds)
                hooks.report(
                    TrainReport(state.step, total, *means, norms, *times, scores, skipped - before)
                )
            hooks.save(best)
            # Alone, a request that came with the report needs nobody's consent.
            alone = state.ranks.place.size == 1
            _obey(state, total, hooks, stopping or (alone and stop.is_set()))
            meter = _Meter(state)
    if state.stopped:
        say(f"stopped at step {state.step} of {total}: {_NO_BETTER}")


def _obey(state: TrainState, total: int, hooks: FitHooks, stopping: bool) -> None:
    """End the training on request, once its state is saved."""
    if stopping and state.step < total and not state.stopped:
        hooks.settle()
        state.ranks.wait()  # launchers end all others once one has left: not amid a save
        raise TrainingInterruptedError(f"stopped at step {state.step} of {total}")


def _steps(
    state: TrainState,
    stages: Sequence[Stage],
    config: TrainConfig,
    total: int,
    say: Callable[[str], None],
) -> Iterator[tuple[Objective, PatchBatch, LossOutput]]:
    """Take all steps that are left; each stage has its own, since another loss is another graph."""
    for stage, batches in walk(stages, total if state.stopped else state.step):
        if stage.span.scale > 1:
            say(f"at 1/{stage.span.scale} of the resolution until step {stage.span.last}")
        step = make_step(state, stage.objective, config, total, say)
        for drawn in batches:
            batch = _blinded(drawn, state, config)
            yield stage.objective, batch, step(batch)
            if state.stopped:
                return
        del step  # and its graph, before there is another


def _blinded(batch: PatchBatch, state: TrainState, config: TrainConfig) -> PatchBatch:
    """Mask what the network is asked for, if it is asked for single pixels."""
    if config.target != "masked":
        return batch
    # From (seed, step) and the number of each pair, as the pairs themselves.
    first = state.ranks.place.rank * len(batch.input)
    return masked(batch, derive_seed(config.seed, "mask", state.step), first)


_NO_BETTER = "the score on held-out micrographs has not become better for long (stop_after)"


def _check_validation(validator: Judge | None, config: TrainConfig) -> None:
    if validator is None and (config.schedule == "plateau" or config.stop_after is not None):
        wish = "stop_after" if config.stop_after is not None else "schedule plateau"
        raise ConfigError(
            f"{wish} needs validation micrographs; prepare the data set with --validation-fraction"
        )


def _judge(
    state: TrainState, scores: Validation | None, validator: Judge | None, config: TrainConfig
) -> bool:
    """Draw the consequences of a validation, and tell whether it is the best so far."""
    if scores is None or validator is None:
        return True
    if config.schedule == "plateau":
        state.plateau.heed(scores.mse, config.plateau_patience)
    if config.stop_after is not None:
        state.stopped = state.early.heed(validator.cost(scores), config.stop_after - 1)
    cost = validator.cost(scores) if config.best_by == "correlation" else scores.mse
    best = cost < state.best
    state.best = min(cost, state.best)
    return best


def _gradient_norms(
    state: TrainState, objective: Objective, batch: PatchBatch, config: TrainConfig, total: int
) -> dict[str, float] | None:
    """Measure the gradients of the losses, as they counted in the last step, if asked to."""
    if not config.log_gradients:
        return None
    norms = state.ranks.norm_of_mean(gradient_norms(state, objective, batch, config))
    if config.balance:
        norms = norms * balancing_scales(state.gradient_norms)
    progress = (state.step - 1) / total
    return {
        name: norm * weight_at(weight, progress)
        for (name, weight), norm in zip(objective.weights.items(), norms.tolist(), strict=True)
    }


def _refuse_divergence(state: TrainState, config: TrainConfig, total: int) -> None:
    """Stop before a state that has become useless is saved over a good one."""
    advice = (
        "start a new run with a lower --learning-rate or --precision float32 (what was saved "
        "before is good)"
    )
    longest = int(state.guard.longest)
    if longest >= min(config.most_skipped, total):
        raise TrainingDivergedError(
            f"gradients were infinite or NaN in {longest} steps in a row before step "
            f"{state.step}; {advice}"
        )
    weights = torch.stack([p.detach().sum() for p in state.network.parameters()])
    if not bool(weights.isfinite().all()):
        raise TrainingDivergedError(
            f"weights became infinite or NaN before step {state.step}; {advice}"
        )
