"""General models: what they train on, how they are judged, and that runs go on to the last bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clearice import checkpoint
from clearice.config import TrainConfig
from clearice.errors import ConfigError, DatasetError, TrainingInterruptedError
from clearice.losses import Objective
from clearice.simulate import Complex, World, procedural_complex
from clearice.train import TrainReport, WorldPlan, run, run_general
from clearice.train.distributed import ALONE
from clearice.train.general import WorldLoader, WorldValidator, batch_of
from helpers import CPU, train_config, write_dataset

PLAN = WorldPlan(complexes=2, judged=2)


def general_config(**changed: Any) -> TrainConfig:
    """Return a run of a few small steps."""
    settings = {"network": "cnn3", "target": "clean", "steps": 4, "batch_size": 2}
    settings |= {"patch_size": 32, "validations": 2, "samples": 0}
    return TrainConfig.model_validate({**settings, **changed})


def test_four_steps_are_two_and_two(tmp_path: Path) -> None:
    config = general_config()

    def stop(report: TrainReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    run_general(tmp_path / "whole", config, CPU, PLAN)
    with pytest.raises(TrainingInterruptedError, match=r"clearice pretrain --out .* --resume"):
        run_general(tmp_path / "parts", config, CPU, PLAN, report=stop)
    run_general(tmp_path / "parts", config, CPU, PLAN, resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        one, other = load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_model_says_what_it_has_seen(tmp_path: Path) -> None:
    run_general(tmp_path, general_config(steps=1), CPU, PLAN)
    info = checkpoint.load_info(tmp_path)
    assert info.domain is not None
    assert info.domain.pixel_size_angstrom == (0.5, 3.0)
    assert info.domain.dose_e_per_A2 == (0.7, 80.0)
    assert info.dose_e_per_A2 is None


def test_another_world_is_not_gone_on_with(tmp_path: Path) -> None:
    run_general(tmp_path, general_config(steps=1), CPU, PLAN)
    other = WorldPlan(3, judged=2)
    with pytest.raises(DatasetError, match="is not the training world"):
        run_general(tmp_path, general_config(steps=1), CPU, other, resume=True)


def test_further_complexes_change_the_world() -> None:
    more = WorldPlan(2, more=(procedural_complex(5),))
    assert more.checksum(0) != WorldPlan(2).checksum(0)
    assert len(World(0, CPU, 2, more.more).particles.complexes) == 3
    flat = Complex(torch.randn(50, 3), True, "x")
    assert WorldPlan(2, more=(flat,)).checksum(0) != more.checksum(0)


@pytest.mark.parametrize(
    "changed", [{"target": "noisy"}, {"steps": None}, {"stages": [{"scale": 1}]}]
)
def test_settings_without_a_meaning_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="general model"):
        run_general(tmp_path, general_config(**changed), CPU, PLAN)


def test_ranks_share_the_batches_of_one_process() -> None:
    world = World(0, CPU, 2)
    whole = next(iter(WorldLoader(world, 4, 32, ALONE).batches(3, 4)))
    halves = [batch_of(world, 3 * 4 + 2 * rank, 2, 32) for rank in (0, 1)]
    assert torch.equal(whole.input, torch.cat([half.input for half in halves]))
    assert torch.equal(whole.target, torch.cat([half.target for half in halves]))


def test_faint_micrographs_count_for_more_but_not_without_end() -> None:
    batch = batch_of(World(0, CPU, 2), 0, 16, 32)
    power = batch.target.var((1, 2, 3))
    faint, strong = int(power.argmin()), int(power.argmax())
    assert float(batch.weight[faint]) >= float(batch.weight[strong])
    assert float(batch.weight.max()) <= 10.0 + 1e-4


class _Oracle(nn.Module):
    """Knows what is wanted, up to a factor."""

    def __init__(self, targets: list[Tensor]) -> None:
        super().__init__()
        self._targets = iter(targets)

    def forward(self, x: Tensor) -> Tensor:
        return 0.3 * next(self._targets)


def test_the_judge_gives_full_marks_for_the_truth_at_any_scale() -> None:
    judge = WorldValidator(PLAN, CPU, (2, 32), Objective({"mse": 1.0}, 1.0), ALONE)
    scores = judge(_Oracle([batch.target for batch, _, _ in judge._batches]), {})
    assert scores.correlation == pytest.approx(1.0, abs=1e-4)
    assert judge.cost(scores) == -(scores.snr_db or 0)
    assert scores.mse > 0


def test_training_goes_on_from_a_general_model(tmp_path: Path) -> None:
    run_general(tmp_path / "general", general_config(), CPU, PLAN)
    data = write_dataset(tmp_path / "set", groups=4).folder
    start = str(tmp_path / "general")
    tuned = train_config(network="cnn3", start=start, steps=1, learning_rate=1e-9, ema_decay=0.0)
    run(data, tmp_path / "tuned", tuned, CPU, calibrated=False)
    before, info = checkpoint.load_model(tmp_path / "general")
    after, tuned_info = checkpoint.load_model(tmp_path / "tuned")
    for (name, one), other in zip(
        before.state_dict().items(), after.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4, msg=name)
    assert tuned_info.output_gain == pytest.approx(info.output_gain)
    assert tuned_info.domain is None


def test_a_model_of_another_network_is_no_start(tmp_path: Path) -> None:
    run_general(tmp_path / "general", general_config(steps=1), CPU, PLAN)
    data = write_dataset(tmp_path / "set").folder
    config = train_config(network="cnn7", start=str(tmp_path / "general"))
    with pytest.raises(ConfigError, match="is a 'cnn3', and 'cnn7' was asked for"):
        run(data, tmp_path / "tuned", config, CPU)
