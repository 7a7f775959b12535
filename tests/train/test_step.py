"""A step launched kernel by kernel, and the same replayed as a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from clearice.config import TrainConfig
from clearice.errors import ConfigError
from clearice.losses import Objective
from clearice.networks import build_network, place
from clearice.train.backward import backward
from clearice.train.guard import Guard
from clearice.train.state import TrainState, new_state
from clearice.train.step import EagerStep, GraphedStep, Step, make_step
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


def _gradients(config: TrainConfig, pieces: int, batch: PatchBatch) -> list[torch.Tensor]:
    state = _state(config, CPU)
    objective = Objective(config.loss)
    factors = torch.tensor([1.0, 0.5])
    output = backward(state.network, objective, batch, config, factors, None, pieces)
    assert not output.total.requires_grad
    values = [output.total, *output.parts.values(), *output.weighted.values()]
    gradients = [p.grad for p in state.network.parameters() if p.grad is not None]
    return [torch.stack(values), *gradients]


@pytest.mark.parametrize("pieces", [2, 3, 5, 9])
def test_a_batch_in_pieces_has_the_same_losses_and_gradient(pieces: int) -> None:
    config = _config(dropout=0.0, loss={"mse": 1.0, "frc(bins=8)": 0.5})
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(2, 5, 1, 32, 32, generator=generator)
    batch = PatchBatch(images[0], images[1], torch.rand(5, generator=generator))
    whole = _gradients(config, 1, batch)
    for one, other in zip(whole, _gradients(config, pieces, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class _Hungry(torch.nn.Module):
    """A network that finds no memory for more than so many images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.layer(x)


def _hungry_step(most: int, said: list[str]) -> tuple[TrainState, Step, PatchBatch]:
    config = _config(dropout=0.0)
    torch.manual_seed(0)
    state = new_state(_Hungry(most), config)
    images = torch.randn(2, 6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    step = make_step(state, Objective(config.loss), config, TOTAL, said.append)
    return state, step, PatchBatch(images[0], images[1], torch.ones(6))


def test_out_of_memory_leads_to_smaller_pieces_and_the_same_step() -> None:
    said: list[str] = []
    state, step, batch = _hungry_step(2, said)
    enough, easy_step, _ = _hungry_step(6, said)
    for _ in range(2):
        step(batch)
        easy_step(batch)
    assert [line.split(":")[0] for line in said] == ["out of memory"] * 2  # 6 → 3 → 2 patches
    assert "--accumulate 4" in said[-1]
    for name, value in state.network.state_dict().items():
        torch.testing.assert_close(value, enough.network.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_memory_for_not_even_one_patch_is_one_clear_line() -> None:
    _, step, batch = _hungry_step(0, [])
    with pytest.raises(ConfigError, match="smaller --patch-size") as error:
        step(batch)
    assert "\n" not in str(error.value)


def test_normalisations_do_not_count_a_step_that_is_left_out() -> None:
    config = _config(dropout=0.0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.BatchNorm2d(1))
    state = new_state(network, config)
    step = make_step(state, Objective(config.loss), config, TOTAL)
    good = _batches(CPU, 1)[0]
    step(good)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    averages = {name: value.clone() for name, value in state.average.items()}
    assert int(before["1.num_batches_tracked"]) == 1
    step(PatchBatch(good.input * float("nan"), good.target, good.weight))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(value, averages[name]) for name, value in state.average.items())
    assert int(state.guard.skipped) == 1


def test_the_scale_of_the_loss_grows_and_falls() -> None:
    guard = Guard(CPU, scaled=True)
    yes, no = torch.tensor(True), torch.tensor(False)
    for _ in range(1999):
        guard.judge(yes)
    assert float(guard.scale) == 2.0**16
    guard.judge(yes)
    assert float(guard.scale) == 2.0**17
    for _ in range(3):
        guard.judge(no)
    assert float(guard.scale) == 2.0**14
    assert [int(guard.skipped), int(guard.in_a_row), int(guard.longest)] == [3, 3, 3]
    guard.judge(yes)
    assert [int(guard.skipped), int(guard.in_a_row), int(guard.longest)] == [3, 0, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_bad_batch_is_left_out_on_a_gpu(precision: str, graph: bool) -> None:
    config = _config(dropout=0.0, precision=precision, cuda_graph=graph)
    state = _state(config, torch.device("cuda"))
    step = make_step(state, Objective(config.loss), config, TOTAL)
    batches = _batches(torch.device("cuda"), 8)
    for batch in batches[:6]:
        step(batch)
    skipped = int(state.guard.skipped)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    bad = batches[6]
    step(PatchBatch(bad.input * float("nan"), bad.target, bad.weight, bad.target_halves))
    after = state.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert int(state.guard.skipped) == skipped + 1
    step(batches[7])
    assert any(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"loss": "mse + 0->1 frc(bins=8) + 0.1 complex"},
        {"loss": "mse + 0.5 frc(bins=8) + 0.1 power-debiased(bins=8)", "balance": True},
        {"precision": "bfloat16", "dropout": 0.0},
        {"precision": "float16", "dropout": 0.0},
        {"accumulate": 2, "dropout": 0.0},
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
    half = config.precision != "float32"
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
