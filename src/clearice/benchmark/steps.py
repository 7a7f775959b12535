"""Training steps on a batch that stays on the device, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from clearice.config import TrainConfig
from clearice.losses import Objective
from clearice.networks import build_network, place
from clearice.train import TrainState, make_step
from clearice.train.distributed import ALONE, Ranks
from clearice.train.scaling import scale_output
from clearice.train.state import new_state
from clearice.types import PatchBatch

# Steps of a run that never ends, so that its schedule does nothing.
_ENDLESS = 10**6


def noise_batch(
    device: torch.device, size: int, batch_size: int, *, halves: bool = False
) -> PatchBatch:
    """Return a batch of noise; what it holds makes no difference to the time of a step.

    Args:
        device: Where.
        size: Edge of a patch, px.
        batch_size: Pairs.
        halves: Also give two independent targets.
    """
    shape = (4 if halves else 2, batch_size, 1, size, size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    both = torch.cat([images[2], images[3]], 1) if halves else None
    return PatchBatch(images[0], images[1], torch.ones(batch_size, device=device), both)


def wait_for(device: torch.device) -> None:
    """Return when a device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(step: Callable[[], object], device: torch.device) -> Callable[[int], float]:
    """Return what takes so many steps and tells how long one took, s."""

    def run(steps: int) -> float:
        wait_for(device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait_for(device)
        return (time.perf_counter() - start) / steps

    return run


def trainer(config: TrainConfig, batch: PatchBatch, ranks: Ranks = ALONE) -> Callable[[int], float]:
    """Return what takes steps of the program with fresh weights, and tells how long one took, s.

    Args:
        config: How to train.
        batch: What each step is taken with.
        ranks: Processes that take each step together.
    """
    device = batch.input.device
    state = fresh_state(config, device)
    state.ranks = ranks
    step = make_step(state, Objective(config.loss), config, _ENDLESS)
    return timed(lambda: step(batch), device)


def fresh_state(config: TrainConfig, device: torch.device) -> TrainState:
    """Return the state of a run of the program before its first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config.network, config.dropout)
    state = new_state(place(network, device).train(), config)
    scale_output(state.network, 1.0)
    return state
