"""What changes while a network trains, and how it is saved and restored."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearice.checkpoint import TrainingSnapshot
from clearice.config import TrainConfig
from clearice.train.distributed import ALONE, Ranks
from clearice.train.guard import Guard
from clearice.train.recompute import recompute_activations
from clearice.train.schedules import Patience


@dataclass
class TrainState:
    """The one mutable record of a run.

    Attributes:
        network: The network being trained.
        optimizer: AdamW over its parameters.
        average: Exponential moving average of the network's state, which is what is used.
        step: Optimiser steps taken; with the seed it fixes every later sample.
        seconds: Time spent training, over all resumptions.
        best: Lowest cost of a validation so far.
        gradient_norms: Running norm of each loss's gradient, 0 before it was measured.
        guard: Leaves out steps that would do harm.
        plateau: Of the learning rate, until validation gets better.
        early: Of the whole run, until validation gets better.
        stopped: Whether that was lost, and the run is over.
        output_scale: Factor on the network's output; None until it is chosen.
        ranks: The processes that take each step together.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    gradient_norms: Tensor
    guard: Guard
    step: int = 0
    seconds: float = 0.0
    best: float = field(default=math.inf)
    plateau: Patience = field(default_factory=Patience)
    early: Patience = field(default_factory=Patience)
    stopped: bool = False
    output_scale: float | None = None
    ranks: Ranks = ALONE


def is_graphed(config: TrainConfig, device: torch.device) -> bool:
    """Tell whether the step is replayed as a CUDA graph."""
    # Random numbers that are drawn again need their state, which a graph does not hold.
    redraws = config.recompute_activations and config.dropout > 0
    return device.type == "cuda" and config.cuda_graph and not redraws


def new_state(network: nn.Module, config: TrainConfig) -> TrainState:
    """Return the state of a run before its first step."""
    device = next(network.parameters()).device
    if config.recompute_activations:
        recompute_activations(network, random=config.dropout > 0)
    graphed = is_graphed(config, device)
    # A graph reads the rate from the device.
    rate = torch.tensor(config.learning_rate, device=device) if graphed else config.learning_rate
    # Fused, it leaves out a step when the device says so, as nothing else in PyTorch does.
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=rate,
        weight_decay=config.weight_decay,
        capturable=graphed,
        fused=True,
    )
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    norms = torch.zeros(len(config.loss), device=device)
    guard = Guard(device, scaled=config.precision == "float16")
    optimizer.found_inf = guard.skip  # type: ignore[attr-defined]
    return TrainState(network, optimizer, average, norms, guard)


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
    averages, current = [], []
    for name, value in state.network.state_dict().items():
        if value.is_floating_point():
            averages.append(state.average[name])
            current.append(value)
        else:  # what counts, such as the batches that a normalisation has seen
            state.average[name].copy_(value)
    difference = torch._foreach_sub(current, averages)
    torch._foreach_mul_(difference, weight)
    torch._foreach_add_(averages, difference)


@torch.no_grad()
def update_norms(state: TrainState, norms: Tensor) -> None:
    """Move the running gradient norms a tenth towards new ones; the first ones are taken over."""
    before = state.gradient_norms
    moved = torch.where(before > 0, 0.9 * before + 0.1 * norms, norms)
    state.gradient_norms.copy_(torch.where(norms.isfinite(), moved, before))


def snapshot(state: TrainState) -> TrainingSnapshot:
    """Return everything needed to go on from here."""
    tensors = {f"raw.{name}": value for name, value in state.network.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            tensors[f"optimizer.{index}.{slot}"] = torch.as_tensor(value)
    tensors["gradient_norms"] = state.gradient_norms
    tensors |= {f"guard.{name}": value for name, value in state.guard.tensors().items()}
    progress = {
        "step": state.step,
        "seconds": state.seconds,
        "best": _or_none(state.best),
        "plateau": _patience(state.plateau),
        "early": _patience(state.early),
        "stopped": state.stopped,
        "output_scale": state.output_scale,
    }
    return TrainingSnapshot(tensors, progress)


def restore(state: TrainState, weights: dict[str, Tensor], saved: TrainingSnapshot) -> None:
    """Bring a fresh state to where a snapshot was taken."""
    state.gradient_norms.copy_(saved.tensors["gradient_norms"])
    state.guard.restore(_under("guard.", saved))
    state.network.load_state_dict(_under("raw.", saved))
    for name, value in weights.items():
        state.average[name].copy_(value)
    parameters = list(state.network.parameters())
    slots: dict[int, dict[str, Any]] = {}
    for name, value in _under("optimizer.", saved).items():
        index, slot = name.split(".")
        # The fused optimiser walks through memory: all it works on must lie there alike.
        like = torch.empty_like(parameters[int(index)]) if value.ndim else torch.zeros(())
        slots.setdefault(int(index), {})[slot] = like.copy_(value)
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    state.step = int(saved.progress["step"])
    state.seconds = float(saved.progress["seconds"])
    state.best = _or_infinity(saved.progress["best"])
    state.plateau = _restored(saved.progress["plateau"])
    state.early = _restored(saved.progress["early"])
    state.stopped = bool(saved.progress["stopped"])
    state.output_scale = saved.progress["output_scale"]


def _under(prefix: str, saved: TrainingSnapshot) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in saved.tensors.items() if n.startswith(prefix)}


def _patience(patience: Patience) -> dict[str, Any]:
    return {**asdict(patience), "best": _or_none(patience.best)}


def _restored(saved: dict[str, Any]) -> Patience:
    return Patience(_or_infinity(saved["best"]), int(saved["waited"]), int(saved["lost"]))


def _or_none(best: float) -> float | None:
    """JSON has no infinity."""
    return best if math.isfinite(best) else None


def _or_infinity(best: float | None) -> float:
    return math.inf if best is None else float(best)
