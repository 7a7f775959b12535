"""A step launched kernel by kernel, and the same replayed as a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from clearice.config import TrainConfig
from clearice.errors import ConfigError
from clearice.losses import Objective
from clearice.networks import build_network, place
from clearice.train.state import TrainState, new_state
from clearice.train.step import EagerStep, GraphedStep, make_step
from clearice.types import PatchBatch
from helpers import CPU, train_config

TOTAL = 20


def _batches(device: torch.device, count: int) -> list[PatchBatch]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 4, 2, 1, 64, 64, generator=generator).to(device)
    halves = torch.randn(count, 2, 2, 64, 64, generator=generator).to(device)
    weight = torch.ones(2, device=device)
    return [PatchBatch(x[:2, 0], x[2:, 0], weight, h) for x, h in zip(images, halves, strict=True)]


def _state(config: TrainConfig, device: torch.device) -> TrainState:
    torch.manual_seed(0)
    network = build_network(config.network, config.dropout)
    return new_state(place(network, device).train(), config)


def _config(**overrides: object) -> TrainConfig:
    values = {"network": "unet-small", "dropout": 0.2, "learning_rate": 1e-3, **overrides}
    return train_config(**values)


def test_without_a_gpu_there_is_no_graph() -> None:
    config = _config()
    state = _state(config, CPU)
    assert isinstance(make_step(state, Objective(config.loss), config, TOTAL), EagerStep)


def test_a_step_changes_what_it_should_and_leaves_no_gradients() -> None:
    config = _config(loss="mse + 0->1 l1")
    state = _state(config, CPU)
    before = [p.detach().clone() for p in state.network.parameters()]
    step = make_step(state, Objective(config.loss), config, TOTAL)
    output = step(_batches(CPU, 1)[0])
    assert state.step == 1
    assert float(output.weighted["l1"]) == 0.0
    after = list(state.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(p.grad is None for p in after)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"loss": "mse + 0->1 frc(bins=8) + 0.1 complex"},
        {"loss": "mse + 0.5 frc(bins=8) + 0.1 power-debiased(bins=8)", "balance": True},
        {"precision": "bfloat16", "dropout": 0.0},
        {"network": "cnn3", "dropout": 0.0, "schedule": "cosine"},
    ],
)
def test_a_graph_takes_the_same_steps(overrides: dict[str, object]) -> None:
    device = torch.device("cuda")
    config = _config(**overrides)
    moves = []
    losses = []
    for graphed in (False, True):
        state = _state(config, device)
        start = {name: value.clone() for name, value in state.network.state_dict().items()}
        step = make_step(state, Objective(config.loss), config, TOTAL)
        assert isinstance(step, GraphedStep)
        take = (
            step
            if graphed
            else EagerStep(state, state.network, Objective(config.loss), config, TOTAL)
        )
        losses.append([float(take(batch).total.detach()) for batch in _batches(device, 12)])
        assert state.step == 12
        end = state.network.state_dict()
        moves.append(torch.cat([(end[name] - start[name]).flatten() for name in end]))
    half = config.precision == "bfloat16"
    assert losses[1] == pytest.approx(losses[0], rel=2e-2 if half else 1e-3)
    # The first steps of Adam are as long for gradients of nothing but rounding.
    difference = (moves[1] - moves[0]).norm() / moves[0].norm()
    assert float(difference) < (0.3 if half else 0.05)


@pytest.mark.gpu
def test_what_cannot_be_captured_is_one_clear_line() -> None:
    device = torch.device("cuda")
    config = _config(dropout=0.0)
    state = _state(config, device)
    original = state.network.forward

    def waits(x: torch.Tensor) -> torch.Tensor:
        float(x.sum())  # not allowed while capturing
        return original(x)

    state.network.forward = waits
    step = make_step(state, Objective(config.loss), config, TOTAL)
    batches = _batches(device, 4)
    for batch in batches[:3]:
        step(batch)
    with pytest.raises(ConfigError, match="train with --no-cuda-graph") as error:
        step(batches[3])
    assert "\n" not in str(error.value)
