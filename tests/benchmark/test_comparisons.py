"""Comparisons that scripts run: what is collected from them, and what is not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from clearice.config import TrainConfig


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """What runs comparisons and collects them."""
    return load_script("comparisons")


def test_only_cells_of_the_grid_are_collected(script: ModuleType, tmp_path: Path) -> None:
    grid = {"base": {"network": "cnn3", "steps": 5}, "grid": {"loss": ["mse", "l1"]}, "seeds": [0]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(grid))

    def write(name: str, **settings: Any) -> Path:
        config = TrainConfig.model_validate({"network": "cnn3", "steps": 5, **settings})
        path = tmp_path / "s" / "cells" / name / "scores.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"settings": config.model_dump(mode="json")}))
        return path

    kept = write("cnn3_mse-seed0", workers=3)
    write("cnn3_l1-seed0", loss="l1", steps=6)
    write("cnn3_huber-seed0", loss="huber")
    assert script.done_cells(tmp_path / "s") == [kept]


def test_failures_are_recorded_and_breakdowns_are_not_passed_over(
    script: ModuleType, tmp_path: Path
) -> None:
    began = time.time() - 5
    assert script.failures_of(tmp_path, 0, began, stopped=False) == []
    assert script.failures_of(tmp_path, 130, began, stopped=True) == []
    assert script.failures_of(tmp_path, -2, began, stopped=True) == []
    for code in (130, -2, 1, 2):
        with pytest.raises(SystemExit, match=f"ended with code {code}"):
            script.failures_of(tmp_path, code, began, stopped=False)
    (tmp_path / "results.json").write_text(json.dumps({"about": {"failures": ["a: broke"]}}))
    assert script.failures_of(tmp_path, 2, began, stopped=False) == ["a: broke"]
    with pytest.raises(SystemExit):  # those of an earlier call
        script.failures_of(tmp_path, 2, began + 60, stopped=False)
