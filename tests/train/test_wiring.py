"""Everything that a step is told reaches it, and looking at it changes nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clearice.errors import ConfigError, TrainingInterruptedError
from clearice.losses import Objective
from clearice.networks import build_network
from clearice.train import TrainReport, make_step, read_metrics, run
from clearice.train.state import average_weight, new_state
from clearice.train.step import _clip_gradients
from clearice.types import PatchBatch
from helpers import CPU, train_config, write_dataset

RAMP = {"initial": 0.0, "final": 1.0, "start": 0.1, "end": 0.9}
SETTINGS: dict[str, Any] = {
    "network": "unet-small",
    "dropout": 0.3,
    "loss": {"mse": 1.0, "frc(bins=8)": RAMP, "l1": 0.5},
    "balance": True,
    "steps": 24,
    "validations": 12,
    "batch_size": 2,
}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set of two halves."""
    return write_dataset(tmp_path / "set", micrographs=3).folder


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last.safetensors")


def test_a_run_stopped_where_gradients_are_measured_ends_as_the_whole_one(
    dataset: Path, tmp_path: Path
) -> None:
    run(dataset, tmp_path / "whole", train_config(**SETTINGS), CPU)

    def stop(report: TrainReport) -> None:
        if report.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterruptedError):
        run(dataset, tmp_path / "cut", train_config(**SETTINGS), CPU, report=stop)
    torch.rand(5)  # whatever else the process drew
    run(dataset, tmp_path / "cut", train_config(**SETTINGS), CPU, resume=True)
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []


def test_looking_at_gradients_changes_nothing(dataset: Path, tmp_path: Path) -> None:
    short = {**SETTINGS, "steps": 6, "validations": 3}
    run(dataset, tmp_path / "blind", train_config(**short), CPU)
    run(dataset, tmp_path / "seeing", train_config(**short, log_gradients=True), CPU)
    blind, seeing = _weights(tmp_path / "blind"), _weights(tmp_path / "seeing")
    assert [name for name in blind if not torch.equal(blind[name], seeing[name])] == []
    records = read_metrics(tmp_path / "seeing" / "metrics.jsonl")
    # The weight of the last step of each report, ((step − 1)/6 − 0.1)/0.8, on balanced gradients.
    for record in records:
        weight = min(1.0, max(0.0, ((record["step"] - 1) / 6 - 0.1) / 0.8))
        found = record["gradient_norms"]["frc(bins=8)"] / record["gradient_norms"]["mse"]
        assert found == pytest.approx(weight, rel=0.6, abs=1e-6)


def test_a_run_goes_on_with_its_losses_in_their_order(dataset: Path, tmp_path: Path) -> None:
    config = train_config(loss={"mse": 1.0, "l1": 0.5}, balance=True, steps=2)
    run(dataset, tmp_path / "run", config, CPU)
    other = train_config(loss={"l1": 0.5, "mse": 1.0}, balance=True, steps=2)
    with pytest.raises(ConfigError, match="loss was"):
        run(dataset, tmp_path / "run", other, CPU, resume=True)


def test_a_resolution_is_that_of_the_data_set(dataset: Path, tmp_path: Path) -> None:
    # 1.5 Å/px: 6 Å is a quarter of a cycle a pixel.
    for name, loss in (("angstrom", "frc(bins=8, resolution=6)"), ("px", "frc(bins=8, high=0.25)")):
        config = train_config(loss={"mse": 1.0, loss: 1.0}, steps=1, validations=1)
        run(dataset, tmp_path / name, config, CPU)
    (one,), (other,) = (read_metrics(tmp_path / n / "metrics.jsonl") for n in ("angstrom", "px"))
    values = [list(record["parts"].values()) for record in (one, other)]
    assert values[0] == values[1]


def _batch(weight: tuple[float, float]) -> PatchBatch:
    images = torch.randn(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return PatchBatch(images[0], images[1], torch.tensor(weight))


def test_errors_count_by_the_weight_of_their_pair() -> None:
    config = train_config(steps=1)
    objective = Objective(config.loss)

    def loss(weight: tuple[float, float]) -> float:
        torch.manual_seed(0)
        state = new_state(build_network("cnn3"), config)
        return float(make_step(state, objective, config, 1)(_batch(weight)).total)

    assert loss((2.0, 0.0)) + loss((0.0, 2.0)) == pytest.approx(2 * loss((1.0, 1.0)), rel=1e-5)
    assert loss((2.0, 0.0)) != pytest.approx(loss((0.0, 2.0)), rel=1e-3)


def test_the_average_moves_by_the_share_of_its_step() -> None:
    config = train_config(ema_decay=0.9, steps=3)
    torch.manual_seed(0)
    state = new_state(build_network("cnn3"), config)
    step = make_step(state, Objective(config.loss), config, 3)
    expected = {name: value.clone() for name, value in state.average.items()}
    for taken in (1, 2, 3):
        step(_batch((1.0, 1.0)))
        for name, value in state.network.state_dict().items():
            expected[name] += average_weight(taken, 0.9) * (value - expected[name])
    for name, value in state.average.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)


def test_gradients_are_no_longer_than_asked() -> None:
    config = train_config()
    state = new_state(build_network("cnn3"), config)
    for scale, length in ((100.0, 0.5), (1e-4, None)):
        for parameter in state.network.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        before = torch.cat(
            [p.grad.flatten() for p in state.network.parameters() if p.grad is not None]
        )
        _clip_gradients(state, 0.5)
        after = torch.cat(
            [p.grad.flatten() for p in state.network.parameters() if p.grad is not None]
        )
        expected = float(before.norm()) if length is None else length
        assert float(after.norm()) == pytest.approx(expected, rel=1e-4)
