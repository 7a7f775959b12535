"""Each benchmark runs and says against what its ratios stand; no times are asserted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import date

import pytest
import torch

from clearice import benchmark
from clearice.benchmark import denoise, timing
from clearice.benchmark.denoise import seam_excess
from helpers import CPU


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spend no time on good statistics."""

    def seconds(work: Callable[[], object], device: torch.device) -> float:
        return timing.seconds(work, device, budget_s=1e-3)

    monkeypatch.setattr(sys.modules["clearice.benchmark.denoise"], "seconds", seconds)


def test_denoising_is_timed_by_network_tile_and_from_disk_to_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(denoise, "NETWORKS", ("cnn3",))
    monkeypatch.setattr(denoise, "_SEAM_TILES", (32, 256))
    result = benchmark.run("denoise", CPU, 80, 2)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["benchmark"], result["size"], result["batch_size"]) == ("denoise", 80, 2)
    rows = result["rows"]
    networks = [row for row in rows if "network" in row]
    assert {row["network"] for row in networks} == {"cnn3", "unet"}
    assert networks[0]["ratio_to_first"] == 1
    assert all(row["ratio_to_first"] > 0 for row in networks)
    assert [row["tile"] for row in rows if "tile" in row] == ["by memory", "whole"]
    ends = {row["from_disk_to_disk"]: row for row in rows if "from_disk_to_disk" in row}
    assert list(ends) == ["serial", "read", "disk", "network", "pipeline"]
    assert ends["serial"]["ratio_to_serial"] == 1
    slower = min(ends["disk"]["percent_of_slower"], ends["network"]["percent_of_slower"])
    assert slower == pytest.approx(100, abs=0.2)
    seams = [row for row in rows if "seams_of_tile" in row]
    assert [row["seams_of_tile"] for row in seams] == [32]
    assert all(abs(row["excess_percent"]) < 0.1 for row in seams)
    context = result["context"]
    assert context["device"].startswith("cpu")
    assert context["torch"] == torch.__version__
    assert {"python", "clearice"} <= set(context)
    assert date.fromisoformat(context["date"]) <= date.today()


def test_a_seam_is_measured(generator: torch.Generator) -> None:
    whole = torch.randn(96, 128, generator=generator)
    assert seam_excess(whole.clone(), whole, 32) == 0
    tiled = whole.clone()
    tiled[32:64] += 1.0  # two of the five boundaries, where steps have a variance of 2, get 1 more
    expected = (1 + (2 * 128 * 1) / (2 * (2 * 128 + 3 * 96))) ** 0.5 - 1
    assert seam_excess(tiled, whole, 32) == pytest.approx(expected, rel=0.3)


def test_the_loader_is_compared_with_a_plain_one_and_with_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clearice.benchmark.loader._ROUNDS", 1)
    monkeypatch.setattr("clearice.benchmark.loader._SECONDS_A_ROUND", 0.0)
    rows = benchmark.run("loader", CPU, 48, 2)["rows"]
    rates = [row for row in rows if "pairs_per_second" in row]
    assert [(row["groups"], row["loader"]) for row in rates] == [
        (groups, name) for groups in (2, 8) for name in ("plain DataLoader", "stream", "ram")
    ]
    for row in rates:
        assert row["bytes_read_per_pair"] == row["groups"] * 48 * 48 * 2
        read = row["pairs_per_second"] * row["bytes_read_per_pair"] / 1e9
        assert row["gigabytes_per_second"] == pytest.approx(read, rel=0.05, abs=1e-3)
    assert all(row["ratio_to_plain"] == 1 for row in rates if row["loader"] == "plain DataLoader")
    costs = [row for row in rows if "percent_of_step" in row]
    assert [(row["groups"], row["loader"]) for row in costs] == [
        (groups, name) for groups in (2, 8) for name in ("stream", "ram")
    ]
    assert all(row["step_milliseconds"] > 0 for row in costs)


def test_the_median_is_of_warm_calls() -> None:
    calls: list[int] = []
    taken = timing.seconds(lambda: calls.append(1), CPU, budget_s=1e-9)
    assert 0 <= taken < 1
    # Five to warm up, and never fewer than three to take the median of.
    assert len(calls) == 8
