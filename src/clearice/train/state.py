"""What changes while a network trains, and how it is saved and restored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearice.checkpoint import TrainingSnapshot
from clearice.config import TrainConfig


@dataclass
class TrainState:
    """The one mutable record of a run.

    Attributes:
        network: The network being trained.
        optimizer: AdamW over its parameters.
        average: Exponential moving average of the network's state, which is what is used.
        step: Optimiser steps taken; with the seed it fixes every later sample.
        seconds: Time spent training, over all resumptions.
        best: Lowest validation error so far.
        gradient_norms: Running norm of each loss's gradient, 0 before it was measured.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    gradient_norms: Tensor
    step: int = 0
    seconds: float = 0.0
    best: float = field(default=math.inf)


def new_state(network: nn.Module, config: TrainConfig) -> TrainState:
    """Return the state of a run before its first step."""
    device = next(network.parameters()).device
    graphed = device.type == "cuda" and config.cuda_graph and not config.compile
    # A graph reads the rate from the device.
    rate = torch.tensor(config.learning_rate, device=device) if graphed else config.learning_rate
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=rate, weight_decay=config.weight_decay, capturable=graphed
    )
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    norms = torch.zeros(len(config.loss), device=device)
    return TrainState(network, optimizer, average, norms)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then constant or half a cosine to 0."""
    warmup = max(1, round(config.warmup_fraction * total))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all parameters, in place where the optimiser keeps it on the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def average_weight(step: int, decay: float) -> float:
    """Return the share by which averages move after so many steps; early ones count for more."""
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(state: TrainState, weight: Float[Tensor, ""]) -> None:
    """Move the averaged weights towards the current ones by a share that the device holds."""
    current = state.network.state_dict()
    averages = [state.average[name] for name in current]
    difference = torch._foreach_sub(list(current.values()), averages)
    torch._foreach_mul_(difference, weight)
    torch._foreach_add_(averages, difference)


@torch.no_grad()
def update_norms(state: TrainState, norms: Tensor) -> None:
    """Move the running gradient norms a tenth towards new ones; the first ones are taken over."""
    known = state.gradient_norms > 0
    state.gradient_norms.copy_(torch.where(known, 0.9 * state.gradient_norms + 0.1 * norms, norms))


def snapshot(state: TrainState) -> TrainingSnapshot:
    """Return everything needed to go on from here."""
    tensors = {f"raw.{name}": value for name, value in state.network.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            tensors[f"optimizer.{index}.{slot}"] = torch.as_tensor(value)
    tensors["gradient_norms"] = state.gradient_norms
    progress = {
        "step": state.step,
        "seconds": state.seconds,
        "best": state.best if math.isfinite(state.best) else None,
    }
    return TrainingSnapshot(tensors, progress)


def restore(state: TrainState, weights: dict[str, Tensor], saved: TrainingSnapshot) -> None:
    """Bring a fresh state to where a snapshot was taken."""
    state.gradient_norms.copy_(saved.tensors["gradient_norms"])
    raw = {n.removeprefix("raw."): v for n, v in saved.tensors.items() if n.startswith("raw.")}
    state.network.load_state_dict(raw)
    for name, value in weights.items():
        state.average[name].copy_(value)
    slots: dict[int, dict[str, Any]] = {}
    for name, value in saved.tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    state.step = int(saved.progress["step"])
    state.seconds = float(saved.progress["seconds"])
    best = saved.progress["best"]
    state.best = math.inf if best is None else float(best)
