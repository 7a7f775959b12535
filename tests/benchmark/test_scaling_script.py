"""Training on several processes: how results are compared, and the script as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script."""
    return load_script("scaling")


def _row(name: str, processes: int, mse: float, correlation: float | None = 0.5) -> dict[str, Any]:
    scores = {"mse": mse, "correlation": correlation}
    return {"name": name, "processes": processes, "validation": scores}


def test_differences_by_processes_stand_beside_those_by_seed(script: ModuleType) -> None:
    rows = [
        _row("same-batch-1", 1, 1.0),
        _row("same-share-1", 1, 1.5),
        _row("same-batch-2", 2, 1.01),
        _row("seed-1", 2, 1.2, 0.4),
        _row("seed-2", 2, 0.9, None),
    ]
    found = script.summary(rows)
    assert found["range_over_processes_same_batch"] == {"mse": 0.01, "correlation": 0.0}
    assert found["range_over_processes_same_share"] == {"mse": 0.49, "correlation": 0.0}
    assert found["range_over_seeds"] == {"mse": 0.3, "correlation": 0.1}


def test_a_run_that_fails_ends_the_script(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="nowhere"):
        script.torchrun(1, "-m", "nowhere")


@pytest.mark.slow
def test_the_script_compares_one_and_two_processes(test_data: Path, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "scaling.py"
    options = f"--quick --device cpu --processes 1 2 --out {tmp_path}/out.json --work {tmp_path}"
    subprocess.run([sys.executable, path, *options.split()], check=True)
    result = json.loads((tmp_path / "out.json").read_text())
    assert [row["processes"] for row in result["network_only"]] == [1, 2]
    assert result["network_only"][0]["ratio"] == 1
    for row in result["network_only"]:
        rate = row["processes"] * 4e3 / row["step_milliseconds"]
        assert row["patches_per_second"] == pytest.approx(rate, rel=0.01)
    names = ["same-batch-1", "same-share-1", "same-batch-2", "seed-1", "seed-2"]
    assert [row["name"] for row in result["trainings"]] == names
    # Who shares the patches makes no difference but rounding.
    assert result["range_over_processes_same_batch"]["mse"] < 1e-4
    assert result["not_run"] == []
