"""Steps of the program against plain ones: what is told of them; no times are asserted."""

from __future__ import annotations

import json
import time

import pytest
import torch

from clearice import benchmark
from clearice.benchmark import steps, train
from clearice.benchmark.train import Peaks, plain_trainer, roofline
from clearice.config import TrainConfig
from clearice.networks import NETWORKS, build_network
from helpers import CPU


def test_each_network_has_a_row_with_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(train._NETWORKS) <= set(NETWORKS)
    assert TrainConfig().network in train._NETWORKS
    monkeypatch.setattr(train, "_NETWORKS", ("cnn3", "unet-small"))
    monkeypatch.setattr(train, "_ROUNDS", 2)
    monkeypatch.setattr(train, "_SECONDS_A_ROUND", 0.0)
    monkeypatch.setattr(train, "measure_peaks", lambda device, precision: Peaks(2e12, 3e10))
    result = benchmark.run("train", CPU, 48, 2)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    *rows, peaks = result["rows"]
    assert [row["network"] for row in rows] == ["cnn3", "unet-small"]
    assert len({tuple(row) for row in rows}) == 1
    assert (peaks["teraflops"], peaks["gigabytes_per_second"]) == (2.0, 30.0)
    for row in rows:
        assert row["precision"] == "float32"
        assert row["peak_gib"] is row["plain_peak_gib"] is None
        rate = 2e3 / row["milliseconds"]
        assert row["patches_per_second"] == pytest.approx(rate, rel=1e-2)
        low, high = row["ratio_range"]
        assert low <= row["ratio_to_plain"] <= high


def test_the_roofline_of_three_convolutions() -> None:
    # 3×3 kernels, 1 → 16 → 16 → 1 channels, two operations a weight, three passes.
    size, batch_size = 32, 5
    pixels = batch_size * size**2
    flops = 3 * pixels * 2 * 9 * (16 + 16 * 16 + 16)
    moved = 2 * pixels * 2 * (1 + 16 + 16 + 16 + 16 + 1)  # in bfloat16
    row = roofline(build_network("cnn3"), size, batch_size, "bfloat16", 1e-3, Peaks(1e12, 1e9))
    assert row["gigaflops_per_step"] == round(flops / 1e9, 2)
    assert row["gigabytes_per_step"] == round(moved / 1e9, 3)
    assert row["percent_of_peak_flops"] == round(100 * flops / 1e12 / 1e-3, 1)
    assert row["percent_of_peak_bytes"] == round(100 * moved / 1e9 / 1e-3, 1)
    assert row["roofline_milliseconds"] == round(1e3 * moved / 1e9, 3)
    assert row["bound_by"] == "bytes"


def test_peaks_are_measured() -> None:
    peaks = train.measure_peaks(CPU, "float32")
    assert peaks.flops > 1e8
    assert peaks.bytes > 1e7


@pytest.mark.parametrize("before", [(True, False), (False, True)])
def test_tf32_is_put_back(before: tuple[bool, bool]) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    kept = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32, matmul.allow_tf32 = before
        with pytest.raises(RuntimeError), train._strict_float32():
            assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
            raise RuntimeError
        assert (cudnn.allow_tf32, matmul.allow_tf32) == before
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = kept


def test_plain_steps_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def remember(name: str) -> torch.nn.Module:
        built.append(build_network(name))
        return built[-1]

    monkeypatch.setattr(train, "build_network", remember)
    batch = steps.noise_batch(CPU, 32, 2)
    take = plain_trainer("cnn3", batch)

    def error() -> float:
        with torch.no_grad():
            return float((built[0](batch.input) - batch.target).square().mean())

    before = error()
    assert take(20) > 0
    assert error() < before


def test_a_batch_of_noise_has_what_was_asked_for() -> None:
    batch = steps.noise_batch(CPU, 16, 3, halves=True)
    assert batch.input.shape == batch.target.shape == (3, 1, 16, 16)
    assert batch.target_halves is not None
    assert batch.target_halves.shape == (3, 2, 16, 16)
    halves = batch.target_halves.unbind(1)
    images = torch.stack([batch.input[:, 0], batch.target[:, 0], *halves]).flatten(1)
    assert (torch.corrcoef(images) - torch.eye(4)).abs().max() < 5 / images.shape[1] ** 0.5
    assert steps.noise_batch(CPU, 16, 3).target_halves is None


def test_so_many_steps_are_taken_and_their_mean_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    clock = iter([10.0, 16.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert steps.timed(lambda: taken.append(1), CPU)(4) == 1.5
    assert len(taken) == 4
