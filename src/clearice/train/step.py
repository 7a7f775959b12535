"""One optimiser step: the maths in `compute`, called directly or replayed as a CUDA graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearice.config import TrainConfig
from clearice.errors import ConfigError
from clearice.losses import Objective, balancing_scales, weight_at
from clearice.seeds import derive_seed
from clearice.train.state import (
    TrainState,
    average_weight,
    learning_rate,
    set_learning_rate,
    update_average,
    update_norms,
)
from clearice.types import LossOutput, PatchBatch

# Steps between two looks at the gradients of the losses that are balanced.
_BALANCE_EVERY = 20
# Steps before a graph is captured: libraries choose kernels and reserve memory in the first ones.
_WARM_UP = 3


class Step(Protocol):
    """Takes one optimiser step with a batch."""

    def __call__(self, batch: PatchBatch, /) -> LossOutput: ...


@dataclass(frozen=True)
class Knobs:
    """What changes from step to step beside the batch, held on the device.

    Attributes:
        factors: Weight of each loss.
        average: Share by which the averaged weights move towards the current ones.
    """

    factors: Float[Tensor, "terms"]
    average: Float[Tensor, ""]


def compute(
    state: TrainState,
    network: nn.Module,
    objective: Objective,
    batch: PatchBatch,
    config: TrainConfig,
    knobs: Knobs,
) -> LossOutput:
    """Do all of a step that runs on the device: no value of it is waited for."""
    half = config.precision == "bfloat16"
    with torch.autocast(batch.input.device.type, torch.bfloat16, enabled=half):
        prediction = network(batch.input)
    factors = knobs.factors
    if config.balance:
        factors = factors * balancing_scales(state.gradient_norms)
    output = objective(
        prediction, batch.target, batch.weight, halves=batch.target_halves, factors=factors
    )
    output.total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.network.parameters(), config.gradient_clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    update_average(state, knobs.average)
    return output


@final
class EagerStep:
    """Sets what depends on the step's number, then computes.

    Args:
        state: Changed in place.
        network: `state.network`, or what torch.compile made of it.
        objective: The loss.
        config: Precision, schedule, clipping, averaging.
        total: Steps of the whole run.
    """

    def __init__(
        self,
        state: TrainState,
        network: nn.Module,
        objective: Objective,
        config: TrainConfig,
        total: int,
    ) -> None:
        self._state = state
        self._network = network
        self._objective = objective
        self._config = config
        self._total = total
        device = state.gradient_norms.device
        self._weights = [-1.0] * len(objective.weights)
        factors = torch.zeros(len(objective.weights), device=device)
        self._knobs = Knobs(factors, torch.zeros((), device=device))

    def __call__(self, batch: PatchBatch) -> LossOutput:
        """Take one step."""
        self.prepare(batch)
        output = self.compute(batch)
        self._state.step += 1
        return output

    def prepare(self, batch: PatchBatch) -> None:
        """Set what depends on the step's number."""
        state, config = self._state, self._config
        set_learning_rate(state.optimizer, learning_rate(state.step, self._total, config))
        self._knobs.average.fill_(average_weight(state.step + 1, config.ema_decay))
        progress = state.step / self._total
        for index, weight in enumerate(self._objective.weights.values()):
            if (now := weight_at(weight, progress)) != self._weights[index]:
                self._knobs.factors[index].fill_(now)
                self._weights[index] = now
        if config.balance and state.step % _BALANCE_EVERY == 0:
            self._measure_gradients(batch)
        if config.dropout > 0:
            # Drawn from (seed, step) like the samples, so that a resumed run drops the same.
            torch.manual_seed(derive_seed(config.seed, "dropout", state.step))

    def compute(self, batch: PatchBatch) -> LossOutput:
        """Do what runs on the device."""
        return compute(
            self._state, self._network, self._objective, batch, self._config, self._knobs
        )

    @torch.no_grad()
    def _measure_gradients(self, batch: PatchBatch) -> None:
        prediction = self._network(batch.input)
        norms = self._objective.gradient_norms(prediction, batch.target, batch.target_halves)
        update_norms(self._state, norms)


@final
class GraphedStep:
    """The same step, captured once as a CUDA graph and replayed: launching it costs nothing.

    Small networks and patches are bound by how fast a processor launches kernels, some hundred a
    step. The numbers are those of `EagerStep`. A graph reads the tables of frequencies and rings
    where they were when it was captured: their caches keep them.

    Source: https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs

    Args:
        eager: The step to capture.
        state: Its state.
    """

    def __init__(self, eager: EagerStep, state: TrainState) -> None:
        self._eager = eager
        self._state = state
        self._stream = torch.cuda.Stream(state.gradient_norms.device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: PatchBatch | None = None
        self._output: LossOutput | None = None
        self._taken = 0

    def __call__(self, batch: PatchBatch) -> LossOutput:
        """Take one step.

        Raises:
            ConfigError: The step cannot be captured.
        """
        static = self._hold(batch)
        self._eager.prepare(static)
        if self._taken < _WARM_UP:
            output = self._warm_up(static)
        else:
            if self._graph is None:
                self._graph, self._output = self._capture(static)
            assert self._output is not None
            self._graph.replay()
            output = self._output
        self._taken += 1
        self._state.step += 1
        return output

    def _hold(self, batch: PatchBatch) -> PatchBatch:
        """Copy a batch to where the graph reads it."""
        if self._batch is None:
            halves = batch.target_halves
            self._batch = PatchBatch(
                batch.input.clone(),
                batch.target.clone(),
                batch.weight.clone(),
                None if halves is None else halves.clone(),
            )
            return self._batch
        held = self._batch
        held.input.copy_(batch.input)
        held.target.copy_(batch.target)
        held.weight.copy_(batch.weight)
        if held.target_halves is not None and batch.target_halves is not None:
            held.target_halves.copy_(batch.target_halves)
        return held

    def _warm_up(self, batch: PatchBatch) -> LossOutput:
        """Take a step on a side stream, as what will be captured must have been."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            output = self._eager.compute(batch)
        current.wait_stream(self._stream)
        return output

    def _capture(self, batch: PatchBatch) -> tuple[torch.cuda.CUDAGraph, LossOutput]:
        """Record the step without taking it."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                output = self._eager.compute(batch)
        except RuntimeError as error:
            # Random numbers cannot be drawn after that, so there is no going on without a graph.
            reason = " ".join(str(error).split())[:120]
            raise ConfigError(
                f"the training step cannot be captured as a CUDA graph ({reason}); "
                "train with --no-cuda-graph"
            ) from None
        return graph, output


def make_step(
    state: TrainState, objective: Objective, config: TrainConfig, total: int
) -> EagerStep | GraphedStep:
    """Return the fastest step for a configuration and device.

    Args:
        state: Changed in place by each step.
        objective: The loss.
        config: How to train.
        total: Steps of the whole run.
    """
    network = torch.compile(state.network) if config.compile else state.network
    eager = EagerStep(state, network, objective, config, total)  # type: ignore[arg-type]
    if state.gradient_norms.is_cuda and config.cuda_graph and not config.compile:
        return GraphedStep(eager, state)
    return eager
