"""One optimiser step: the maths in `compute`, called directly or replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearice.config import TrainConfig
from clearice.errors import ConfigError
from clearice.losses import Objective, balancing_scales, weight_at
from clearice.networks import inputs_of
from clearice.seeds import derive_seed
from clearice.train.backward import Memory, autocast, backward
from clearice.train.masking import counted, masked_share
from clearice.train.schedules import learning_rate
from clearice.train.state import (
    TrainState,
    average_weight,
    is_graphed,
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
    memory: Memory,
) -> LossOutput:
    """Do all of a step that runs on the device: no value of it is waited for."""
    factors = knobs.factors
    if config.balance:
        factors = factors * balancing_scales(state.gradient_norms)
    statistics = [(buffer, buffer.clone()) for buffer in state.network.buffers()]
    scale = state.guard.scale if state.guard.scaled else None
    output = memory.fit(
        state.network,
        len(batch.input),
        lambda pieces: backward(network, objective, batch, config, factors, scale, pieces),
    )
    state.ranks.average_gradients(state.network)
    _clip_gradients(state, config.gradient_clip)
    state.optimizer.step()  # unless the guard says no
    state.optimizer.zero_grad(set_to_none=True)
    _undo(statistics, state.guard.skip)
    update_average(state, knobs.average * (1 - state.guard.skip))
    return output


@torch.no_grad()
def _clip_gradients(state: TrainState, largest: float) -> None:
    """Bring gradients to scale 1 and at most a length, and let the guard judge them."""
    gradients = [p.grad for p in state.network.parameters() if p.grad is not None]
    scale = state.guard.scale.clone()
    norm = nn.utils.get_total_norm(gradients) / scale
    state.guard.judge(norm.isfinite())
    torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0) / scale)


@torch.no_grad()
def _undo(statistics: list[tuple[Tensor, Tensor]], skip: Float[Tensor, ""]) -> None:
    """Put back what normalisations counted in a step that is left out."""
    for buffer, before in statistics:
        buffer.copy_(torch.where(skip > 0, before, buffer))


@torch.no_grad()
def gradient_norms(
    state: TrainState, objective: Objective, batch: PatchBatch, config: TrainConfig
) -> Float[Tensor, "terms"]:
    """Measure the gradient of each loss in the prediction, without its weight.

    Nothing is dropped, so that looking changes no random number that training draws.
    """
    state.network.eval()
    with autocast(batch.input.device, config):
        inputs = inputs_of(state.network, batch.input, batch.dose)
        prediction = counted(state.network(*inputs), batch)
    state.network.train()
    norms = objective.gradient_norms(prediction, batch.target, batch.target_halves)
    # The mean of a loss is over the pixels that count.
    return norms if batch.mask is None else norms / masked_share(*batch.mask.shape[-2:])


@final
class EagerStep:
    """Sets what depends on the step's number, then computes.

    Args:
        state: Changed in place.
        network: `state.network`, or what torch.compile made of it.
        objective: The loss.
        config: Precision, schedule, clipping, averaging.
        total: Steps of the whole run.
        memory: In how many pieces a batch fits.
    """

    def __init__(
        self,
        state: TrainState,
        network: nn.Module,
        objective: Objective,
        config: TrainConfig,
        total: int,
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory or Memory(config.accumulate)
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
        rate = learning_rate(state.step, self._total, config, state.plateau.lost)
        set_learning_rate(state.optimizer, rate)
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
            # Each rank drops for its own share of the batch.
            rank = (state.ranks.place.rank,) if state.ranks.place.rank else ()
            torch.manual_seed(derive_seed(config.seed, "dropout", state.step, *rank))

    def compute(self, batch: PatchBatch) -> LossOutput:
        """Do what runs on the device."""
        return compute(
            self._state,
            self._network,
            self._objective,
            batch,
            self._config,
            self._knobs,
            self._memory,
        )

    def _measure_gradients(self, batch: PatchBatch) -> None:
        norms = gradient_norms(self._state, self._objective, batch, self._config)
        update_norms(self._state, self._state.ranks.norm_of_mean(norms))


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
            fields = vars(batch).items()
            self._batch = replace(batch, **{k: v.clone() for k, v in fields if v is not None})
            return self._batch
        for held, new in zip(vars(self._batch).values(), vars(batch).values(), strict=True):
            if held is not None:
                held.copy_(new)
        return self._batch

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
            # Other threads may use the GPU meanwhile: one may be making the next batch.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                output = self._eager.compute(batch)
        except torch.OutOfMemoryError:
            raise ConfigError(
                "the training step does not fit into the GPU's memory as a CUDA graph; train with "
                "--no-cuda-graph, or in smaller pieces with --accumulate"
            ) from None
        except RuntimeError as error:
            # Random numbers cannot be drawn after that, so there is no going on without a graph.
            reason = " ".join(str(error).split())[:120]
            raise ConfigError(
                f"the training step cannot be captured as a CUDA graph ({reason}); "
                "train with --no-cuda-graph"
            ) from None
        return graph, output


def make_step(
    state: TrainState,
    objective: Objective,
    config: TrainConfig,
    total: int,
    say: Callable[[str], None] = lambda message: None,
) -> EagerStep | GraphedStep:
    """Return the fastest step for a configuration and device.

    Args:
        state: Changed in place by each step.
        objective: The loss.
        config: How to train.
        total: Steps of the whole run.
        say: Called with one line if a batch needs more memory than there is.
    """
    network = torch.compile(state.network) if config.compile else state.network
    memory = Memory(config.accumulate, say)
    eager = EagerStep(state, network, objective, config, total, memory)  # type: ignore[arg-type]
    if is_graphed(config, state.gradient_norms.device):
        return GraphedStep(eager, state)
    return eager
