"""What a loss costs, plain, fused and in a step; no times are asserted."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from clearice import benchmark
from clearice.benchmark import losses, timing
from clearice.config import TrainConfig
from clearice.loss_spec import LossTerm
from clearice.losses import LOSSES
from clearice.losses.fused import is_fused
from clearice.networks import NETWORKS
from helpers import CPU


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    return timing.seconds(work, device, budget_s=1e-3)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spend no time on good statistics."""
    monkeypatch.setattr(losses, "seconds", _seconds)
    monkeypatch.setattr(losses, "_NETWORKS", ("cnn3",))
    monkeypatch.setattr(losses, "WARM_UP", 1)
    monkeypatch.setattr(losses, "_SECONDS_A_ROUND", 0.0)
    monkeypatch.setattr(losses, "_SECONDS_A_LOSS", 0.0)


def test_networks_are_the_default_one_and_the_smallest() -> None:
    assert TrainConfig().network == "unet"
    assert {"unet", "cnn3"} <= set(NETWORKS)


def test_every_loss_has_a_row_of_the_same_columns() -> None:
    result = benchmark.run("losses", CPU, 64, 2)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    rows = {row["loss"]: row for row in result["rows"]}
    names = {f"{name}(mse)" if info.wraps else name for name, info in LOSSES.items()}
    assert set(rows) == names | {"log-power + frc"}
    assert len({tuple(row) for row in result["rows"]}) == 1
    assert result["rows"][0]["loss"] == "mse"
    assert rows["mse"]["ratio_to_mse"] == 1

    refused = rows.pop("ms-ssim")
    assert "64×64" in refused["note"]
    assert refused["ratio_to_mse"] is refused["cnn3_percent"] is None
    for name, row in rows.items():
        assert row["note"] == ""
        assert row["plain_milliseconds"] > 0
        assert row["cnn3_mse_step_milliseconds"] > 0
        assert row["cnn3_precision"] == "float32"
        low, high = row["cnn3_percent_range"]
        assert low - 0.1 <= row["cnn3_percent"] <= high + 0.1
        fused = all(is_fused(LossTerm(part)) for part in name.split(" + "))
        assert (row["fused_milliseconds"] is not None) == fused
        taken = row["fused_milliseconds"] or row["plain_milliseconds"]
        ratio = taken / rows["mse"]["plain_milliseconds"]
        assert row["ratio_to_mse"] == pytest.approx(ratio, abs=0.006)
