"""Each benchmark runs and says against what its ratios stand; no times are asserted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import date

import pytest
import torch

from clearice import benchmark
from clearice.benchmark import timing
from clearice.benchmark.run import _NETWORKS
from helpers import CPU

_RATIOS = {
    "denoise": ("ratio_to_first", "network", set(_NETWORKS)),
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spend no time on good statistics."""

    def seconds(work: Callable[[], object], device: torch.device) -> float:
        return timing.seconds(work, device, budget_s=1e-3)

    monkeypatch.setattr(sys.modules["clearice.benchmark.run"], "seconds", seconds)


@pytest.mark.parametrize("what", _RATIOS)
def test_a_benchmark_tells_ratios_and_context(what: str) -> None:
    result = benchmark.run(what, CPU, 48, 2)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["benchmark"], result["size"], result["batch_size"]) == (what, 48, 2)
    ratio, kind, names = _RATIOS[what]
    rows = result["rows"]
    assert {row[kind] for row in rows} == names
    assert rows[0][ratio] == 1
    assert all(row[ratio] > 0 for row in rows)
    context = result["context"]
    assert context["device"].startswith("cpu")
    assert context["torch"] == torch.__version__
    assert {"python", "clearice"} <= set(context)
    assert date.fromisoformat(context["date"]) <= date.today()


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
